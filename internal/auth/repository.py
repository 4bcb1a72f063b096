"""SQL for accounts and their passwords."""

import asyncpg

from internal.auth.model import Account, Register
from internal.db.postgres import Conn
from internal.utils.snowflake import Snowflake


async def insert(conn: Conn, account: Account, body: Register) -> None:
    """Make an account. Its name and address are kept in lower case."""
    await conn.execute(
        """
        INSERT INTO users (id, username, global_name, email, password_hash)
        VALUES ($1, $2, $3, $4, $5)
        """,
        account.id,
        body.username.lower(),
        body.global_name,
        body.email.lower(),
        account.password_hash,
    )


async def find_by_email(conn: Conn, email: str) -> Account | None:
    row = await conn.fetchrow(
        """
        SELECT id, password_hash
          FROM users
         WHERE email = $1
        """,
        email,
    )
    return _account(row)


async def find_by_username(conn: Conn, username: str) -> Account | None:
    row = await conn.fetchrow(
        """
        SELECT id, password_hash
          FROM users
         WHERE username = $1
        """,
        username,
    )
    return _account(row)


async def lock(conn: Conn, user_id: Snowflake) -> str | None:
    """Lock an account against every other change and login; its password's hash."""
    password_hash: str | None = await conn.fetchval(
        """
        SELECT password_hash
          FROM users
         WHERE id = $1
           FOR NO KEY UPDATE
        """,
        user_id,
    )
    return password_hash


async def update_password(conn: Conn, account: Account) -> None:
    await conn.execute(
        """
        UPDATE users
           SET password_hash = $2
         WHERE id = $1
        """,
        account.id,
        account.password_hash,
    )


def _account(row: asyncpg.Record | None) -> Account | None:
    return Account(Snowflake(row["id"]), row["password_hash"]) if row else None
