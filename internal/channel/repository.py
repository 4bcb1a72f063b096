"""SQL for channels, and the one query that decides who may do what in them."""

from collections.abc import Sequence

import asyncpg
import msgspec

from internal.channel.model import ChannelAccess, ChannelType, DirectMessage, ThreadAccess, decide
from internal.db.postgres import Conn
from internal.events import Audience
from internal.guild.model import (
    DELETED_AT_ONCE,
    ChannelOverwrite,
    Forum,
    GuildChannel,
    PartialMember,
)
from internal.guild.repository import channel_of, channels_of
from internal.permission import model as permission
from internal.user.model import User
from internal.utils.json import Timestamp, encode
from internal.utils.snowflake import Snowflake

Pair = tuple[Snowflake, Snowflake]


async def try_hold(conn: Conn, pairs: Sequence[Pair]) -> set[Snowflake]:
    """Keep the structure of the channels' guilds as it is until the commit, where that is free.

    Many may hold it at once. Nobody is waited for, and of guilds that the user of a pair is not
    in nothing is taken. A group is held by itself. Gives the guilds and groups that are held.
    """
    rows = await conn.fetch(
        """
        SELECT g.id, pg_try_advisory_xact_lock_shared(g.id) AS is_held
          FROM (
               SELECT DISTINCT coalesce(m.guild_id, p.channel_id) AS id
                 FROM unnest($1::bigint[], $2::bigint[]) AS a (user_id, channel_id)
                 JOIN channels AS c ON c.id = a.channel_id
                 LEFT JOIN members AS m ON m.guild_id = c.guild_id AND m.user_id = a.user_id
                 LEFT JOIN channel_recipients AS p
                   ON p.channel_id = c.id AND p.user_id = a.user_id
                WHERE m.guild_id IS NOT NULL OR p.channel_id IS NOT NULL
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
               c.id AS channel_id, c.type, c.guild_id, c.parent_id, c.owner_id AS channel_owner_id,
               c.rate_limit_per_user, c.dm_low_id, c.dm_high_id,
               m.nick, m.joined_at, m.flags, g.owner_id, g.verification_level,
               r.permissions AS everyone,
               m.timed_out_until, coalesce(m.timed_out_until > now(), false) AS is_timed_out,
               held.roles, held.bits, o.overwrites, t.archived, t.locked,
               EXISTS (
                   SELECT FROM thread_members AS tm
                    WHERE tm.thread_id = c.id AND tm.user_id = a.user_id
               ) AS is_thread_member,
               CASE WHEN c.type = 12 THEN ARRAY(
                   SELECT tm.user_id FROM thread_members AS tm WHERE tm.thread_id = c.id
               ) END AS thread_members,
               CASE WHEN c.type = 3 THEN ARRAY(
                   SELECT p.user_id FROM channel_recipients AS p
                    WHERE p.channel_id = c.id
                    ORDER BY p.user_id
               ) END AS recipients
          FROM unnest($1::bigint[], $2::bigint[]) AS a (user_id, channel_id)
          JOIN users AS u ON u.id = a.user_id
          JOIN channels AS c ON c.id = a.channel_id
          LEFT JOIN threads AS t ON t.channel_id = c.id
          LEFT JOIN members AS m ON m.guild_id = c.guild_id AND m.user_id = a.user_id
          LEFT JOIN guilds AS g ON g.id = c.guild_id
          LEFT JOIN roles AS r ON r.id = c.guild_id
         CROSS JOIN LATERAL (
               SELECT array_agg(h.id ORDER BY h.id) AS roles,
                      array_agg(h.permissions ORDER BY h.id) AS bits
                 FROM roles AS h
                WHERE h.id = ANY (m.roles)
               ) AS held
         CROSS JOIN LATERAL (
               SELECT array_agg((o.target_id, o.type, o.allow, o.deny)) AS overwrites
                 FROM channel_overwrites AS o
                WHERE o.channel_id = CASE WHEN t.channel_id IS NULL THEN c.id ELSE c.parent_id END
                  AND (o.target_id = ANY (m.roles) OR o.target_id IN (a.user_id, c.guild_id))
               ) AS o
         WHERE m.user_id IS NOT NULL
            OR a.user_id IN (c.dm_low_id, c.dm_high_id)
            OR (c.type = 3 AND EXISTS (
                SELECT FROM channel_recipients AS p
                 WHERE p.channel_id = c.id AND p.user_id = a.user_id
               ))
        """,
        [user_id for user_id, _ in pairs],
        [channel_id for _, channel_id in pairs],
    )
    return {(row["user_id"], row["channel_id"]): _access(row) for row in rows}


