"""SQL for threads, their members and their archive."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from internal.channel.thread.model import ThreadParticipant
from internal.db.postgres import Conn
from internal.guild.model import Member, Thread, ThreadMember
from internal.guild.repository import member_of, thread_of
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

# A thread and an account.
Pair = tuple[Snowflake, Snowflake]


async def insert(conn: Conn, thread: Thread, *, invitable: bool, now: datetime) -> None:
    """Make a thread that nobody is in yet. Needs the guild's lock."""
    await conn.execute(
        """
        INSERT INTO channels (
               id, guild_id, type, name, parent_id, owner_id, rate_limit_per_user, flags
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        thread.id,
        thread.guild_id,
        thread.type,
        thread.name,
        thread.parent_id,
        thread.owner_id,
        thread.rate_limit_per_user,
        thread.flags,
    )
    await conn.execute(
        """
        INSERT INTO threads (
               channel_id, guild_id, parent_id, invitable, auto_archive_duration, applied_tags,
               archive_timestamp, last_active_at, created_at, archive_check_at
        )
        VALUES (
               $1, $2, $3, $4, $5::integer, $6, $7::timestamptz, $7, $7,
               $7::timestamptz + $5 * interval '1 minute'
        )
        """,
        thread.id,
        thread.guild_id,
        thread.parent_id,
        invitable,
        thread.thread_metadata.auto_archive_duration,
        thread.applied_tags,
        now,
    )


async def find(conn: Conn, thread_id: Snowflake, viewer: Snowflake) -> Thread | None:
    """A thread with the viewer's membership in it."""
    row = await conn.fetchrow(
        """
        SELECT t.*, tm.joined_at, tm.flags AS member_flags
          FROM thread_profiles AS t
          LEFT JOIN thread_members AS tm ON tm.thread_id = t.channel_id AND tm.user_id = $2
         WHERE t.channel_id = $1
        """,
        thread_id,
        viewer,
    )
    return None if row is None else _own(row, viewer)


async def exists(conn: Conn, channel_id: Snowflake) -> bool:
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM threads WHERE channel_id = $1)", channel_id
    )
    return found


async def is_taken(conn: Conn, thread_id: Snowflake) -> bool:
    """Whether there is a thread with the id of a message."""
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM channels WHERE id = $1)", thread_id
    )
    return found


async def is_being_purged(conn: Conn, thread_id: Snowflake) -> bool:
    """Whether messages of an earlier thread with this id may be left."""
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM purges WHERE channel_id = $1)", thread_id
    )
    return found


async def of_messages(
    conn: Conn, channel_id: Snowflake, message_ids: Sequence[Snowflake], viewer: Snowflake
) -> dict[Snowflake, Thread]:
    """The threads that were started from messages of a channel."""
    rows = await conn.fetch(
        """
        SELECT t.*, tm.joined_at, tm.flags AS member_flags
          FROM thread_profiles AS t
          LEFT JOIN thread_members AS tm ON tm.thread_id = t.channel_id AND tm.user_id = $3
         WHERE t.channel_id = ANY($1::bigint[]) AND t.parent_id = $2
        """,
        message_ids,
        channel_id,
        viewer,
    )
    return {Snowflake(row["channel_id"]): _own(row, viewer) for row in rows}


async def active(conn: Conn, guild_id: Snowflake, viewer: Snowflake) -> list[Thread]:
    """All active threads of a guild, newest first. Uses threads_active_idx."""
    rows = await conn.fetch(
        """
        SELECT t.*, tm.joined_at, tm.flags AS member_flags
          FROM thread_profiles AS t
          LEFT JOIN thread_members AS tm ON tm.thread_id = t.channel_id AND tm.user_id = $2
         WHERE t.guild_id = $1 AND NOT t.archived
         ORDER BY t.channel_id DESC
        """,
        guild_id,
        viewer,
    )
    return [_own(row, viewer) for row in rows]


async def count_active(conn: Conn, guild_id: Snowflake) -> int:
    """How many threads of a guild are active. Sure until the commit only under its lock."""
    count: int = await conn.fetchval(
        "SELECT count(*) FROM threads WHERE guild_id = $1 AND NOT archived", guild_id
    )
    return count


