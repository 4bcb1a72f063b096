"""Databases for tests: copies of one that was migrated once, emptied and lent again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from internal.db.embedded import embedded_postgres
from internal.db.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]

# Nothing that weakens a commit: small buffers start faster, and no test fills them.
SETTINGS = {"shared_buffers": "32MB", "max_connections": "200", "max_wal_size": "512MB"}

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Copy(NamedTuple):
    """A database to be lent, with a connection that empties it in between."""

    name: str
    conn: Connection


class Databases:
    """One PostgreSQL server, and how to get an empty database from it.

    A copy takes 80 to 140 ms and emptying one 5 ms, so copies are lent again and again.
    """

    def __init__(self, admin: Connection, admin_dsn: str, template: str, app_dsn: str) -> None:
        self._admin = admin
        self._admin_dsn = admin_dsn
        self._template = template
        self._app_dsn = app_dsn
        self._free: list[Copy] = []
        self._tables: list[str] = []
        # What migrations put into tables, to be put back.
        self._seeds: dict[str, bytes] = {}

    @asynccontextmanager
    async def lend(self, *, again: bool = True) -> AsyncIterator[str]:
        """A migrated, empty database, by the DSN of the server's role.

        Without `again` nobody gets it after this: for a test that changes the schema.
        """
        copy = self._free.pop() if self._free else await self._make()
        try:
            yield named(self._app_dsn, copy.name)
        finally:
            if again:
                await self._empty(copy)
                self._free.append(copy)
            else:
                await copy.conn.close()
                await self._admin.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')

    async def close(self) -> None:
        for copy in self._free:
            await copy.conn.close()
            await self._admin.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')

    async def _make(self) -> Copy:
        name = f"parley_{uuid4().hex}"
        # The owner of the template, as only that one may make and drop partitions.
        owner = await self._admin.fetchval(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1", self._template
        )
        await self._admin.execute(
            f'CREATE DATABASE "{name}" TEMPLATE "{self._template}" OWNER "{owner}"'
        )
        copy = Copy(name, await asyncpg.connect(named(self._admin_dsn, name)))
        if not self._tables:
            await self._learn(copy.conn)
        return copy

    async def _learn(self, conn: Connection) -> None:
        """Which tables there are, and what stands in them from the start."""
        rows = await conn.fetch(
            """
            SELECT relname
              FROM pg_class
             WHERE relnamespace = 'public'::regnamespace
               AND relkind IN ('r', 'p')
               AND NOT relispartition
            """
        )
        self._tables = [row["relname"] for row in rows]
        for table in self._tables:
            if await conn.fetchval(f'SELECT EXISTS (SELECT FROM "{table}")'):  # noqa: S608  # Ours.
                seed = BytesIO()
                await conn.copy_from_table(table, output=seed, format="binary")
                self._seeds[table] = seed.getvalue()

    async def _empty(self, copy: Copy) -> None:
        await copy.conn.execute(
            """
            SELECT pg_terminate_backend(pid, 5000)
              FROM pg_stat_activity
             WHERE datname = current_database()
               AND pid <> pg_backend_pid()
            """
        )
        async with copy.conn.transaction():
            if await copy.conn.fetchval("SELECT current_setting('is_superuser')::boolean"):
                # All of it goes: nothing has to be cascaded row by row, or be kept append-only.
                await copy.conn.execute("SET LOCAL session_replication_role = replica")
            else:
                await copy.conn.execute("TRUNCATE audit_log")
            # One statement: references are checked at its end, in whatever order it deletes.
            deletes = (
                f'd{n} AS (DELETE FROM "{table}")'  # noqa: S608  # Names from the catalogue.
                for n, table in enumerate(self._tables)
            )
            await copy.conn.execute(f"WITH {', '.join(deletes)} SELECT")
            for table, seed in self._seeds.items():
                await copy.conn.copy_to_table(table, source=BytesIO(seed), format="binary")


@asynccontextmanager
async def open_databases(data_dir: Path, outside_dsn: str | None) -> AsyncIterator[Databases]:
    """An embedded server below `data_dir`, or the one that `outside_dsn` names.

    The role of `outside_dsn` must be one that may create databases.
    """
    if outside_dsn:
        async with _lending(outside_dsn, outside_dsn, f"parley_{uuid4().hex}") as databases:
            yield databases
        return
    async with embedded_postgres(data_dir, settings=SETTINGS) as server:
        await migrate(server.owner_dsn, ROOT / "migrations")
        admin_dsn = named(server.superuser_dsn, "postgres")
        async with _lending(admin_dsn, server.app_dsn, "parley") as databases:
            yield databases


@asynccontextmanager
async def _lending(admin_dsn: str, app_dsn: str, template: str) -> AsyncIterator[Databases]:
    """Copies of `template`, which is made here if it is not there yet."""
    admin = await asyncpg.connect(admin_dsn)
    try:
        has_template = await admin.fetchval(
            "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", template
        )
        if not has_template:
            await admin.execute(f'CREATE DATABASE "{template}"')
            await migrate(named(admin_dsn, template), ROOT / "migrations")
        databases = Databases(admin, admin_dsn, template, app_dsn)
        try:
            yield databases
        finally:
            await databases.close()
            if not has_template:
                await admin.execute(f'DROP DATABASE "{template}" WITH (FORCE)')
    finally:
        await admin.close()


def named(dsn: str, database: str) -> str:
    """The same server and role, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))
