"""SQL for bans."""

from collections.abc import Sequence

import asyncpg

from internal.db.postgres import Conn
from internal.guild.ban.model import Ban
from internal.user.model import User
from internal.utils.snowflake import Snowflake


async def insert(conn: Conn, guild_id: Snowflake, user_id: Snowflake, reason: str | None) -> bool:
    """Ban somebody; False if that is so already. Needs the guild's lock."""
    status: str = await conn.execute(
        """
        INSERT INTO bans (guild_id, user_id, reason)
        VALUES ($1, $2, $3)
        ON CONFLICT (guild_id, user_id) DO NOTHING
        """,
        guild_id,
        user_id,
        reason,
    )
    return status.endswith(" 1")


async def find(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> Ban | None:
    row = await conn.fetchrow(
        """
        SELECT b.reason, u.id, u.username, u.global_name
          FROM bans AS b
          JOIN users AS u ON u.id = b.user_id
         WHERE b.guild_id = $1 AND b.user_id = $2
        """,
        guild_id,
        user_id,
    )
    return None if row is None else _ban(row)


async def page_after(conn: Conn, guild_id: Snowflake, after: Snowflake, limit: int) -> list[Ban]:
    """The next bans of a guild, in the order of the banned. Uses bans_pkey."""
    rows = await conn.fetch(
        """
        SELECT b.reason, u.id, u.username, u.global_name
          FROM bans AS b
          JOIN users AS u ON u.id = b.user_id
         WHERE b.guild_id = $1 AND b.user_id > $2
         ORDER BY b.user_id
         LIMIT $3
        """,
        guild_id,
        after,
        limit,
    )
    return [_ban(row) for row in rows]


async def page_before(conn: Conn, guild_id: Snowflake, before: Snowflake, limit: int) -> list[Ban]:
    """The bans next below `before`, in the same order."""
    rows = await conn.fetch(
        """
        SELECT b.reason, u.id, u.username, u.global_name
          FROM bans AS b
          JOIN users AS u ON u.id = b.user_id
         WHERE b.guild_id = $1 AND b.user_id < $2
         ORDER BY b.user_id DESC
         LIMIT $3
        """,
        guild_id,
        before,
        limit,
    )
    return [_ban(row) for row in reversed(rows)]


async def delete(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> None:
    await conn.execute("DELETE FROM bans WHERE guild_id = $1 AND user_id = $2", guild_id, user_id)


async def accounts(conn: Conn, user_ids: Sequence[Snowflake]) -> dict[Snowflake, User]:
    """Those of these accounts that there are."""
    rows = await conn.fetch(
        "SELECT id, username, global_name FROM users WHERE id = ANY($1::bigint[])", user_ids
    )
    return {user.id: user for user in map(_user, rows)}


def _user(row: asyncpg.Record) -> User:
    return User(id=Snowflake(row["id"]), username=row["username"], global_name=row["global_name"])


def _ban(row: asyncpg.Record) -> Ban:
    return Ban(user=_user(row), reason=row["reason"])