async def audiences(conn: Conn, channel_ids: Sequence[Snowflake]) -> dict[Snowflake, Audience]:
    """Who may see each of these channels of guilds, threads among them."""
    rows = await conn.fetch(
        """
        SELECT c.id, c.guild_id, t.parent_id,
               CASE WHEN c.type = 12 THEN ARRAY(
                   SELECT tm.user_id FROM thread_members AS tm WHERE tm.thread_id = c.id
               ) END AS thread_members
          FROM channels AS c
          LEFT JOIN threads AS t ON t.channel_id = c.id
         WHERE c.id = ANY($1::bigint[]) AND c.guild_id IS NOT NULL
        """,
        channel_ids,
    )
    return {
        Snowflake(row["id"]): Audience(
            users=None
            if row["thread_members"] is None
            else tuple(map(Snowflake, row["thread_members"])),
            guild_id=Snowflake(row["guild_id"]),
            channel_id=Snowflake(row["id"]),
            parent_id=_id(row["parent_id"]),
        )
        for row in rows
    }


async def find(conn: Conn, channel_id: Snowflake) -> GuildChannel | None:
    """A channel of a guild; None for threads and direct messages, too."""
    found = await _find_all(conn, [channel_id])
    return found[0] if found else None


async def in_category(conn: Conn, category_id: Snowflake) -> list[GuildChannel]:
    """The channels in a category, in the order they are shown. Uses channels_parent_idx."""
    rows = await conn.fetch("SELECT id FROM channels WHERE parent_id = $1", category_id)
    return await _find_all(conn, [Snowflake(row["id"]) for row in rows])


async def of_guild(conn: Conn, guild_id: Snowflake) -> list[GuildChannel]:
    """The channels of a guild, in the order they are shown."""
    return (await channels_of(conn, [guild_id]))[guild_id]


async def _find_all(conn: Conn, channel_ids: Sequence[Snowflake]) -> list[GuildChannel]:
    rows = await conn.fetch(
        """
        SELECT c.id, c.guild_id, c.type, c.name, c.topic, c.position, c.nsfw, c.parent_id, c.flags,
               c.rate_limit_per_user, c.default_auto_archive_duration,
               c.default_thread_rate_limit_per_user, c.forum, o.overwrites,
               l.id AS last_message_id
          FROM channels AS c
         CROSS JOIN LATERAL (
               SELECT array_agg((o.target_id, o.type, o.allow, o.deny) ORDER BY o.target_id)
                      AS overwrites
                 FROM channel_overwrites AS o
                WHERE o.channel_id = c.id
               ) AS o
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         WHERE c.id = ANY ($1::bigint[]) AND c.guild_id IS NOT NULL AND c.type NOT IN (10, 11, 12)
         ORDER BY c.position, c.id
        """,
        channel_ids,
    )
    return [channel_of(row) for row in rows]


async def count_and_end(conn: Conn, guild_id: Snowflake) -> tuple[int, int]:
    """How many channels a guild has, and the position after the last; threads do not count.

    Uses channels_shown_idx.
    """
    row = await conn.fetchrow(
        """
        SELECT count(*) AS channels, coalesce(max(position) + 1, 0) AS next
          FROM channels
         WHERE guild_id = $1 AND type NOT IN (10, 11, 12)
        """,
        guild_id,
    )
    return (0, 0) if row is None else (row["channels"], row["next"])


