"""SQL for what is done to members of a guild."""

from collections.abc import Collection, Sequence
from datetime import datetime

from internal.db.postgres import Conn
from internal.guild.member.model import Unseen
from internal.guild.model import Member
from internal.guild.repository import member_of
from internal.user.model import User
from internal.utils.snowflake import Snowflake

# Above every name that begins so. Names are compared by code points.
_LAST = "\U0010ffff" * 2


async def starting_with(conn: Conn, guild_id: Snowflake, prefix: str, limit: int) -> list[Member]:
    """Members one of whose names begins so, by user name; case does not matter.

    Uses members_username_idx, members_global_name_idx and members_nick_idx.
    """
    rows = await conn.fetch(
        """
        SELECT p.*
          FROM (
               (SELECT user_id
                  FROM members
                 WHERE guild_id = $1
                   AND username_key >= lower($2::text) AND username_key < lower($2::text) || $4
                 ORDER BY username_key
                 LIMIT $3)
               UNION
               (SELECT user_id
                  FROM members
                 WHERE guild_id = $1
                   AND global_name_key >= lower($2::text)
                   AND global_name_key < lower($2::text) || $4
                 ORDER BY global_name_key
                 LIMIT $3)
               UNION
               (SELECT user_id
                  FROM members
                 WHERE guild_id = $1 AND nick IS NOT NULL
                   AND lower(nick) COLLATE "C" >= lower($2::text)
                   AND lower(nick) COLLATE "C" < lower($2::text) || $4
                 ORDER BY lower(nick) COLLATE "C"
                 LIMIT $3)
               ) AS f
          JOIN member_profiles AS p ON p.guild_id = $1 AND p.user_id = f.user_id
         ORDER BY p.username
         LIMIT $3
        """,
        guild_id,
        prefix,
        limit,
        _LAST,
    )
    return [member_of(row) for row in rows]


async def named(
    conn: Conn, guild_id: Snowflake, user_ids: Collection[Snowflake]
) -> dict[Snowflake, Member]:
    """Those of these accounts that are members, by id. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT p.*
          FROM member_profiles AS p
         WHERE p.guild_id = $1 AND p.user_id = ANY ($2::bigint[])
         ORDER BY p.user_id
        """,
        guild_id,
        list(user_ids),
    )
    return {Snowflake(row["user_id"]): member_of(row) for row in rows}


async def update(
    conn: Conn,
    guild_id: Snowflake,
    user_id: Snowflake,
    *,
    nick: str | None,
    timed_out_until: datetime | None,
) -> None:
    await conn.execute(
        """
        UPDATE members
           SET nick = $3, timed_out_until = $4
         WHERE guild_id = $1 AND user_id = $2
        """,
        guild_id,
        user_id,
        nick,
        timed_out_until,
    )


async def change_roles(
    conn: Conn,
    guild_id: Snowflake,
    user_ids: Sequence[Snowflake],
    *,
    given: Sequence[Snowflake],
    taken: Sequence[Snowflake],
) -> None:
    """Give roles to members and take some; who is given one is no longer there for a while only.

    Roles that are no more go from the rows on this occasion. Needs the guild's lock.
    """
    await conn.execute(
        """
        UPDATE members AS m
           SET roles = ARRAY(
                   SELECT r.id
                     FROM roles AS r
                    WHERE r.id = ANY (m.roles || $3::bigint[]) AND r.guild_id = $1
                      AND r.id <> ALL ($4::bigint[])
                    ORDER BY r.id
                   ),
               is_temporary = m.is_temporary AND cardinality($3::bigint[]) = 0
         WHERE m.guild_id = $1 AND m.user_id = ANY ($2::bigint[])
        """,
        guild_id,
        user_ids,
        given,
        taken,
    )


async def count_unseen(conn: Conn, guild_id: Snowflake, wanted: Unseen) -> int:
    """How many `unseen` would find. Reads all members of the guild."""
    count: int = await conn.fetchval(
        """
        SELECT count(*)
          FROM member_activity AS m
          JOIN guilds AS g ON g.id = m.guild_id
         WHERE m.guild_id = $1 AND m.user_id NOT IN (g.owner_id, $3) AND m.joined_at < $2
           AND NOT EXISTS (
               SELECT FROM roles AS r WHERE r.id = ANY (m.roles) AND r.id <> ALL ($4::bigint[])
               )
           AND coalesce(m.last_seen_at < $2, true)
        """,
        guild_id,
        wanted.since,
        wanted.except_id,
        wanted.include_roles,
    )
    return count


async def unseen(
    conn: Conn, guild_id: Snowflake, wanted: Unseen, *, after: Snowflake, limit: int
) -> list[User]:
    """The next members to prune, by id.

    Uses members_pkey, and what stands at the view member_activity.
    """
    rows = await conn.fetch(
        """
        SELECT m.user_id, u.username, u.global_name
          FROM member_activity AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN users AS u ON u.id = m.user_id
         WHERE m.guild_id = $1 AND m.user_id > $5 AND m.user_id NOT IN (g.owner_id, $3)
           AND m.joined_at < $2
           AND NOT EXISTS (
               SELECT FROM roles AS r WHERE r.id = ANY (m.roles) AND r.id <> ALL ($4::bigint[])
               )
           AND coalesce(m.last_seen_at < $2, true)
         ORDER BY m.user_id
         LIMIT $6
        """,
        guild_id,
        wanted.since,
        wanted.except_id,
        wanted.include_roles,
        after,
        limit,
    )
    return [
        User(
            id=Snowflake(row["user_id"]),
            username=row["username"],
            global_name=row["global_name"],
        )
        for row in rows
    ]