async def has_pinned(conn: Conn, forum_id: Snowflake, flag: int) -> bool:
    found: bool = await conn.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM channels WHERE parent_id = $1 AND flags & $2 <> 0 AND type IN (10, 11, 12)
        )
        """,
        forum_id,
        flag,
    )
    return found


async def archived(
    conn: Conn,
    channel_id: Snowflake,
    viewer: Snowflake,
    *,
    is_private: bool,
    before: datetime | None,
    limit: int,
) -> list[Thread]:
    """Archived threads of a channel, what was archived last first. Uses threads_archived_idx."""
    rows = await conn.fetch(
        """
        SELECT t.*, tm.joined_at, tm.flags AS member_flags
          FROM thread_profiles AS t
          LEFT JOIN thread_members AS tm ON tm.thread_id = t.channel_id AND tm.user_id = $2
         WHERE t.parent_id = $1 AND t.archived AND (t.type = 12) = $3
           AND ($4::timestamptz IS NULL OR t.archive_timestamp < $4)
         ORDER BY t.archive_timestamp DESC, t.channel_id DESC
         LIMIT $5
        """,
        channel_id,
        viewer,
        is_private,
        before,
        limit,
    )
    return [_own(row, viewer) for row in rows]


async def own_archived(
    conn: Conn, channel_id: Snowflake, viewer: Snowflake, before: Snowflake | None, limit: int
) -> list[Thread]:
    """Archived private threads of a channel that an account is in, newest first."""
    rows = await conn.fetch(
        """
        SELECT t.*, tm.joined_at, tm.flags AS member_flags
          FROM thread_members AS tm
          JOIN thread_profiles AS t ON t.channel_id = tm.thread_id
         WHERE tm.user_id = $2 AND ($3::bigint IS NULL OR tm.thread_id < $3)
           AND t.parent_id = $1 AND t.archived AND t.type = 12
         ORDER BY tm.thread_id DESC
         LIMIT $4
        """,
        channel_id,
        viewer,
        before,
        limit,
    )
    return [_own(row, viewer) for row in rows]


async def update(conn: Conn, thread: Thread) -> None:
    """Write what can be changed of a thread, apart from its being archived."""
    metadata = thread.thread_metadata
    await conn.execute(
        "UPDATE channels SET name = $2, rate_limit_per_user = $3, flags = $4 WHERE id = $1",
        thread.id,
        thread.name,
        thread.rate_limit_per_user,
        thread.flags,
    )
    await conn.execute(
        """
        UPDATE threads
           SET locked = $2, auto_archive_duration = $3::integer, applied_tags = $4,
               invitable = coalesce($5, invitable),
               archive_check_at = least(
                   archive_check_at, last_active_at + $3 * interval '1 minute'
               )
         WHERE channel_id = $1
        """,
        thread.id,
        metadata.locked,
        metadata.auto_archive_duration,
        thread.applied_tags,
        None if metadata.invitable is msgspec.UNSET else metadata.invitable,
    )


async def archive(conn: Conn, thread_id: Snowflake, now: datetime) -> None:
    """Archive a thread. Needs the guild's lock: no two of a channel get the same time."""
    await conn.execute(
        """
        UPDATE threads AS t
           SET archived = true, archive_timestamp = greatest($2, (
               SELECT max(o.archive_timestamp) + interval '1 microsecond'
                 FROM threads AS o
                WHERE o.parent_id = t.parent_id AND o.archived
               ))
         WHERE t.channel_id = $1
        """,
        thread_id,
        now,
    )


async def reopen(conn: Conn, thread_id: Snowflake, now: datetime) -> None:
    await conn.execute(
        """
        UPDATE threads
           SET archived = false, archive_timestamp = $2::timestamptz, last_active_at = $2,
               archive_check_at = $2::timestamptz + auto_archive_duration * interval '1 minute'
         WHERE channel_id = $1
        """,
        thread_id,
        now,
    )


# What happens in threads.


