"""Databases for tests: clones of one that was migrated once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from internal.db.embedded import embedded_postgres
from internal.db.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]

# Nothing that weakens a commit: small buffers start faster, and no test fills them.
SETTINGS = {"shared_buffers": "32MB", "max_connections": "200", "max_wal_size": "512MB"}

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Databases:
    """One PostgreSQL server, and how to get another fresh database from it."""

    def __init__(self, admin: Connection, template: str, app_dsn: str) -> None:
        self._admin = admin
        self._template = template
        self._app_dsn = app_dsn

    @asynccontextmanager
    async def clone(self) -> AsyncIterator[str]:
        """A migrated, empty database, by the DSN of the server's role."""
        name = f"parley_{uuid4().hex}"
        # 80 ms with either strategy, and the default one makes no checkpoint that others feel.
        owner = await self._admin.fetchval(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1", self._template
        )
        await self._admin.execute(
            f'CREATE DATABASE "{name}" TEMPLATE "{self._template}" OWNER "{owner}"'
        )
        try:
            yield named(self._app_dsn, name)
        finally:
            await self._admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@asynccontextmanager
async def open_databases(data_dir: Path, outside_dsn: str | None) -> AsyncIterator[Databases]:
    """An embedded server below `data_dir`, or the one that `outside_dsn` names.

    The role of `outside_dsn` must be one that may create databases.
    """
    if outside_dsn:
        async with _template(outside_dsn) as (admin, template):
            await migrate(named(outside_dsn, template), ROOT / "migrations")
            yield Databases(admin, template, outside_dsn)
        return
    async with embedded_postgres(data_dir, settings=SETTINGS) as server:
        await migrate(server.owner_dsn, ROOT / "migrations")
        admin = await asyncpg.connect(named(server.superuser_dsn, "postgres"))
        try:
            yield Databases(admin, "parley", server.app_dsn)
        finally:
            await admin.close()


@asynccontextmanager
async def _template(dsn: str) -> AsyncIterator[tuple[Connection, str]]:
    """A database of our own on somebody's server."""
    admin = await asyncpg.connect(dsn)
    name = f"parley_template_{uuid4().hex}"
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
        yield admin, name
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


def named(dsn: str, database: str) -> str:
    """The same server and role, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))