async def insert(conn: Conn, channel: GuildChannel) -> None:
    await conn.execute(
        """
        INSERT INTO channels (
               id, guild_id, type, name, topic, position, nsfw, rate_limit_per_user, parent_id,
               flags, default_auto_archive_duration, default_thread_rate_limit_per_user, forum
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        """,
        channel.id,
        channel.guild_id,
        *_columns(channel),
    )
    await insert_overwrites(conn, [channel.id], channel.permission_overwrites)


async def update(conn: Conn, channel: GuildChannel) -> None:
    """Store all of a channel but its overwrites."""
    await conn.execute(
        """
        UPDATE channels
           SET type = $2, name = $3, topic = $4, position = $5, nsfw = $6,
               rate_limit_per_user = $7, parent_id = $8, flags = $9,
               default_auto_archive_duration = $10, default_thread_rate_limit_per_user = $11,
               forum = $12
         WHERE id = $1
        """,
        channel.id,
        *_columns(channel),
    )


async def insert_overwrites(
    conn: Conn, channel_ids: Sequence[Snowflake], overwrites: Sequence[ChannelOverwrite]
) -> None:
    """Give channels that have none the same overwrites."""
    rules = [one.rule() for one in overwrites]
    await conn.execute(
        """
        INSERT INTO channel_overwrites (channel_id, target_id, type, allow, deny)
        SELECT c.id, o.*
          FROM unnest($1::bigint[]) AS c (id)
         CROSS JOIN unnest($2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[]) AS o
        """,
        channel_ids,
        [rule.id for rule in rules],
        [int(rule.is_member) for rule in rules],
        [rule.allow for rule in rules],
        [rule.deny for rule in rules],
    )


async def delete_overwrites(conn: Conn, channel_ids: Sequence[Snowflake]) -> None:
    await conn.execute("DELETE FROM channel_overwrites WHERE channel_id = ANY ($1)", channel_ids)


async def thread_ids_of(conn: Conn, channel_id: Snowflake) -> tuple[Snowflake, ...]:
    """The threads of a channel, archived ones too. Uses channels_parent_idx."""
    rows = await conn.fetch(
        "SELECT id FROM channels WHERE parent_id = $1 AND type IN (10, 11, 12)", channel_id
    )
    return tuple(Snowflake(row["id"]) for row in rows)


async def delete(conn: Conn, channel_id: Snowflake, thread_ids: Sequence[Snowflake] = ()) -> None:
    """Delete a channel and its threads.

    Of their messages, which may be millions, the rest is queued to be purged.
    """
    channel_ids = [channel_id, *thread_ids]
    await conn.execute(
        """
        DELETE FROM messages
         WHERE ctid = ANY (ARRAY(
               SELECT m.ctid
                 FROM unnest($1::bigint[]) AS c (id)
                CROSS JOIN LATERAL (
                      SELECT ctid FROM messages WHERE channel_id = c.id LIMIT $2
                      ) AS m
                LIMIT $2
         ))
        """,
        channel_ids,
        DELETED_AT_ONCE,
    )
    await conn.execute("INSERT INTO purges (channel_id) SELECT unnest($1::bigint[])", channel_ids)
    # Its threads go with it.
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
    channel_id = await conn.fetchval(
        """
        SELECT id
          FROM channels
         WHERE dm_low_id = least($1::bigint, $2::bigint)
           AND dm_high_id = greatest($1::bigint, $2::bigint)
        """,
        viewer,
        other,
    )
    return None if channel_id is None else await find_private(conn, viewer, channel_id)


async def find_private(
    conn: Conn, viewer: Snowflake, channel_id: Snowflake
) -> DirectMessage | None:
    """A direct message or a group, as somebody who is in it sees it."""
    row = await conn.fetchrow(
        """
        SELECT c.id, c.type, c.name, c.owner_id, p.people, l.id AS last_message_id
          FROM channels AS c
         CROSS JOIN LATERAL (
               SELECT array_agg((u.id, u.username, u.global_name) ORDER BY u.id) AS people
                 FROM users AS u
                WHERE u.id = ANY (
                      ARRAY[c.dm_low_id, c.dm_high_id]
                      || ARRAY(
                         SELECT r.user_id FROM channel_recipients AS r WHERE r.channel_id = c.id
                         )
                      )
               ) AS p
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         WHERE c.id = $1 AND c.guild_id IS NULL
        """,
        channel_id,
    )
    return None if row is None else _direct_message(row, viewer, last=_id(row["last_message_id"]))