async def insert_members(conn: Conn, pairs: Sequence[Pair], now: datetime) -> set[Pair]:
    """Let accounts into threads; those who were not in them. The counts are not changed.

    Waits for other transactions that let the same ones in, so they are taken in one order.
    """
    ordered = sorted(pairs)
    rows = await conn.fetch(
        """
        INSERT INTO thread_members (thread_id, user_id, joined_at)
        SELECT a.thread_id, a.user_id, $3
          FROM unnest($1::bigint[], $2::bigint[]) AS a (thread_id, user_id)
        ON CONFLICT (thread_id, user_id) DO NOTHING
        RETURNING thread_id, user_id
        """,
        [thread_id for thread_id, _ in ordered],
        [user_id for _, user_id in ordered],
        now,
    )
    return {(Snowflake(row["thread_id"]), Snowflake(row["user_id"])) for row in rows}


async def count(
    conn: Conn,
    changes: Sequence[tuple[Snowflake, int, int, int]],
    active_at: datetime | None,
) -> dict[Snowflake, int]:
    """Add to the messages, the messages ever sent and the members of threads; their members now.

    The rows are locked in one order until the commit. `active_at` puts the archiving off.
    """
    rows = await conn.fetch(
        """
        WITH changes AS (
            SELECT *
              FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::integer[])
                   AS c (thread_id, messages, sent, members)
        ), locked AS (
            SELECT t.channel_id
              FROM threads AS t
             WHERE t.channel_id = ANY($1::bigint[])
             ORDER BY t.channel_id
               FOR NO KEY UPDATE
        )
        UPDATE threads AS t
           SET message_count = greatest(t.message_count + c.messages, 0),
               total_message_sent = t.total_message_sent + c.sent,
               member_count = t.member_count + c.members,
               last_active_at = coalesce(greatest(t.last_active_at, $5), t.last_active_at)
          FROM changes AS c
          JOIN locked AS l ON l.channel_id = c.thread_id
         WHERE t.channel_id = c.thread_id
        RETURNING t.channel_id, t.member_count
        """,
        [change[0] for change in changes],
        [change[1] for change in changes],
        [change[2] for change in changes],
        [change[3] for change in changes],
        active_at,
    )
    return {Snowflake(row["channel_id"]): row["member_count"] for row in rows}


async def delete_member(conn: Conn, thread_id: Snowflake, user_id: Snowflake) -> bool:
    """Take an account out of a thread; False if it was not in it. The count is not changed."""
    status: str = await conn.execute(
        "DELETE FROM thread_members WHERE thread_id = $1 AND user_id = $2", thread_id, user_id
    )
    return not status.endswith(" 0")


async def members_after(
    conn: Conn,
    thread_id: Snowflake,
    after: Snowflake,
    limit: int,
    *,
    with_member: bool = False,
) -> list[ThreadParticipant]:
    """The next members of a thread, in the order of their ids. Uses thread_members_pkey."""
    rows = await conn.fetch(
        """
        SELECT thread_id, user_id, joined_at, flags
          FROM thread_members
         WHERE thread_id = $1 AND user_id > $2
         ORDER BY user_id
         LIMIT $3
        """,
        thread_id,
        after,
        limit,
    )
    found = [ThreadParticipant(**_membership(row)) for row in rows]
    if not with_member:
        return found
    members = await _members(conn, thread_id, [one.user_id for one in found])
    return [
        msgspec.structs.replace(one, member=members.get(one.user_id, msgspec.UNSET))
        for one in found
    ]


async def newest_members(conn: Conn, thread_id: Snowflake, limit: int) -> list[ThreadMember]:
    """Who is in a thread, of too many those who came last."""
    rows = await conn.fetch(
        """
        SELECT thread_id, user_id, joined_at, flags
          FROM thread_members
         WHERE thread_id = $1
         ORDER BY joined_at DESC, user_id
         LIMIT $2
        """,
        thread_id,
        limit,
    )
    return [ThreadMember(**_membership(row)) for row in rows]


# Archiving by time.


async def guild_to_look_at(conn: Conn, now: datetime) -> Snowflake | None:
    """A guild with threads that may have been idle for long enough. Uses threads_check_idx."""
    guild_id = await conn.fetchval(
        """
        SELECT guild_id FROM threads
         WHERE NOT archived AND archive_check_at <= $1
         ORDER BY archive_check_at
         LIMIT 1
        """,
        now,
    )
    return None if guild_id is None else Snowflake(guild_id)


