"""SQL for channels, and the one query that decides who may do what in them."""

from collections.abc import Sequence

import asyncpg
import msgspec

from internal.channel.model import ChannelAccess, DirectMessage
from internal.db.postgres import Conn
from internal.guild.model import DELETED_AT_ONCE, GuildChannel, PartialMember
from internal.permission import model as permission
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

Pair = tuple[Snowflake, Snowflake]


async def try_hold(conn: Conn, pairs: Sequence[Pair]) -> set[Snowflake]:
    """Keep the structure of the channels' guilds as it is until the commit, where that is free.

    Many may hold it at once. Nobody is waited for, and of guilds that the user of a pair is not
    in nothing is taken. Gives the guilds that are held.
    """
    rows = await conn.fetch(
        """
        SELECT g.id, pg_try_advisory_xact_lock_shared(g.id) AS is_held
          FROM (
               SELECT DISTINCT c.guild_id AS id
                 FROM unnest($1::bigint[], $2::bigint[]) AS a (user_id, channel_id)
                 JOIN channels AS c ON c.id = a.channel_id
                 JOIN members AS m ON m.guild_id = c.guild_id AND m.user_id = a.user_id
               ) AS g
        """,
        [user_id for user_id, _ in pairs],
        [channel_id for _, channel_id in pairs],
    )
    return {Snowflake(row["id"]) for row in rows if row["is_held"]}


async def access_of(conn: Conn, pairs: Sequence[Pair]) -> dict[Pair, ChannelAccess]:
    """What each user may do in the channel of the pair; nothing for strangers."""
    rows = await conn.fetch(
        """
        SELECT a.user_id, u.username, u.global_name,
               c.id AS channel_id, c.guild_id, c.rate_limit_per_user, c.dm_low_id, c.dm_high_id,
               m.nick, m.joined_at, g.owner_id, r.permissions AS everyone
          FROM unnest($1::bigint[], $2::bigint[]) AS a (user_id, channel_id)
          JOIN users AS u ON u.id = a.user_id
          JOIN channels AS c ON c.id = a.channel_id
          LEFT JOIN members AS m ON m.guild_id = c.guild_id AND m.user_id = a.user_id
          LEFT JOIN guilds AS g ON g.id = c.guild_id
          LEFT JOIN roles AS r ON r.id = c.guild_id
         WHERE m.user_id IS NOT NULL OR a.user_id IN (c.dm_low_id, c.dm_high_id)
        """,
        [user_id for user_id, _ in pairs],
        [channel_id for _, channel_id in pairs],
    )
    return {(row["user_id"], row["channel_id"]): _access(row) for row in rows}


async def find(conn: Conn, channel_id: Snowflake) -> GuildChannel | None:
    """A channel of a guild; None for direct messages, too."""
    row = await conn.fetchrow(
        """
        SELECT c.id, c.guild_id, c.type, c.name, c.topic, c.position, c.nsfw,
               c.rate_limit_per_user, l.id AS last_message_id
          FROM channels AS c
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         WHERE c.id = $1 AND c.guild_id IS NOT NULL
        """,
        channel_id,
    )
    if row is None:
        return None
    return GuildChannel(
        id=Snowflake(row["id"]),
        type=row["type"],
        guild_id=Snowflake(row["guild_id"]),
        name=row["name"],
        topic=row["topic"],
        position=row["position"],
        nsfw=row["nsfw"],
        rate_limit_per_user=row["rate_limit_per_user"],
        last_message_id=_id(row["last_message_id"]),
    )


async def count_and_end(conn: Conn, guild_id: Snowflake) -> tuple[int, int]:
    """How many channels a guild has, and the position after the last of them."""
    row = await conn.fetchrow(
        """
        SELECT count(*) AS channels, coalesce(max(position) + 1, 0) AS next
          FROM channels
         WHERE guild_id = $1
        """,
        guild_id,
    )
    return (0, 0) if row is None else (row["channels"], row["next"])


