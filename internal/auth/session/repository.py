"""SQL for login sessions."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from internal.auth.session.model import Client, StoredSession
from internal.db.postgres import Conn
from internal.eventlog.freshness import AsOf
from internal.utils.snowflake import Snowflake


async def insert(conn: Conn, session: StoredSession, client: Client) -> None:
    await conn.execute(
        """
        INSERT INTO login_sessions (
               id, user_id, refresh_hash, generation, rotated_at, created_at, last_used_at,
               expires_at, address, user_agent
        )
        VALUES ($1, $2, $3, $4, $5, $5, $5, $6, $7, $8)
        """,
        session.id,
        session.user_id,
        session.refresh_hash,
        session.generation,
        session.rotated_at,
        session.expires_at,
        client.address,
        client.user_agent,
    )


async def find_expiry(conn: Conn, session_id: Snowflake, user_id: Snowflake) -> datetime | None:
    expires_at: datetime | None = await conn.fetchval(
        """
        SELECT expires_at
          FROM login_sessions
         WHERE id = $1
           AND user_id = $2
        """,
        session_id,
        user_id,
    )
    return expires_at


async def find_expiry_as_of(
    conn: Conn, session_id: Snowflake, user_id: Snowflake
) -> tuple[datetime | None, AsOf]:
    """When a session expires, and the head of the log at that moment; None without a session."""
    row = await conn.fetchrow(
        """
        SELECT s.expires_at, h.pos, h.epoch
          FROM log_head AS h
          LEFT JOIN login_sessions AS s
            ON s.id = $1
           AND s.user_id = $2
        """,
        session_id,
        user_id,
    )
    if row is None:
        raise LookupError("log_head is empty: the migrations were not applied")
    return row["expires_at"], AsOf(row["pos"], row["epoch"])


async def of_user(conn: Conn, user_id: Snowflake, limit: int) -> list[asyncpg.Record]:
    """Sessions of a user, the newest first. Index: login_sessions_user_idx."""
    return await conn.fetch(
        """
        SELECT id, created_at, last_used_at, expires_at, address, user_agent
          FROM login_sessions
         WHERE user_id = $1
         ORDER BY id DESC
         LIMIT $2
        """,
        user_id,
        limit,
    )


async def lock(conn: Conn, session_id: Snowflake) -> StoredSession | None:
    row = await conn.fetchrow(
        """
        SELECT id, user_id, refresh_hash, generation, rotated_at, expires_at
          FROM login_sessions
         WHERE id = $1
           FOR UPDATE
        """,
        session_id,
    )
    if row is None:
        return None
    return StoredSession(
        id=Snowflake(row["id"]),
        user_id=Snowflake(row["user_id"]),
        refresh_hash=row["refresh_hash"],
        generation=row["generation"],
        rotated_at=row["rotated_at"],
        expires_at=row["expires_at"],
    )


async def rotate(conn: Conn, session: StoredSession, client: Client) -> None:
    await conn.execute(
        """
        UPDATE login_sessions
           SET refresh_hash = $2, generation = $3, rotated_at = $4, last_used_at = $4,
               expires_at = $5, address = $6, user_agent = $7
         WHERE id = $1
        """,
        session.id,
        session.refresh_hash,
        session.generation,
        session.rotated_at,
        session.expires_at,
        client.address,
        client.user_agent,
    )


async def delete(conn: Conn, session_id: Snowflake, user_id: Snowflake) -> bool:
    status = await conn.execute(
        """
        DELETE FROM login_sessions
         WHERE id = $1
           AND user_id = $2
        """,
        session_id,
        user_id,
    )
    return status == "DELETE 1"


async def delete_of_user(conn: Conn, user_id: Snowflake) -> list[Snowflake]:
    rows = await conn.fetch(
        """
        DELETE FROM login_sessions
         WHERE user_id = $1
        RETURNING id
        """,
        user_id,
    )
    return _ids(rows)


async def delete_beyond(conn: Conn, user_id: Snowflake, most: int) -> list[Snowflake]:
    """Delete all but the sessions that were used last. The user's row must be locked."""
    rows = await conn.fetch(
        """
        DELETE FROM login_sessions
         WHERE id IN (
               SELECT id
                 FROM login_sessions
                WHERE user_id = $1
                ORDER BY last_used_at DESC, id DESC
               OFFSET $2
               )
        RETURNING id
        """,
        user_id,
        most,
    )
    return _ids(rows)


async def delete_expired(
    conn: Conn, now: datetime, limit: int
) -> list[tuple[Snowflake, Snowflake]]:
    """Delete expired sessions and tell whose they were. Index: login_sessions_expiry_idx."""
    rows = await conn.fetch(
        """
        DELETE FROM login_sessions
         WHERE id IN (
               SELECT id
                 FROM login_sessions
                WHERE expires_at <= $1
                ORDER BY expires_at
                LIMIT $2
                  FOR UPDATE SKIP LOCKED
               )
        RETURNING user_id, id
        """,
        now,
        limit,
    )
    return [(Snowflake(row["user_id"]), Snowflake(row["id"])) for row in rows]


async def remember_network(conn: Conn, user_id: Snowflake, network: str, now: datetime) -> None:
    await conn.execute(
        """
        INSERT INTO login_networks (user_id, network, last_used_at)
        VALUES ($1, $2, $3)
            ON CONFLICT (user_id, network)
            DO UPDATE SET last_used_at = excluded.last_used_at
        """,
        user_id,
        network,
        now,
    )


async def network_exists(conn: Conn, user_id: Snowflake, network: str) -> bool:
    exists: bool = await conn.fetchval(
        """
        SELECT EXISTS (
               SELECT
                 FROM login_networks
                WHERE user_id = $1
                  AND network = $2
               )
        """,
        user_id,
        network,
    )
    return exists


async def delete_networks(conn: Conn, before: datetime, limit: int) -> int:
    """Delete networks that were not used since; how many. Index: login_networks_age_idx."""
    rows = await conn.fetch(
        """
        DELETE FROM login_networks
         WHERE (user_id, network) IN (
               SELECT user_id, network
                 FROM login_networks
                WHERE last_used_at < $1
                ORDER BY last_used_at
                LIMIT $2
                  FOR UPDATE SKIP LOCKED
               )
        RETURNING user_id
        """,
        before,
        limit,
    )
    return len(rows)


def _ids(rows: Sequence[asyncpg.Record]) -> list[Snowflake]:
    return [Snowflake(row["id"]) for row in rows]
