"""SQL for the installation, its administrators and its invitations to register."""

from datetime import datetime

import asyncpg

from internal.auth.instance.model import Invite
from internal.db.postgres import Conn
from internal.user.model import InstanceRole
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

# When an invitation was made and when it expires.
Times = tuple[datetime, datetime]


async def is_claimed(conn: Conn) -> bool:
    claimed: bool = await conn.fetchval("SELECT administrator_id IS NOT NULL FROM instance")
    return claimed


async def claim(conn: Conn, user_id: Snowflake) -> bool:
    """Make a user the first administrator; False if there is one. Of racers one wins."""
    status = await conn.execute(
        """
        UPDATE instance
           SET administrator_id = $1
         WHERE administrator_id IS NULL
        """,
        user_id,
    )
    return status == "UPDATE 1"


async def find_role(conn: Conn, user_id: Snowflake) -> InstanceRole | None:
    role = await conn.fetchval(
        """
        SELECT instance_role
          FROM users
         WHERE id = $1
        """,
        user_id,
    )
    return None if role is None else InstanceRole(role)


async def lock_admins(conn: Conn) -> list[Snowflake]:
    """Lock every administrator, so that none is made or dismissed meanwhile from another row.

    Index: users_admins_idx.
    """
    rows = await conn.fetch(
        """
        SELECT id
          FROM users
         WHERE instance_role = 2
         ORDER BY id
           FOR NO KEY UPDATE
        """
    )
    return [Snowflake(row["id"]) for row in rows]


async def update_role(conn: Conn, user_id: Snowflake, role: InstanceRole) -> bool:
    """Give a user a role; False if there is no such user or the role is the same."""
    status = await conn.execute(
        """
        UPDATE users
           SET instance_role = $2
         WHERE id = $1
           AND instance_role <> $2
        """,
        user_id,
        role.value,
    )
    return status == "UPDATE 1"


async def insert_invite(conn: Conn, invite: Invite, code_hash: bytes, times: Times) -> None:
    await conn.execute(
        """
        INSERT INTO registration_invites (
               id, code_hash, creator_id, uses_left, created_at, expires_at
        )
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        invite.id,
        code_hash,
        invite.creator_id,
        invite.uses_left,
        *times,
    )


async def invites_newest_first(conn: Conn, before: Snowflake | None, limit: int) -> list[Invite]:
    """List invitations. Index: registration_invites_pkey."""
    rows = await conn.fetch(
        """
        SELECT id, creator_id, uses_left, created_at, expires_at
          FROM registration_invites
         WHERE ($1::bigint IS NULL OR id < $1)
         ORDER BY id DESC
         LIMIT $2
        """,
        before,
        limit,
    )
    return [_invite(row) for row in rows]


async def invite_is_open(conn: Conn, code_hash: bytes, now: datetime) -> bool:
    """Whether somebody may still register by it; only `use_invite` makes sure of it."""
    is_open: bool = await conn.fetchval(
        """
        SELECT EXISTS (
               SELECT
                 FROM registration_invites
                WHERE code_hash = $1
                  AND uses_left > 0
                  AND expires_at > $2
               )
        """,
        code_hash,
        now,
    )
    return is_open


async def use_invite(conn: Conn, code_hash: bytes, now: datetime) -> bool:
    status = await conn.execute(
        """
        UPDATE registration_invites
           SET uses_left = uses_left - 1
         WHERE code_hash = $1
           AND uses_left > 0
           AND expires_at > $2
        """,
        code_hash,
        now,
    )
    return status == "UPDATE 1"


async def delete_invite(conn: Conn, invite_id: Snowflake) -> bool:
    status = await conn.execute(
        """
        DELETE FROM registration_invites
         WHERE id = $1
        """,
        invite_id,
    )
    return status == "DELETE 1"


def _invite(row: asyncpg.Record) -> Invite:
    return Invite(
        id=Snowflake(row["id"]),
        creator_id=Snowflake(row["creator_id"]),
        uses_left=row["uses_left"],
        created_at=Timestamp.at(row["created_at"]),
        expires_at=Timestamp.at(row["expires_at"]),
    )
