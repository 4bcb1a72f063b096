"""SQL for groups and the people in them."""

from collections.abc import Sequence

from internal.db.postgres import Conn
from internal.utils.snowflake import Snowflake


async def insert(
    conn: Conn, channel_id: Snowflake, owner_id: Snowflake, user_ids: Sequence[Snowflake]
) -> None:
    """Make a group of these people. Needs `lock_users` of all."""
    await conn.execute(
        "INSERT INTO channels (id, type, owner_id) VALUES ($1, 3, $2)", channel_id, owner_id
    )
    await conn.execute(
        """
        INSERT INTO channel_recipients (channel_id, user_id)
        SELECT $1, unnest($2::bigint[])
        """,
        channel_id,
        user_ids,
    )


async def add(conn: Conn, channel_id: Snowflake, user_id: Snowflake) -> None:
    """Add somebody who is not there. Needs the group's lock."""
    await conn.execute(
        "INSERT INTO channel_recipients (channel_id, user_id) VALUES ($1, $2)", channel_id, user_id
    )


async def remove(conn: Conn, channel_id: Snowflake, user_id: Snowflake) -> None:
    await conn.execute(
        "DELETE FROM channel_recipients WHERE channel_id = $1 AND user_id = $2",
        channel_id,
        user_id,
    )


async def rename(conn: Conn, channel_id: Snowflake, name: str | None) -> None:
    await conn.execute("UPDATE channels SET name = $2 WHERE id = $1", channel_id, name)


async def hand_over(conn: Conn, channel_id: Snowflake, owner_id: Snowflake) -> None:
    await conn.execute("UPDATE channels SET owner_id = $2 WHERE id = $1", channel_id, owner_id)
