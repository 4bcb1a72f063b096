"""SQL for profiles."""

import asyncpg

from internal.db.postgres import Conn
from internal.eventlog.freshness import AsOf
from internal.user.model import InstanceRole, OwnUser, User
from internal.utils.snowflake import Snowflake


async def find_as_of(conn: Conn, user_id: Snowflake) -> tuple[User, AsOf] | None:
    """What anyone may see of a user, and the head of the log at that moment."""
    row = await conn.fetchrow(
        """
        SELECT u.id, u.username, u.global_name, h.pos, h.epoch
          FROM users AS u
         CROSS JOIN log_head AS h
         WHERE u.id = $1
        """,
        user_id,
    )
    if row is None:
        return None
    user = User(id=Snowflake(row["id"]), username=row["username"], global_name=row["global_name"])
    return user, AsOf(row["pos"], row["epoch"])


async def find_own(conn: Conn, user_id: Snowflake) -> OwnUser | None:
    row = await conn.fetchrow(
        """
        SELECT id, username, global_name, bio, email, instance_role
          FROM users
         WHERE id = $1
        """,
        user_id,
    )
    return _own(row) if row else None


async def find_password_hash(conn: Conn, user_id: Snowflake) -> str | None:
    password_hash: str | None = await conn.fetchval(
        """
        SELECT password_hash
          FROM users
         WHERE id = $1
        """,
        user_id,
    )
    return password_hash


async def lock(conn: Conn, user_id: Snowflake) -> str | None:
    """Lock an account against every other change of it; its password's hash.

    References to it, as new messages make them, do not wait.
    """
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


async def update(conn: Conn, user: OwnUser) -> None:
    await conn.execute(
        """
        UPDATE users
           SET username = $2, global_name = $3, bio = $4, email = $5
         WHERE id = $1
        """,
        user.id,
        user.username,
        user.global_name,
        user.bio,
        user.email,
    )


def _own(row: asyncpg.Record) -> OwnUser:
    return OwnUser(
        id=Snowflake(row["id"]),
        username=row["username"],
        global_name=row["global_name"],
        bio=row["bio"],
        email=row["email"],
        instance_role=InstanceRole(row["instance_role"]).wire,
    )