async def direct_messages_before(
    conn: Conn, viewer: Snowflake, before: Snowflake | None, limit: int
) -> list[DirectMessage]:
    """The newest direct messages and groups of an account.

    Uses channels_dm_key, channels_dm_high_idx and channel_recipients_user_idx.
    """
    rows = await conn.fetch(
        """
        SELECT c.id, c.type, c.name, c.owner_id, p.people, l.id AS last_message_id
          FROM (
               SELECT own.id
                 FROM (
                      SELECT id FROM channels WHERE dm_low_id = $1
                      UNION ALL
                      SELECT id FROM channels WHERE dm_high_id = $1
                      UNION ALL
                      SELECT channel_id FROM channel_recipients WHERE user_id = $1
                      ) AS own
                WHERE $2::bigint IS NULL OR own.id < $2
                ORDER BY own.id DESC
                LIMIT $3
               ) AS own
          JOIN channels AS c ON c.id = own.id
         CROSS JOIN LATERAL (
               SELECT array_agg((u.id, u.username, u.global_name) ORDER BY u.id) AS people
                 FROM users AS u
                WHERE u.id = ANY (
                      ARRAY[c.dm_low_id, c.dm_high_id]
                      || ARRAY(
                         SELECT r.user_id FROM channel_recipients AS r WHERE r.channel_id = c.id
                         )
                      )
               ) AS p
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         ORDER BY c.id DESC
        """,
        viewer,
        before,
        limit,
    )
    return [_direct_message(row, viewer, last=_id(row["last_message_id"])) for row in rows]


async def direct_messages_seen_by_others(
    conn: Conn, user_id: Snowflake, limit: int
) -> list[tuple[Snowflake, DirectMessage]]:
    """List the newest direct messages and groups of an account as the others see them, and who.

    Without the last message: nothing keeps others from sending one meanwhile.
    """
    rows = await conn.fetch(
        """
        SELECT own.id
          FROM (
               SELECT id FROM channels WHERE dm_low_id = $1
               UNION ALL
               SELECT id FROM channels WHERE dm_high_id = $1
               UNION ALL
               SELECT channel_id FROM channel_recipients WHERE user_id = $1
               ) AS own
         ORDER BY own.id DESC
         LIMIT $2
        """,
        user_id,
        limit,
    )
    views = await private_views(conn, [Snowflake(row["id"]) for row in rows])
    return [(viewer, channel) for viewer, channel in views if viewer != user_id]


