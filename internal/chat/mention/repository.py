"""SQL for mentions: who and what is named, and what reaches somebody."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import asyncpg
import msgspec

from internal.chat.mention.model import Kind, Mention, MentionedUser, MentionPage
from internal.db.postgres import Conn
from internal.guild.model import PartialMember
from internal.utils.json import Timestamp
from internal.utils.snowflake import EPOCH_MS, MAX_SNOWFLAKE, Snowflake

# A guild, 0 for none, and an account or a role.
Key: TypeAlias = tuple[int, Snowflake]
# A channel and a message in it.
Place: TypeAlias = tuple[Snowflake, Snowflake]


async def users_of(conn: Conn, keys: Sequence[Key]) -> dict[Key, MentionedUser]:
    """Those of the accounts that there are, each with its membership in the guild of the key."""
    rows = await conn.fetch(
        """
        SELECT k.guild_id AS place, u.id, u.username, u.global_name,
               m.nick, m.joined_at, m.timed_out_until, m.flags, m.roles
          FROM unnest($1::bigint[], $2::bigint[]) AS k (guild_id, user_id)
          JOIN users AS u ON u.id = k.user_id
          LEFT JOIN member_profiles AS m ON m.guild_id = k.guild_id AND m.user_id = k.user_id
        """,
        [guild_id for guild_id, _ in keys],
        [user_id for _, user_id in keys],
    )
    return {(row["place"], Snowflake(row["id"])): _user(row) for row in rows}


async def roles_of(conn: Conn, keys: Sequence[Key]) -> dict[Key, bool]:
    """Those of the roles that their guild has, and whether anybody may mention them."""
    rows = await conn.fetch(
        """
        SELECT r.guild_id, r.id, r.mentionable
          FROM unnest($1::bigint[], $2::bigint[]) AS k (guild_id, role_id)
          JOIN roles AS r ON r.id = k.role_id AND r.guild_id = k.guild_id
         WHERE r.id <> r.guild_id
        """,
        [guild_id for guild_id, _ in keys],
        [role_id for _, role_id in keys],
    )
    return {(row["guild_id"], Snowflake(row["id"])): row["mentionable"] for row in rows}


async def insert_all(conn: Conn, mentions: Sequence[Mention]) -> None:
    """Note whom messages mention: a row for each thing that they name."""
    rows = [
        (one.channel_id, one.message_id, kind, target, one.author_id, one.guild_id)
        for one in mentions
        for kind, target in _targets(one)
    ]
    await conn.execute(
        """
        INSERT INTO mentions (channel_id, message_id, kind, target_id, author_id, guild_id)
        SELECT *
          FROM unnest(
               $1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[]
               )
        """,
        *([row[column] for row in rows] for column in range(6)),
    )


async def delete(conn: Conn, channel_id: Snowflake, message_id: Snowflake) -> None:
    """Forget whom a message mentions."""
    await conn.execute(
        "DELETE FROM mentions WHERE channel_id = $1 AND message_id = $2", channel_id, message_id
    )


async def reaching(
    conn: Conn,
    user_id: Snowflake,
    page: MentionPage,
    *,
    before: Snowflake | None,
    hidden: Sequence[Snowflake],
    limit: int,
) -> list[Place]:
    """The newest messages of others that mention an account, but for those in `hidden` channels.

    What everyone or a role was told counts from when the account joined the guild. Reads at most
    `limit` rows of mentions_target_idx for each guild and role of the account, and of
    mentions_guild_idx where a guild is named.
    """
    rows = await conn.fetch(
        """
        WITH mine AS (
            SELECT m.guild_id, m.roles,
                   ((extract(epoch FROM m.joined_at) * 1000)::bigint - $8::bigint) << 22 AS since
              FROM members AS m
             WHERE m.user_id = $1 AND ($2::bigint IS NULL OR m.guild_id = $2)
        ), target AS (
            SELECT 0 AS kind, guild_id AS id, since FROM mine WHERE $4::boolean
             UNION ALL
            SELECT 1, r.id, mine.since
              FROM mine
              JOIN roles AS r ON r.id = ANY (mine.roles)
             WHERE $3::boolean
             UNION ALL
            SELECT 2, $1, 0 WHERE $2::bigint IS NULL
        )
        SELECT DISTINCT f.message_id, f.channel_id
          FROM (
               SELECT found.message_id, found.channel_id
                 FROM target AS t
                CROSS JOIN LATERAL (
                      SELECT n.message_id, n.channel_id
                        FROM mentions AS n
                       WHERE n.kind = t.kind AND n.target_id = t.id
                         AND n.message_id >= t.since AND n.message_id < $5
                         AND n.author_id <> $1 AND n.channel_id <> ALL ($6::bigint[])
                       ORDER BY n.message_id DESC
                       LIMIT $7
                      ) AS found
                UNION ALL
               (SELECT n.message_id, n.channel_id
                  FROM mentions AS n
                 WHERE n.kind = 2 AND n.target_id = $1 AND n.guild_id = $2
                   AND n.message_id < $5
                   AND n.author_id <> $1 AND n.channel_id <> ALL ($6::bigint[])
                 ORDER BY n.message_id DESC
                 LIMIT $7)
               ) AS f
         ORDER BY f.message_id DESC
         LIMIT $7
        """,
        user_id,
        page.guild_id,
        page.roles,
        page.everyone,
        MAX_SNOWFLAKE if before is None else before,
        hidden,
        limit,
        EPOCH_MS,
    )
    return [(Snowflake(row["channel_id"]), Snowflake(row["message_id"])) for row in rows]


def _targets(mention: Mention) -> Iterator[tuple[Kind, Snowflake]]:
    if mention.mentions.everyone and mention.guild_id is not None:
        yield Kind.EVERYONE, mention.guild_id
    for role_id in mention.mentions.roles:
        yield Kind.ROLE, role_id
    for user in mention.mentions.users:
        yield Kind.USER, user.id


def _user(row: asyncpg.Record) -> MentionedUser:
    until = row["timed_out_until"]
    return MentionedUser(
        id=Snowflake(row["id"]),
        username=row["username"],
        global_name=row["global_name"],
        member=msgspec.UNSET
        if row["joined_at"] is None
        else PartialMember(
            nick=row["nick"],
            roles=tuple(map(Snowflake, row["roles"])),
            joined_at=Timestamp.at(row["joined_at"]),
            flags=row["flags"],
            communication_disabled_until=None if until is None else Timestamp.at(until),
        ),
    )
