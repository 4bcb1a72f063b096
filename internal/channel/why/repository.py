"""SQL for the names of those whose rules decide."""

from collections.abc import Sequence

from internal.db.postgres import Conn
from internal.utils.snowflake import Snowflake


async def names_of(
    conn: Conn, guild_id: Snowflake | None, ids: Sequence[int]
) -> dict[Snowflake, str]:
    """What roles of a guild, its channels, and accounts are called."""
    rows = await conn.fetch(
        """
        SELECT id, name FROM roles WHERE guild_id = $1 AND id = ANY ($2::bigint[])
        UNION ALL
        SELECT id, name FROM channels WHERE guild_id = $1 AND id = ANY ($2::bigint[])
        UNION ALL
        SELECT id, username FROM users WHERE id = ANY ($2::bigint[])
        """,
        guild_id,
        ids,
    )
    return {Snowflake(row["id"]): row["name"] for row in rows}
