"""SQL for guilds, their members, and what GUILD_CREATE tells of them."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from internal.db.postgres import Conn
from internal.guild.model import (
    DELETED_AT_ONCE,
    ChannelOverwrite,
    Forum,
    GuildAccess,
    GuildChannel,
    GuildRow,
    Icon,
    LeftThread,
    Member,
    OwnGuild,
    OwnMembership,
    PublicGuild,
    Role,
    RoleColors,
    RoleTags,
    Thread,
    ThreadMember,
    ThreadMetadata,
)
from internal.permission import model as permission
from internal.user.model import User
from internal.utils.json import Timestamp, decoder
from internal.utils.snowflake import Snowflake

_PRIVATE_THREAD: Final = 12
_FORUM: Final = 15
_read_tags = decoder(RoleTags)
_read_forum = decoder(Forum)


async def try_hold(conn: Conn, guild_ids: Sequence[Snowflake]) -> list[Snowflake]:
    """Keep the structure of guilds as it is until the commit; those where that is not free.

    Many may hold it at once. Nobody is waited for.
    """
    rows = await conn.fetch(
        """
        SELECT g.id
          FROM (SELECT unnest($1::bigint[]) AS id ORDER BY id) AS g
         WHERE NOT pg_try_advisory_xact_lock_shared(g.id)
        """,
        guild_ids,
    )
    return [Snowflake(row["id"]) for row in rows]


async def lock_user(conn: Conn, user_id: Snowflake) -> bool:
    """Keep one account from changing, or from joining elsewhere; False if there is none."""
    return (
        await conn.fetchval("SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE", user_id)
        is not None
    )


async def insert(conn: Conn, guild: GuildRow) -> None:
    await conn.execute(
        """
        INSERT INTO guilds (
               id, name, description, owner_id, discoverable, icon, verification_level,
               default_message_notifications, explicit_content_filter, system_channel_id,
               system_channel_flags
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        guild.id,
        guild.name,
        guild.description,
        guild.owner_id,
        guild.discoverable,
        guild.icon,
        guild.verification_level,
        guild.default_message_notifications,
        guild.explicit_content_filter,
        guild.system_channel_id,
        guild.system_channel_flags,
    )


async def insert_everyone_role(conn: Conn, guild_id: Snowflake, permissions: int) -> None:
    await conn.execute(
        """
        INSERT INTO roles (id, guild_id, name, permissions)
        VALUES ($1, $1, '@everyone', $2)
        """,
        guild_id,
        permissions,
    )


async def insert_first_channel(
    conn: Conn, guild_id: Snowflake, channel_id: Snowflake, name: str
) -> None:
    await conn.execute(
        "INSERT INTO channels (id, guild_id, type, name) VALUES ($1, $2, 0, $3)",
        channel_id,
        guild_id,
        name,
    )


async def is_banned(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> bool:
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM bans WHERE guild_id = $1 AND user_id = $2)", guild_id, user_id
    )
    return found


async def insert_member(
    conn: Conn, guild_id: Snowflake, user_id: Snowflake, *, is_temporary: bool = False
) -> None:
    """Add a member and count it. Needs the guild's lock.

    A timeout from before that still runs goes on.
    """
    await conn.execute(
        """
        WITH kept AS (
            DELETE FROM timeouts WHERE guild_id = $1 AND user_id = $2 RETURNING until
        ), added AS (
            INSERT INTO members (guild_id, user_id, is_temporary, timed_out_until)
            VALUES ($1, $2, $3, (SELECT until FROM kept WHERE until > now()))
            RETURNING guild_id
        )
        UPDATE guilds SET member_count = member_count + 1
         WHERE id = (SELECT guild_id FROM added)
        """,
        guild_id,
        user_id,
        is_temporary,
    )


