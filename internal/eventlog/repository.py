"""SQL for the event log."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import asyncpg

from internal.db.postgres import Conn
from internal.eventlog.model import Entry


class Head(NamedTuple):
    """The newest position, and which life of the database it belongs to."""

    pos: int
    epoch: int


class Backlog(NamedTuple):
    """How far the log is, and what waits for a position."""

    head: int
    oldest_s: float | None
    epoch: int


async def head(conn: Conn) -> Head:
    row = await conn.fetchrow("SELECT pos, epoch FROM log_head")
    if row is None:
        raise LookupError("log_head is empty: the migrations were not applied")
    return Head(row["pos"], row["epoch"])


async def backlog(conn: Conn) -> Backlog:
    row = await conn.fetchrow(
        """
        SELECT h.pos, h.epoch,
               (SELECT extract(epoch FROM clock_timestamp() - o.created_at)::float8
                  FROM event_outbox AS o
                 ORDER BY o.id
                 LIMIT 1) AS oldest_s
          FROM log_head AS h
        """
    )
    if row is None:
        raise LookupError("log_head is empty: the migrations were not applied")
    return Backlog(row["pos"], row["oldest_s"], row["epoch"])


async def drain(conn: Conn, limit: int) -> list[Entry]:
    """Give positions to committed events; empty when another node is at it.

    Must be called outside a transaction: the entries may be told once the call has returned.
    """
    rows = await conn.fetch(
        """
        SELECT pos, outbox_id, type, users, guild_id, channel_id,
               subject, retracts, retracts_channels, revises, payload, created_at,
               parent_id, reshapes
          FROM drain($1)
        """,
        limit,
    )
    return _entries(rows)


async def after(conn: Conn, pos: int, limit: int) -> list[Entry]:
    """The entries behind a position, oldest first, by the primary key."""
    rows = await conn.fetch(
        """
        SELECT pos, outbox_id, type, users, guild_id, channel_id,
               subject, retracts, retracts_channels, revises, payload, created_at,
               parent_id, reshapes
          FROM event_log
         WHERE pos > $1
         ORDER BY pos
         LIMIT $2
        """,
        pos,
        limit,
    )
    return _entries(rows)


async def concerning(
    conn: Conn, user_id: int, guilds: Sequence[int], *, after: int, upto: int
) -> list[Entry]:
    """What may be told to a user in a span of positions. The caller bounds the span."""
    rows = await conn.fetch(
        """
        SELECT pos, outbox_id, type, users, guild_id, channel_id,
               subject, retracts, retracts_channels, revises, payload, created_at,
               parent_id, reshapes
          FROM event_log
         WHERE pos > $3
           AND pos <= $4
           AND (users @> ARRAY[$1::bigint] OR (users IS NULL AND guild_id = ANY($2::bigint[])))
         ORDER BY pos
        """,
        user_id,
        guilds,
        after,
        upto,
    )
    return _entries(rows)


async def age_s(conn: Conn, pos: int) -> float | None:
    """How old the oldest entry at or behind a position is; None when there is none."""
    age: float | None = await conn.fetchval(
        """
        SELECT extract(epoch FROM now() - created_at)::float8
          FROM event_log
         WHERE pos >= $1
         ORDER BY pos
         LIMIT 1
        """,
        pos,
    )
    return age


async def oldest(conn: Conn) -> int | None:
    """The first position that is still held."""
    pos: int | None = await conn.fetchval("SELECT pos FROM event_log ORDER BY pos LIMIT 1")
    return pos


async def undrained(conn: Conn, limit: int) -> list[tuple[int, int | None]]:
    """Outbox ids, with their guilds, of what is committed and has no position in this snapshot."""
    rows = await conn.fetch("SELECT id, guild_id FROM event_outbox ORDER BY id LIMIT $1", limit)
    return [(row["id"], row["guild_id"]) for row in rows]


async def undrained_of(conn: Conn, guild_ids: Sequence[int]) -> list[tuple[int, int, str]]:
    """What of guilds has no position in this snapshot: outbox ids, guilds and types."""
    rows = await conn.fetch(
        """
        SELECT id, guild_id, type
          FROM event_outbox
         WHERE guild_id = ANY ($1::bigint[])
        """,
        guild_ids,
    )
    return [(row["id"], row["guild_id"], row["type"]) for row in rows]


async def undrained_reshapes(conn: Conn, user_id: int, known: Sequence[int]) -> set[int]:
    """The guilds in which a member is about to see other channels, without a position yet.

    Also where a channel is about to go: of one that is no more nobody can be told that.

    `known` are outbox ids to leave out: what READY has told already.
    """
    rows = await conn.fetch(
        """
        SELECT DISTINCT guild_id
          FROM event_outbox
         WHERE guild_id IS NOT NULL
           AND (reshapes IN (0, $1) OR type = 'CHANNEL_DELETE')
           AND id <> ALL ($2::bigint[])
        """,
        user_id,
        known,
    )
    return {row["guild_id"] for row in rows}


async def last_reshape(conn: Conn, guild_id: int, user_id: int, after: int, upto: int) -> int:
    """The last position in a span behind which a member may see other channels; `after` if none.

    Joining is such a change. Those of the server's own events only ask for a guild to be told
    afresh.
    """
    found: int | None = await conn.fetchval(
        """
        SELECT max(pos)
          FROM event_log
         WHERE pos > $3 AND pos <= $4 AND guild_id = $1
           AND ((reshapes IN (0, $2) AND type = upper(type))
                OR (type = 'GUILD_CREATE' AND users @> ARRAY[$2::bigint]))
        """,
        guild_id,
        user_id,
        after,
        upto,
    )
    return after if found is None else found


async def undrained_moves(conn: Conn, user_id: int, known: Sequence[int]) -> set[int]:
    """The guilds that a user is joining or leaving without a position yet.

    `known` are outbox ids to leave out: what READY has told already.
    """
    rows = await conn.fetch(
        """
        SELECT DISTINCT guild_id
          FROM event_outbox
         WHERE users @> ARRAY[$1::bigint]
           AND type IN ('GUILD_CREATE', 'GUILD_DELETE')
           AND id <> ALL ($2::bigint[])
        """,
        user_id,
        known,
    )
    return {row["guild_id"] for row in rows}


async def still_undrained(conn: Conn, ids: Sequence[int]) -> list[int]:
    """Which of these outbox ids have no position yet."""
    rows = await conn.fetch("SELECT id FROM event_outbox WHERE id = ANY ($1::bigint[])", ids)
    return [row["id"] for row in rows]


async def maintain(conn: Conn, keep: timedelta) -> tuple[int, int]:
    """Make the partitions ahead, drop the expired; how many of each."""
    row = await conn.fetchrow("SELECT made, dropped FROM maintain_event_log($1)", keep)
    return (row["made"], row["dropped"]) if row else (0, 0)


async def expire(conn: Conn, keep: timedelta, limit: int) -> int:
    """Delete entries past their age from partitions that are not yet expired as a whole."""
    done: int = await conn.fetchval(
        """
        WITH expired AS (
            DELETE FROM event_log
             WHERE pos IN (
                   SELECT pos
                     FROM (SELECT pos, created_at FROM event_log ORDER BY pos LIMIT $2) AS first
                    WHERE created_at < now() - $1::interval
                   )
            RETURNING pos
        )
        SELECT count(*) FROM expired
        """,
        keep,
        limit,
    )
    return done


def _entries(rows: Sequence[asyncpg.Record]) -> list[Entry]:
    return [Entry(row) for row in rows]