async def look_again_later(conn: Conn, guild_id: Snowflake, now: datetime) -> None:
    """Put off the archiving of threads in which somebody has written."""
    await conn.execute(
        """
        UPDATE threads
           SET archive_check_at = last_active_at + auto_archive_duration * interval '1 minute'
         WHERE guild_id = $1 AND NOT archived AND archive_check_at <= $2
           AND last_active_at + auto_archive_duration * interval '1 minute' > $2
        """,
        guild_id,
        now,
    )


async def idle(conn: Conn, guild_id: Snowflake, now: datetime, limit: int) -> list[Snowflake]:
    """Threads of a guild that have been idle for long enough, the longest first."""
    rows = await conn.fetch(
        """
        SELECT channel_id FROM threads
         WHERE guild_id = $1 AND NOT archived AND archive_check_at <= $2
         ORDER BY archive_check_at, channel_id
         LIMIT $3
        """,
        guild_id,
        now,
        limit,
    )
    return [Snowflake(row["channel_id"]) for row in rows]


async def archive_all(conn: Conn, thread_ids: Sequence[Snowflake], now: datetime) -> None:
    """Archive threads of one guild, whose lock that needs; no two get the same time."""
    await conn.execute(
        """
        UPDATE threads AS t
           SET archived = true, archive_timestamp = d.floor + d.place * interval '1 microsecond'
          FROM (
               SELECT a.id, a.place, greatest($2, (
                      SELECT max(l.at)
                        FROM (
                             SELECT DISTINCT parent_id FROM threads WHERE channel_id = ANY($1)
                             ) AS p
                       CROSS JOIN LATERAL (
                             SELECT o.archive_timestamp AS at
                               FROM threads AS o
                              WHERE o.parent_id = p.parent_id AND o.archived
                              ORDER BY o.archive_timestamp DESC
                              LIMIT 1
                             ) AS l
                      )) AS floor
                 FROM unnest($1::bigint[]) WITH ORDINALITY AS a (id, place)
               ) AS d
         WHERE t.channel_id = d.id
        """,
        thread_ids,
        now,
    )


async def with_members(
    conn: Conn, thread_ids: Sequence[Snowflake]
) -> list[tuple[Thread, tuple[Snowflake, ...] | None]]:
    """Threads and, of private ones, who is in them."""
    rows = await conn.fetch(
        """
        SELECT t.*, CASE WHEN t.type = 12 THEN ARRAY(
                   SELECT tm.user_id FROM thread_members AS tm WHERE tm.thread_id = t.channel_id
               ) END AS members
          FROM thread_profiles AS t
         WHERE t.channel_id = ANY($1::bigint[])
         ORDER BY t.channel_id
        """,
        thread_ids,
    )
    return [
        (
            thread_of(row),
            None if row["members"] is None else tuple(map(Snowflake, row["members"])),
        )
        for row in rows
    ]


async def _members(
    conn: Conn, thread_id: Snowflake, user_ids: Sequence[Snowflake]
) -> dict[Snowflake, Member]:
    rows = await conn.fetch(
        """
        SELECT p.*
          FROM member_profiles AS p
         WHERE p.guild_id = (SELECT guild_id FROM threads WHERE channel_id = $1)
           AND p.user_id = ANY($2::bigint[])
        """,
        thread_id,
        user_ids,
    )
    return {Snowflake(row["user_id"]): member_of(row) for row in rows}


def _membership(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": Snowflake(row["thread_id"]),
        "user_id": Snowflake(row["user_id"]),
        "join_timestamp": Timestamp.at(row["joined_at"]),
        "flags": row["flags"],
    }


def _own(row: asyncpg.Record, viewer: Snowflake) -> Thread:
    """A thread as one account sees it."""
    thread = thread_of(row)
    if row["joined_at"] is None:
        return thread
    member = ThreadMember(
        id=thread.id,
        user_id=viewer,
        join_timestamp=Timestamp.at(row["joined_at"]),
        flags=row["member_flags"],
    )
    return msgspec.structs.replace(thread, member=member)