async def find(conn: Conn, guild_id: Snowflake) -> GuildRow | None:
    row = await conn.fetchrow(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count, g.icon,
               g.verification_level, g.default_message_notifications, g.explicit_content_filter,
               g.system_channel_id, g.system_channel_flags, g.rules_channel_id, g.preferred_locale
          FROM guilds AS g
         WHERE g.id = $1
        """,
        guild_id,
    )
    return None if row is None else _guild(row)


async def find_access(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> GuildAccess | None:
    """The guild as this account may use it; None unless it is a member."""
    row = await conn.fetchrow(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count, g.icon,
               g.verification_level, g.default_message_notifications, g.explicit_content_filter,
               g.system_channel_id, g.system_channel_flags, g.rules_channel_id, g.preferred_locale,
               m.user_id, m.nick, m.joined_at, m.timed_out_until, m.flags,
               u.username, u.global_name,
               r.permissions AS everyone,
               coalesce(m.timed_out_until > now(), false) AS is_timed_out,
               held.roles, held.bits, held.positions
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN users AS u ON u.id = m.user_id
          JOIN roles AS r ON r.id = m.guild_id
         CROSS JOIN LATERAL (
               SELECT coalesce(array_agg(h.id ORDER BY h.id), '{}') AS roles,
                      array_agg(h.permissions ORDER BY h.id) AS bits,
                      array_agg(h.position ORDER BY h.id) AS positions
                 FROM roles AS h
                WHERE h.id = ANY (m.roles)
               ) AS held
         WHERE m.guild_id = $1 AND m.user_id = $2
        """,
        guild_id,
        user_id,
    )
    if row is None:
        return None
    standing = _standing(row, guild_id)
    ranks = (
        (place, -role_id)
        for role_id, place in zip(row["roles"], row["positions"] or (), strict=True)
    )
    return GuildAccess(
        guild=_guild(row),
        member=member_of(row),
        permissions=permission.in_guild(standing),
        standing=standing,
        rank=max(ranks, default=(0, -guild_id)),
    )


async def public_before(conn: Conn, before: Snowflake | None, limit: int) -> list[PublicGuild]:
    """The newest discoverable guilds older than `before`, newest first."""
    rows = await conn.fetch(
        """
        SELECT id, name, description, member_count, icon
          FROM guilds
         WHERE discoverable AND ($1::bigint IS NULL OR id < $1)
         ORDER BY id DESC
         LIMIT $2
        """,
        before,
        limit,
    )
    return [_public(row) for row in rows]


async def public_after(
    conn: Conn, after: Snowflake, before: Snowflake | None, limit: int
) -> list[PublicGuild]:
    """The oldest discoverable guilds newer than `after`, newest first all the same."""
    rows = await conn.fetch(
        """
        SELECT id, name, description, member_count, icon
          FROM guilds
         WHERE discoverable AND id > $1 AND ($2::bigint IS NULL OR id < $2)
         ORDER BY id
         LIMIT $3
        """,
        after,
        before,
        limit,
    )
    return [_public(row) for row in reversed(rows)]


async def of_user_after(
    conn: Conn, user_id: Snowflake, after: Snowflake, before: Snowflake | None, limit: int
) -> list[OwnGuild]:
    """The next guilds of an account, in the order of their ids."""
    rows = await conn.fetch(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count, g.icon,
               m.user_id, r.permissions AS everyone, held.roles, held.bits,
               coalesce(m.timed_out_until > now(), false) AS is_timed_out
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN roles AS r ON r.id = m.guild_id
         CROSS JOIN LATERAL (
               SELECT coalesce(array_agg(h.id), '{}') AS roles, array_agg(h.permissions) AS bits
                 FROM roles AS h
                WHERE h.id = ANY (m.roles)
               ) AS held
         WHERE m.user_id = $1 AND m.guild_id > $2 AND ($3::bigint IS NULL OR m.guild_id < $3)
         ORDER BY m.guild_id
         LIMIT $4
        """,
        user_id,
        after,
        before,
        limit,
    )
    return [_own(row) for row in rows]


async def of_user_before(
    conn: Conn, user_id: Snowflake, before: Snowflake, limit: int
) -> list[OwnGuild]:
    """The guilds of an account next below `before`, in the order of their ids."""
    rows = await conn.fetch(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count, g.icon,
               m.user_id, r.permissions AS everyone, held.roles, held.bits,
               coalesce(m.timed_out_until > now(), false) AS is_timed_out
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN roles AS r ON r.id = m.guild_id
         CROSS JOIN LATERAL (
               SELECT coalesce(array_agg(h.id), '{}') AS roles, array_agg(h.permissions) AS bits
                 FROM roles AS h
                WHERE h.id = ANY (m.roles)
               ) AS held
         WHERE m.user_id = $1 AND m.guild_id < $2
         ORDER BY m.guild_id DESC
         LIMIT $3
        """,
        user_id,
        before,
        limit,
    )
    return [_own(row) for row in reversed(rows)]


