"""SQL for the places of channels and for the targets of their overwrites."""

from collections.abc import Sequence

from internal.db.postgres import Conn
from internal.guild.model import GuildChannel
from internal.utils.snowflake import Snowflake


async def roles_among(
    conn: Conn, guild_id: Snowflake, target_ids: Sequence[Snowflake]
) -> set[Snowflake]:
    """Which of these are roles of the guild."""
    rows = await conn.fetch(
        "SELECT id FROM roles WHERE guild_id = $1 AND id = ANY ($2::bigint[])",
        guild_id,
        target_ids,
    )
    return {Snowflake(row["id"]) for row in rows}


async def count_in_category(conn: Conn, category_id: Snowflake) -> int:
    count: int = await conn.fetchval(
        "SELECT count(*) FROM channels WHERE parent_id = $1", category_id
    )
    return count


async def move(conn: Conn, channels: Sequence[GuildChannel]) -> None:
    """Store where channels are."""
    await conn.execute(
        """
        UPDATE channels AS c
           SET position = p.position, parent_id = p.parent_id
          FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS p (id, position, parent_id)
         WHERE c.id = p.id
        """,
        [channel.id for channel in channels],
        [channel.position for channel in channels],
        [channel.parent_id for channel in channels],
    )