async def private_views(
    conn: Conn, channel_ids: Sequence[Snowflake]
) -> list[tuple[Snowflake, DirectMessage]]:
    """Direct messages and groups as each of those sees them who are in them, and who that is.

    Without the last message.
    """
    rows = await conn.fetch(
        """
        SELECT c.id, c.type, c.name, c.owner_id, p.people
          FROM channels AS c
         CROSS JOIN LATERAL (
               SELECT array_agg((u.id, u.username, u.global_name) ORDER BY u.id) AS people
                 FROM users AS u
                WHERE u.id = ANY (
                      ARRAY[c.dm_low_id, c.dm_high_id]
                      || ARRAY(
                         SELECT r.user_id FROM channel_recipients AS r WHERE r.channel_id = c.id
                         )
                      )
               ) AS p
         WHERE c.id = ANY ($1::bigint[]) AND c.guild_id IS NULL
         ORDER BY c.id DESC
        """,
        channel_ids,
    )
    return [
        (Snowflake(viewer), _direct_message(row, Snowflake(viewer)))
        for row in rows
        for viewer, _, _ in row["people"]
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
    """How many direct messages and groups an account has. Sure only under `lock_users`."""
    count: int = await conn.fetchval(
        """
        SELECT (SELECT count(*) FROM channels WHERE dm_low_id = $1)
             + (SELECT count(*) FROM channels WHERE dm_high_id = $1)
             + (SELECT count(*) FROM channel_recipients WHERE user_id = $1)
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


def _direct_message(
    row: asyncpg.Record,
    viewer: Snowflake,
    *,
    last: Snowflake | msgspec.UnsetType | None = msgspec.UNSET,
) -> DirectMessage:
    others = tuple(
        User(id=Snowflake(user_id), username=username, global_name=global_name)
        for user_id, username, global_name in row["people"] or ()
        if user_id != viewer
    )
    channel = DirectMessage(
        id=Snowflake(row["id"]), type=row["type"], recipients=others, last_message_id=last
    )
    if row["type"] != ChannelType.GROUP:
        return channel
    return msgspec.structs.replace(
        channel, owner_id=_id(row["owner_id"]), name=row["name"], icon=None
    )


def _columns(channel: GuildChannel) -> tuple[object, ...]:
    """What `insert` and `update` store, in their order."""
    forum: str | None = None
    if channel.type == ChannelType.FORUM:
        wire = {name: getattr(channel, name) for name in Forum.__struct_fields__}
        forum = encode(Forum(**wire)).decode()
    return (
        channel.type,
        channel.name,
        channel.topic,
        channel.position,
        channel.nsfw,
        channel.rate_limit_per_user,
        channel.parent_id,
        channel.flags,
        _column(channel.default_auto_archive_duration),
        _column(channel.default_thread_rate_limit_per_user),
        forum,
    )


def _column(value: int | msgspec.UnsetType) -> int | None:
    return None if value is msgspec.UNSET else value


def _access(row: asyncpg.Record) -> ChannelAccess:
    channel_id, user_id = Snowflake(row["channel_id"]), Snowflake(row["user_id"])
    if row["guild_id"] is None:
        people = row["recipients"] or (row["dm_low_id"], row["dm_high_id"])
        return ChannelAccess(
            channel_id=channel_id,
            type=row["type"],
            user=_user(row),
            permissions=decide(None, (), None),
            owner_id=_id(row["channel_owner_id"]),
            participants=tuple(map(Snowflake, people)),
        )
    guild_id = Snowflake(row["guild_id"])
    roles = row["roles"] or ()
    standing = permission.Standing(
        user_id=user_id,
        guild_id=guild_id,
        everyone=row["everyone"],
        roles=tuple(zip(roles, row["bits"] or (), strict=True)),
        is_owner=row["owner_id"] == user_id,
        is_timed_out=row["is_timed_out"],
    )
    overwrites = tuple(
        permission.Overwrite(target_id, kind == 1, allow, deny)
        for target_id, kind, allow, deny in row["overwrites"] or ()
    )
    thread = _thread_access(row)
    until = row["timed_out_until"]
    return ChannelAccess(
        channel_id=channel_id,
        type=row["type"],
        user=_user(row),
        permissions=decide(standing, overwrites, thread),
        slowmode_s=row["rate_limit_per_user"],
        verification_level=row["verification_level"],
        guild_id=guild_id,
        member=PartialMember(
            nick=row["nick"],
            roles=tuple(map(Snowflake, roles)),
            joined_at=Timestamp.at(row["joined_at"]),
            flags=row["flags"],
            communication_disabled_until=None if until is None else Timestamp.at(until),
        ),
        standing=standing,
        overwrites=overwrites,
        parent_id=_id(row["parent_id"]),
        owner_id=_id(row["channel_owner_id"]),
        thread=thread,
    )


def _thread_access(row: asyncpg.Record) -> ThreadAccess | None:
    if row["archived"] is None:
        return None
    members = row["thread_members"]
    return ThreadAccess(
        archived=row["archived"],
        locked=row["locked"],
        is_member=row["is_thread_member"],
        members=None if members is None else tuple(map(Snowflake, members)),
    )