async def guild_ids_of(conn: Conn, user_id: Snowflake) -> list[Snowflake]:
    """The guilds of an account, ascending."""
    rows = await conn.fetch(
        "SELECT guild_id FROM members WHERE user_id = $1 ORDER BY guild_id", user_id
    )
    return [Snowflake(row["guild_id"]) for row in rows]


async def count_of_user(conn: Conn, user_id: Snowflake) -> int:
    """In how many guilds an account is. Sure until the commit only under `lock_user`."""
    count: int = await conn.fetchval("SELECT count(*) FROM members WHERE user_id = $1", user_id)
    return count


async def joined(
    conn: Conn, user_id: Snowflake, guild_ids: Sequence[Snowflake] | None
) -> list[tuple[GuildRow, OwnMembership]]:
    """The guilds of an account, or those named, and what it is there; by id."""
    rows = await conn.fetch(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count, g.icon,
               g.verification_level, g.default_message_notifications, g.explicit_content_filter,
               g.system_channel_id, g.system_channel_flags, g.rules_channel_id, g.preferred_locale,
               m.joined_at, m.roles
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
         WHERE m.user_id = $1 AND ($2::bigint[] IS NULL OR m.guild_id = ANY ($2))
         ORDER BY g.id
        """,
        user_id,
        guild_ids,
    )
    return [
        (
            _guild(row),
            OwnMembership(
                user_id=user_id,
                joined_at=Timestamp.at(row["joined_at"]),
                roles=tuple(map(Snowflake, row["roles"])),
            ),
        )
        for row in rows
    ]


async def roles_of(conn: Conn, guild_ids: Sequence[Snowflake]) -> dict[Snowflake, list[Role]]:
    """The roles of guilds, lowest first. Uses roles_guild_idx."""
    rows = await conn.fetch(
        """
        SELECT id, guild_id, name, permissions, position, color, hoist, mentionable, managed,
               unicode_emoji, flags, tags
          FROM roles
         WHERE guild_id = ANY($1::bigint[])
         ORDER BY guild_id, position, id
        """,
        guild_ids,
    )
    found: dict[Snowflake, list[Role]] = {guild_id: [] for guild_id in guild_ids}
    for row in rows:
        found[row["guild_id"]].append(_role(row))
    return found


async def channels_of(
    conn: Conn, guild_ids: Sequence[Snowflake]
) -> dict[Snowflake, list[GuildChannel]]:
    """The channels of guilds, in the order they are shown. Uses channels_shown_idx."""
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
         WHERE c.guild_id = ANY($1::bigint[]) AND c.type NOT IN (10, 11, 12)
         ORDER BY c.guild_id, c.position, c.id
        """,
        guild_ids,
    )
    found: dict[Snowflake, list[GuildChannel]] = {guild_id: [] for guild_id in guild_ids}
    for row in rows:
        found[row["guild_id"]].append(channel_of(row))
    return found


