"""SQL for roles."""

from collections.abc import Mapping

from internal.db.postgres import Conn
from internal.guild.model import Role
from internal.utils.snowflake import Snowflake


async def insert(conn: Conn, guild_id: Snowflake, role: Role) -> None:
    await conn.execute(
        """
        INSERT INTO roles (
               id, guild_id, name, permissions, position, color, hoist, mentionable, unicode_emoji
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        role.id,
        guild_id,
        role.name,
        int(role.permissions),
        role.position,
        role.color,
        role.hoist,
        role.mentionable,
        role.unicode_emoji,
    )


async def count_members(conn: Conn, guild_id: Snowflake) -> dict[Snowflake, int]:
    """How many members have each role of a guild, but @everyone. Reads all of the members."""
    rows = await conn.fetch(
        """
        SELECT r.id, coalesce(h.members, 0) AS members
          FROM roles AS r
          LEFT JOIN (
               SELECT held.id, count(*) AS members
                 FROM members AS m
                CROSS JOIN LATERAL unnest(m.roles) AS held (id)
                WHERE m.guild_id = $1
                GROUP BY held.id
               ) AS h ON h.id = r.id
         WHERE r.guild_id = $1 AND r.id <> $1
         ORDER BY r.id
        """,
        guild_id,
    )
    return {Snowflake(row["id"]): row["members"] for row in rows}


async def update(conn: Conn, role: Role) -> None:
    await conn.execute(
        """
        UPDATE roles
           SET name = $2, permissions = $3, color = $4, hoist = $5, mentionable = $6,
               unicode_emoji = $7
         WHERE id = $1
        """,
        role.id,
        role.name,
        int(role.permissions),
        role.color,
        role.hoist,
        role.mentionable,
        role.unicode_emoji,
    )


async def move(conn: Conn, positions: Mapping[Snowflake, int]) -> None:
    await conn.execute(
        """
        UPDATE roles AS r
           SET position = p.position
          FROM unnest($1::bigint[], $2::smallint[]) AS p (id, position)
         WHERE r.id = p.id
        """,
        list(positions),
        list(positions.values()),
    )


async def delete(conn: Conn, role_id: Snowflake) -> set[Snowflake]:
    """Delete a role and its overwrites; the channels that had any.

    The members keep its id, which means nothing any more. Uses channel_overwrites_target_idx.
    """
    rows = await conn.fetch(
        "DELETE FROM channel_overwrites WHERE target_id = $1 AND type = 0 RETURNING channel_id",
        role_id,
    )
    await conn.execute("DELETE FROM roles WHERE id = $1", role_id)
    return {Snowflake(row["channel_id"]) for row in rows}
