"""The roles of the embedded PostgreSQL: who owns the schema, and who may only use it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

SUPERUSER: Final = "postgres"
OWNER: Final = "parley_owner"
APP: Final = "parley_app"
DATABASE: Final = "parley"

ROLE_SETTINGS: Final = {
    APP: {
        "statement_timeout": "30s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        # The server answers for its errors itself; their texts quote what people wrote.
        "log_min_messages": "log",
    },
    OWNER: {"log_min_messages": "log"},
}


async def define_roles(
    conn: "asyncpg.Connection[asyncpg.Record]", *, passwords: Mapping[str, str]
) -> None:
    """Make our roles and our database, or make them right again. For the superuser."""
    async with conn.transaction():
        for role, password in passwords.items():
            await _define_role(conn, role, password)
    if not await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
        await conn.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")


async def define_database(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Let the app use, and only use, what the owner makes. For the superuser, in our database."""
    await conn.execute(
        f"""
        REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {DATABASE} TO {APP};
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
        GRANT USAGE ON SCHEMA public TO {APP};
        ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public
            GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP};
        ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public
            GRANT USAGE, SELECT ON SEQUENCES TO {APP};
        ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public
            GRANT EXECUTE ON FUNCTIONS TO {APP};
        """
    )


async def _define_role(
    conn: "asyncpg.Connection[asyncpg.Record]", role: str, password: str
) -> None:
    if not await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
        await conn.execute(f"CREATE ROLE {role}")
    # Definitions take no parameters, so the server itself quotes them.
    definition = await conn.fetchval(
        """
        SELECT format(
            'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS '
            'PASSWORD %L',
            $1::text, $2::text
        )
        """,
        role,
        password,
    )
    await conn.execute(definition)
    for name, value in ROLE_SETTINGS[role].items():
        await conn.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