async def active_threads(
    conn: Conn, guild_ids: Sequence[Snowflake], whole: Sequence[Snowflake], viewer: Snowflake | None
) -> dict[Snowflake, list[tuple[Thread, tuple[ThreadMember, ...]]]]:
    """The active threads of guilds, by id, each with its members. Uses threads_active_idx.

    All members only in the guilds of `whole`; elsewhere the viewer, and those of private threads.
    """
    rows = await conn.fetch(
        """
        SELECT t.*, c.type, c.owner_id, c.name, c.rate_limit_per_user, c.flags,
               l.id AS last_message_id, j.members
          FROM threads AS t
          JOIN channels AS c ON c.id = t.channel_id
          LEFT JOIN LATERAL (
               SELECT m.id FROM messages AS m
                WHERE m.channel_id = c.id
                ORDER BY m.id DESC
                LIMIT 1
               ) AS l ON true
         CROSS JOIN LATERAL (
               SELECT array_agg((tm.user_id, tm.joined_at, tm.flags) ORDER BY tm.user_id) AS members
                 FROM thread_members AS tm
                WHERE tm.thread_id = t.channel_id
                  AND (c.type = 12 OR tm.user_id = $2 OR t.guild_id = ANY ($3::bigint[]))
               ) AS j
         WHERE t.guild_id = ANY($1::bigint[]) AND NOT t.archived
         ORDER BY t.guild_id, t.channel_id
        """,
        guild_ids,
        viewer,
        whole,
    )
    found: dict[Snowflake, list[tuple[Thread, tuple[ThreadMember, ...]]]] = {
        guild_id: [] for guild_id in guild_ids
    }
    for row in rows:
        thread = thread_of(row)
        members = tuple(
            ThreadMember(
                id=thread.id,
                user_id=Snowflake(user_id),
                join_timestamp=Timestamp.at(joined_at),
                flags=flags,
            )
            for user_id, joined_at, flags in row["members"] or ()
        )
        found[row["guild_id"]].append((thread, members))
    return found


def thread_of(row: asyncpg.Record) -> Thread:
    """A thread out of a row of threads, channels and the id of its last message."""
    is_private = row["type"] == _PRIVATE_THREAD
    return Thread(
        id=Snowflake(row["channel_id"]),
        type=row["type"],
        guild_id=Snowflake(row["guild_id"]),
        parent_id=Snowflake(row["parent_id"]),
        owner_id=Snowflake(row["owner_id"]),
        name=row["name"],
        last_message_id=_id(row["last_message_id"]),
        rate_limit_per_user=row["rate_limit_per_user"],
        message_count=row["message_count"],
        total_message_sent=row["total_message_sent"],
        member_count=row["member_count"],
        flags=row["flags"],
        applied_tags=tuple(map(Snowflake, row["applied_tags"])),
        thread_metadata=ThreadMetadata(
            archived=row["archived"],
            auto_archive_duration=row["auto_archive_duration"],
            archive_timestamp=Timestamp.at(row["archive_timestamp"]),
            locked=row["locked"],
            invitable=row["invitable"] if is_private else msgspec.UNSET,
            create_timestamp=Timestamp.at(row["created_at"]),
        ),
    )


async def roles_in_guilds(conn: Conn, user_id: Snowflake) -> dict[int, tuple[int, ...]]:
    """The guilds of an account, with its roles there; also those that are no more."""
    rows = await conn.fetch("SELECT guild_id, roles FROM members WHERE user_id = $1", user_id)
    return {row["guild_id"]: tuple(sorted(row["roles"])) for row in rows}


async def owners_of(conn: Conn, guild_ids: Sequence[Snowflake]) -> dict[Snowflake, Snowflake]:
    """Who owns each of these guilds, as far as there are such."""
    rows = await conn.fetch("SELECT id, owner_id FROM guilds WHERE id = ANY($1)", guild_ids)
    return {Snowflake(row["id"]): Snowflake(row["owner_id"]) for row in rows}