async def insert(conn: Conn, channel: GuildChannel) -> None:
    await conn.execute(
        """
        INSERT INTO channels (
               id, guild_id, type, name, topic, position, nsfw, rate_limit_per_user
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        channel.id,
        channel.guild_id,
        channel.type,
        channel.name,
        channel.topic,
        channel.position,
        channel.nsfw,
        channel.rate_limit_per_user,
    )


async def update(conn: Conn, channel: GuildChannel) -> None:
    await conn.execute(
        """
        UPDATE channels
           SET name = $2, topic = $3, position = $4, nsfw = $5, rate_limit_per_user = $6
         WHERE id = $1
        """,
        channel.id,
        channel.name,
        channel.topic,
        channel.position,
        channel.nsfw,
        channel.rate_limit_per_user,
    )


async def delete(conn: Conn, channel_id: Snowflake) -> None:
    """Delete a channel. Of its messages, which may be millions, the rest is queued to be purged."""
    await conn.execute(
        """
        DELETE FROM messages
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM messages WHERE channel_id = $1 LIMIT $2))
        """,
        channel_id,
        DELETED_AT_ONCE,
    )
    await conn.execute("INSERT INTO purges (channel_id) VALUES ($1)", channel_id)
    await conn.execute("DELETE FROM channels WHERE id = $1", channel_id)


async def insert_direct_message(
    conn: Conn, channel_id: Snowflake, one: Snowflake, other: Snowflake
) -> None:
    """Make the channel of a pair that has none. Needs `lock_users` of both."""
    await conn.execute(
        """
        INSERT INTO channels (id, type, dm_low_id, dm_high_id)
        VALUES ($1, 1, least($2::bigint, $3::bigint), greatest($2::bigint, $3::bigint))
        """,
        channel_id,
        one,
        other,
    )


async def find_direct_message(
    conn: Conn, viewer: Snowflake, other: Snowflake
) -> DirectMessage | None:
    """The channel of a pair, as `viewer` sees it."""
    row = await conn.fetchrow(
        """
        SELECT c.id, u.id AS user_id, u.username, u.global_name, l.id AS last_message_id
          FROM channels AS c
          JOIN users AS u ON u.id = $2
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         WHERE c.dm_low_id = least($1::bigint, $2::bigint)
           AND c.dm_high_id = greatest($1::bigint, $2::bigint)
        """,
        viewer,
        other,
    )
    return None if row is None else _direct_message(row)


async def direct_messages_before(
    conn: Conn, viewer: Snowflake, before: Snowflake | None, limit: int
) -> list[DirectMessage]:
    """The newest direct messages of an account. Uses channels_dm_key and channels_dm_high_idx."""
    rows = await conn.fetch(
        """
        SELECT c.id, u.id AS user_id, u.username, u.global_name, l.id AS last_message_id
          FROM (
               SELECT id, dm_high_id AS other_id FROM channels WHERE dm_low_id = $1
               UNION ALL
               SELECT id, dm_low_id AS other_id FROM channels WHERE dm_high_id = $1
               ) AS c
          JOIN users AS u ON u.id = c.other_id
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         WHERE $2::bigint IS NULL OR c.id < $2
         ORDER BY c.id DESC
         LIMIT $3
        """,
        viewer,
        before,
        limit,
    )
    return [_direct_message(row) for row in rows]


async def direct_messages_seen_by_others(
    conn: Conn, user_id: Snowflake, limit: int
) -> list[tuple[Snowflake, DirectMessage]]:
    """List the newest direct messages of an account as the other of each sees them, and who.

    Without the last message: nothing keeps others from sending one meanwhile.
    """
    rows = await conn.fetch(
        """
        SELECT c.id, c.other_id, u.id AS user_id, u.username, u.global_name
          FROM (
               SELECT id, dm_high_id AS other_id FROM channels WHERE dm_low_id = $1
               UNION ALL
               SELECT id, dm_low_id AS other_id FROM channels WHERE dm_high_id = $1
               ) AS c
          JOIN users AS u ON u.id = $1
         ORDER BY c.id DESC
         LIMIT $2
        """,
        user_id,
        limit,
    )
    return [
        (
            Snowflake(row["other_id"]),
            DirectMessage(
                id=Snowflake(row["id"]), recipients=(_user(row),), last_message_id=msgspec.UNSET
            ),
        )
        for row in rows
    ]


async def lock_users(conn: Conn, user_ids: Sequence[Snowflake]) -> bool:
    """Keep accounts from changing, and from opening direct messages, until the commit.

    False unless all of them are there.
    """
    rows = await conn.fetch(
        "SELECT id FROM users WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        user_ids,
    )
    return len(rows) == len(user_ids)


async def count_direct_messages(conn: Conn, user_id: Snowflake) -> int:
    """How many direct messages an account has. Sure until the commit only under `lock_users`."""
    count: int = await conn.fetchval(
        """
        SELECT (SELECT count(*) FROM channels WHERE dm_low_id = $1)
             + (SELECT count(*) FROM channels WHERE dm_high_id = $1)
        """,
        user_id,
    )
    return count


def _id(number: int | None) -> Snowflake | None:
    return None if number is None else Snowflake(number)


def _user(row: asyncpg.Record) -> User:
    return User(
        id=Snowflake(row["user_id"]), username=row["username"], global_name=row["global_name"]
    )


def _direct_message(row: asyncpg.Record) -> DirectMessage:
    return DirectMessage(
        id=Snowflake(row["id"]),
        recipients=(_user(row),),
        last_message_id=_id(row["last_message_id"]),
    )


def _access(row: asyncpg.Record) -> ChannelAccess:
    channel_id = Snowflake(row["channel_id"])
    if row["guild_id"] is None:
        return ChannelAccess(
            channel_id=channel_id,
            user=_user(row),
            permissions=permission.DIRECT_MESSAGE,
            participants=(Snowflake(row["dm_low_id"]), Snowflake(row["dm_high_id"])),
        )
    return ChannelAccess(
        channel_id=channel_id,
        user=_user(row),
        permissions=permission.in_channel(
            permission.in_guild(
                is_owner=row["owner_id"] == row["user_id"], everyone=row["everyone"]
            )
        ),
        slowmode_s=row["rate_limit_per_user"],
        guild_id=Snowflake(row["guild_id"]),
        member=PartialMember(nick=row["nick"], joined_at=Timestamp.at(row["joined_at"])),
    )