async def told_members_of(
    conn: Conn, guild_ids: Sequence[Snowflake], own_id: Snowflake, *, large: Sequence[Snowflake]
) -> dict[Snowflake, list[Member]]:
    """The members of each guild, but in the large ones only `own_id`; by id. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT p.*
          FROM (
               SELECT guild_id, user_id
                 FROM members
                WHERE guild_id = ANY ($1::bigint[])
                UNION ALL
               SELECT guild_id, user_id
                 FROM members
                WHERE guild_id = ANY ($2::bigint[]) AND user_id = $3
               ) AS m
          JOIN member_profiles AS p ON p.guild_id = m.guild_id AND p.user_id = m.user_id
         ORDER BY p.guild_id, p.user_id
        """,
        [guild_id for guild_id in guild_ids if guild_id not in large],
        large,
        own_id,
    )
    found: dict[Snowflake, list[Member]] = {guild_id: [] for guild_id in guild_ids}
    for row in rows:
        found[row["guild_id"]].append(member_of(row))
    return found


async def members_after(
    conn: Conn, guild_id: Snowflake, after: Snowflake, limit: int
) -> list[Member]:
    """The next members of a guild, in the order of their ids. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.*
          FROM member_profiles AS m
         WHERE m.guild_id = $1 AND m.user_id > $2
         ORDER BY m.user_id
         LIMIT $3
        """,
        guild_id,
        after,
        limit,
    )
    return [member_of(row) for row in rows]


async def members_between(
    conn: Conn, guild_id: Snowflake, after: Snowflake, upto: Snowflake, limit: int
) -> list[Member]:
    """Members of a span of ids, in the order of their ids. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.*
          FROM member_profiles AS m
         WHERE m.guild_id = $1 AND m.user_id > $2 AND m.user_id <= $3
         ORDER BY m.user_id
         LIMIT $4
        """,
        guild_id,
        after,
        upto,
        limit,
    )
    return [member_of(row) for row in rows]


async def members_among(
    conn: Conn, guild_id: Snowflake, user_ids: Sequence[Snowflake]
) -> list[Member]:
    """Those of some accounts that are members. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.*
          FROM unnest($2::bigint[]) AS a (id)
          JOIN member_profiles AS m ON m.guild_id = $1 AND m.user_id = a.id
        """,
        guild_id,
        user_ids,
    )
    return [member_of(row) for row in rows]


async def member_bounds(conn: Conn, guild_id: Snowflake, size: int) -> list[Snowflake]:
    """The ids at which pieces of `size` members end, but for the last piece.

    Walks the guild's part of members_pkey once.
    """
    rows = await conn.fetch(
        """
        SELECT n.user_id
          FROM (
               SELECT user_id, row_number() OVER (ORDER BY user_id) AS number
                 FROM members
                WHERE guild_id = $1
               ) AS n
         WHERE n.number % $2 = 0
           AND n.user_id < (SELECT max(user_id) FROM members WHERE guild_id = $1)
         ORDER BY n.user_id
        """,
        guild_id,
        size,
    )
    return [Snowflake(row["user_id"]) for row in rows]


async def memberships_of(conn: Conn, user_id: Snowflake) -> list[tuple[Snowflake, Member]]:
    """An account as the member that it is in each of its guilds; by guild."""
    rows = await conn.fetch(
        """
        SELECT m.*
          FROM member_profiles AS m
         WHERE m.user_id = $1
         ORDER BY m.guild_id
        """,
        user_id,
    )
    return [(Snowflake(row["guild_id"]), member_of(row)) for row in rows]


async def find_member(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> Member | None:
    row = await conn.fetchrow(
        """
        SELECT m.*
          FROM member_profiles AS m
         WHERE m.guild_id = $1 AND m.user_id = $2
        """,
        guild_id,
        user_id,
    )
    return None if row is None else member_of(row)


async def member_ids_of(conn: Conn, guild_id: Snowflake) -> tuple[Snowflake, ...]:
    rows = await conn.fetch("SELECT user_id FROM members WHERE guild_id = $1", guild_id)
    return tuple(Snowflake(row["user_id"]) for row in rows)


async def holders_of(conn: Conn, guild_id: Snowflake, bits: int, limit: int) -> list[Snowflake]:
    """The owner, administrators, and members with any of these permissions; at most so many.

    Who is timed out has them not, unless an administrator. Uses members_roles_idx, so that it does
    not cost in proportion to all members: were the members' guild named, which their roles say,
    the planner would rather read all of them.
    """
    rows = await conn.fetch(
        """
        SELECT owner_id AS user_id FROM guilds WHERE id = $1
        UNION
        (SELECT m.user_id
           FROM members AS m
          WHERE m.roles && ARRAY(
                SELECT r.id FROM roles AS r WHERE r.guild_id = $1 AND r.permissions & $3 <> 0
                )
          LIMIT $4)
        UNION
        (SELECT m.user_id
           FROM members AS m
          WHERE m.roles && ARRAY(
                SELECT r.id FROM roles AS r WHERE r.guild_id = $1 AND r.permissions & $2 <> 0
                )
            AND NOT coalesce(m.timed_out_until > now(), false)
          LIMIT $4)
        UNION
        (SELECT m.user_id
           FROM roles AS everyone
           JOIN members AS m ON m.guild_id = everyone.id
          WHERE everyone.id = $1 AND everyone.permissions & ($2 | $3) <> 0
            AND (everyone.permissions & $3 <> 0
                 OR NOT coalesce(m.timed_out_until > now(), false))
          LIMIT $4)
        """,
        guild_id,
        bits,
        int(permission.Permission.ADMINISTRATOR),
        limit,
    )
    return [Snowflake(row["user_id"]) for row in rows]


async def channel_ids_of(conn: Conn, guild_id: Snowflake) -> tuple[Snowflake, ...]:
    rows = await conn.fetch("SELECT id FROM channels WHERE guild_id = $1", guild_id)
    return tuple(Snowflake(row["id"]) for row in rows)


async def update(conn: Conn, guild: GuildRow) -> None:
    await conn.execute(
        """
        UPDATE guilds
           SET name = $2, description = $3, owner_id = $4, discoverable = $5, icon = $6,
               verification_level = $7, default_message_notifications = $8,
               explicit_content_filter = $9, system_channel_id = $10, system_channel_flags = $11,
               rules_channel_id = $12, preferred_locale = $13
         WHERE id = $1
        """,
        guild.id,
        guild.name,
        guild.description,
        guild.owner_id,
        guild.discoverable,
        guild.icon,
        guild.verification_level,
        guild.default_message_notifications,
        guild.explicit_content_filter,
        guild.system_channel_id,
        guild.system_channel_flags,
        guild.rules_channel_id,
        guild.preferred_locale,
    )


async def replace_icon(conn: Conn, guild_id: Snowflake, icon: Icon | None) -> None:
    """Keep the picture of a guild, whose address changes with it, or forget it."""
    if icon is None:
        await conn.execute("DELETE FROM guild_icons WHERE guild_id = $1", guild_id)
        return
    await conn.execute(
        """
        INSERT INTO guild_icons (guild_id, hash, media_type, data)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (guild_id) DO UPDATE
           SET hash = EXCLUDED.hash, media_type = EXCLUDED.media_type, data = EXCLUDED.data
        """,
        guild_id,
        icon.hash,
        icon.media_type,
        icon.data,
    )


async def find_icon(conn: Conn, guild_id: Snowflake, icon_hash: str) -> Icon | None:
    row = await conn.fetchrow(
        "SELECT hash, media_type, data FROM guild_icons WHERE guild_id = $1 AND hash = $2",
        guild_id,
        icon_hash,
    )
    if row is None:
        return None
    return Icon(hash=row["hash"], media_type=row["media_type"], data=row["data"])


async def forget_channel(conn: Conn, guild_id: Snowflake, channel_id: Snowflake) -> GuildRow | None:
    """Let a guild point at a channel no more; the guild as it is then, None if it did not."""
    row = await conn.fetchrow(
        """
        UPDATE guilds AS g
           SET system_channel_id = nullif(g.system_channel_id, $2),
               rules_channel_id = nullif(g.rules_channel_id, $2)
         WHERE g.id = $1 AND $2 IN (g.system_channel_id, g.rules_channel_id)
        RETURNING g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count, g.icon,
                  g.verification_level, g.default_message_notifications,
                  g.explicit_content_filter, g.system_channel_id, g.system_channel_flags,
                  g.rules_channel_id, g.preferred_locale
        """,
        guild_id,
        channel_id,
    )
    return None if row is None else _guild(row)


async def delete(conn: Conn, guild_id: Snowflake) -> None:
    """Delete a guild and, by the foreign keys, all that is in it.

    But of the messages, which may be millions, only some: their channels are queued to be purged.
    """
    await conn.execute(
        """
        DELETE FROM messages
         WHERE ctid = ANY (ARRAY(
               SELECT m.ctid
                 FROM channels AS c
                CROSS JOIN LATERAL (
                      SELECT ctid FROM messages WHERE channel_id = c.id LIMIT $2
                      ) AS m
                WHERE c.guild_id = $1
                LIMIT $2
         ))
        """,
        guild_id,
        DELETED_AT_ONCE,
    )
    await conn.execute(
        """
        INSERT INTO purges (channel_id)
        SELECT id FROM channels WHERE guild_id = $1
        """,
        guild_id,
    )
    await conn.execute("DELETE FROM guilds WHERE id = $1", guild_id)


async def delete_member(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> list[LeftThread]:
    """Remove a member, also from the guild's threads, and count it. Needs the guild's lock.

    Gives the active ones of those threads. A timeout that still runs is kept.
    """
    rows = await conn.fetch(
        """
        WITH gone AS (
            DELETE FROM thread_members AS tm
             USING threads AS t
             WHERE tm.user_id = $2 AND t.channel_id = tm.thread_id AND t.guild_id = $1
            RETURNING tm.thread_id
        )
        UPDATE threads AS t SET member_count = t.member_count - 1
          FROM channels AS c
         WHERE t.channel_id IN (SELECT thread_id FROM gone) AND c.id = t.channel_id
        RETURNING t.channel_id AS id, t.parent_id, t.archived, t.member_count,
                  CASE WHEN c.type = 12 THEN ARRAY(
                      SELECT tm.user_id FROM thread_members AS tm
                       WHERE tm.thread_id = t.channel_id AND tm.user_id <> $2
                  ) END AS members
        """,
        guild_id,
        user_id,
    )
    # Nobody shakes off a timeout by leaving and coming back.
    await conn.execute(
        """
        INSERT INTO timeouts (guild_id, user_id, until)
        SELECT guild_id, user_id, timed_out_until
          FROM members
         WHERE guild_id = $1 AND user_id = $2 AND timed_out_until > now()
        ON CONFLICT (guild_id, user_id) DO UPDATE SET until = excluded.until
        """,
        guild_id,
        user_id,
    )
    await conn.execute(
        """
        WITH removed AS (
            DELETE FROM members WHERE guild_id = $1 AND user_id = $2 RETURNING guild_id
        )
        UPDATE guilds SET member_count = member_count - 1
         WHERE id = (SELECT guild_id FROM removed)
        """,
        guild_id,
        user_id,
    )
    return [
        LeftThread(
            id=Snowflake(row["id"]),
            parent_id=Snowflake(row["parent_id"]),
            member_count=row["member_count"],
            members=None if row["members"] is None else tuple(map(Snowflake, row["members"])),
        )
        for row in rows
        if not row["archived"]
    ]


def _guild(row: asyncpg.Record) -> GuildRow:
    return GuildRow(
        id=Snowflake(row["id"]),
        name=row["name"],
        description=row["description"],
        owner_id=Snowflake(row["owner_id"]),
        discoverable=row["discoverable"],
        member_count=row["member_count"],
        icon=row["icon"],
        verification_level=row["verification_level"],
        default_message_notifications=row["default_message_notifications"],
        explicit_content_filter=row["explicit_content_filter"],
        system_channel_id=_id(row["system_channel_id"]),
        system_channel_flags=row["system_channel_flags"],
        rules_channel_id=_id(row["rules_channel_id"]),
        preferred_locale=row["preferred_locale"],
    )


def _standing(row: asyncpg.Record, guild_id: Snowflake) -> permission.Standing:
    return permission.Standing(
        user_id=row["user_id"],
        guild_id=guild_id,
        everyone=row["everyone"],
        roles=tuple(zip(row["roles"], row["bits"] or (), strict=True)),
        is_owner=row["owner_id"] == row["user_id"],
        is_timed_out=row["is_timed_out"],
    )


def _public(row: asyncpg.Record) -> PublicGuild:
    return PublicGuild(
        id=Snowflake(row["id"]),
        name=row["name"],
        description=row["description"],
        icon=row["icon"],
        features=("DISCOVERABLE",),
        approximate_member_count=row["member_count"],
    )


def _own(row: asyncpg.Record) -> OwnGuild:
    guild_id = Snowflake(row["id"])
    return OwnGuild(
        id=guild_id,
        name=row["name"],
        description=row["description"],
        icon=row["icon"],
        features=("DISCOVERABLE",) if row["discoverable"] else (),
        approximate_member_count=row["member_count"],
        owner=row["owner_id"] == row["user_id"],
        permissions=str(permission.in_guild(_standing(row, guild_id))),
    )


def member_of(row: asyncpg.Record) -> Member:
    """A member out of a row of member_profiles."""
    until = row["timed_out_until"]
    return Member(
        user=User(
            id=Snowflake(row["user_id"]),
            username=row["username"],
            global_name=row["global_name"],
        ),
        nick=row["nick"],
        roles=tuple(map(Snowflake, row["roles"])),
        joined_at=Timestamp.at(row["joined_at"]),
        flags=row["flags"],
        communication_disabled_until=None if until is None else Timestamp.at(until),
    )


def _role(row: asyncpg.Record) -> Role:
    tags = row["tags"]
    return Role(
        id=Snowflake(row["id"]),
        name=row["name"],
        color=row["color"],
        colors=RoleColors(primary_color=row["color"]),
        hoist=row["hoist"],
        unicode_emoji=row["unicode_emoji"],
        position=row["position"],
        permissions=str(row["permissions"]),
        managed=row["managed"],
        mentionable=row["mentionable"],
        flags=row["flags"],
        tags=msgspec.UNSET if tags is None else _read_tags(tags),
    )


def channel_of(row: asyncpg.Record) -> GuildChannel:
    """A channel of a guild with its overwrites and the id of its last message."""
    forum = Forum() if row["forum"] is None else _read_forum(row["forum"])
    has_threads = row["default_auto_archive_duration"] is not None
    return GuildChannel(
        id=Snowflake(row["id"]),
        type=row["type"],
        guild_id=Snowflake(row["guild_id"]),
        name=row["name"],
        topic=row["topic"],
        position=row["position"],
        permission_overwrites=tuple(
            ChannelOverwrite(id=Snowflake(target_id), type=kind, allow=str(allow), deny=str(deny))
            for target_id, kind, allow, deny in row["overwrites"] or ()
        ),
        nsfw=row["nsfw"],
        rate_limit_per_user=row["rate_limit_per_user"],
        parent_id=_id(row["parent_id"]),
        last_message_id=_id(row["last_message_id"]),
        flags=row["flags"],
        default_auto_archive_duration=(
            row["default_auto_archive_duration"] if has_threads else msgspec.UNSET
        ),
        default_thread_rate_limit_per_user=(
            msgspec.UNSET
            if row["default_thread_rate_limit_per_user"] is None
            else row["default_thread_rate_limit_per_user"]
        ),
        **(msgspec.structs.asdict(forum) if row["type"] == _FORUM else {}),
    )


def _id(number: int | None) -> Snowflake | None:
    return None if number is None else Snowflake(number)
