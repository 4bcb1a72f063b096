"""SQL for invites, and for members who are there for a while only."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from internal.db.postgres import Conn
from internal.guild.invite.model import InvitedChannel, InviteRow
from internal.user.model import User
from internal.utils.snowflake import Snowflake

# A member, by the guild and the account.
Membership = tuple[Snowflake, Snowflake]


async def insert(conn: Conn, invite: InviteRow) -> bool:
    """Keep an invite; False if its code is taken."""
    status: str = await conn.execute(
        """
        INSERT INTO invites (
               code, guild_id, channel_id, inviter_id, max_age, max_uses, temporary, created_at,
               expires_at
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (code) DO NOTHING
        """,
        invite.code,
        invite.guild_id,
        invite.channel.id,
        invite.inviter.id,
        invite.max_age,
        invite.max_uses,
        invite.temporary,
        invite.created_at,
        invite.expires_at,
    )
    return status.endswith(" 1")


async def find(conn: Conn, code: str, now: datetime) -> InviteRow | None:
    """The invite of a code, as long as it is good."""
    row = await conn.fetchrow(
        """
        SELECT i.code, i.guild_id, i.channel_id, i.inviter_id, i.max_age, i.max_uses, i.uses,
               i.temporary, i.created_at, i.expires_at, c.type, c.name, u.username, u.global_name
          FROM invites AS i
          JOIN channels AS c ON c.id = i.channel_id
          JOIN users AS u ON u.id = i.inviter_id
         WHERE i.code = $1 AND coalesce(i.expires_at > $2, true)
        """,
        code,
        now,
    )
    return None if row is None else _invite(row)


async def find_similar(conn: Conn, wish: InviteRow) -> InviteRow | None:
    """The newest good invite of the same person that promises the same."""
    row = await conn.fetchrow(
        """
        SELECT i.code, i.guild_id, i.channel_id, i.inviter_id, i.max_age, i.max_uses, i.uses,
               i.temporary, i.created_at, i.expires_at, c.type, c.name, u.username, u.global_name
          FROM invites AS i
          JOIN channels AS c ON c.id = i.channel_id
          JOIN users AS u ON u.id = i.inviter_id
         WHERE i.channel_id = $1 AND i.inviter_id = $2 AND i.max_age = $3 AND i.max_uses = $4
           AND i.temporary = $5 AND coalesce(i.expires_at > $6, true)
         ORDER BY i.created_at DESC
         LIMIT 1
        """,
        wish.channel.id,
        wish.inviter.id,
        wish.max_age,
        wish.max_uses,
        wish.temporary,
        wish.created_at,
    )
    return None if row is None else _invite(row)


async def find_channel(
    conn: Conn, guild_id: Snowflake, channel_id: Snowflake
) -> InvitedChannel | None:
    row = await conn.fetchrow(
        "SELECT id, type, name FROM channels WHERE id = $1 AND guild_id = $2", channel_id, guild_id
    )
    if row is None:
        return None
    return InvitedChannel(id=Snowflake(row["id"]), type=row["type"], name=row["name"])


async def of_guild(
    conn: Conn, guild_id: Snowflake, now: datetime, after: str, limit: int
) -> list[InviteRow]:
    """The next good invites of a guild, by their codes. Uses invites_guild_idx."""
    rows = await conn.fetch(
        """
        SELECT i.code, i.guild_id, i.channel_id, i.inviter_id, i.max_age, i.max_uses, i.uses,
               i.temporary, i.created_at, i.expires_at, c.type, c.name, u.username, u.global_name
          FROM invites AS i
          JOIN channels AS c ON c.id = i.channel_id
          JOIN users AS u ON u.id = i.inviter_id
         WHERE i.guild_id = $1 AND i.code > $3 AND coalesce(i.expires_at > $2, true)
         ORDER BY i.code
         LIMIT $4
        """,
        guild_id,
        now,
        after,
        limit,
    )
    return [_invite(row) for row in rows]


async def of_channel(
    conn: Conn, channel_id: Snowflake, now: datetime, after: str, limit: int
) -> list[InviteRow]:
    """The next good invites to a channel, by their codes. Uses invites_channel_idx."""
    rows = await conn.fetch(
        """
        SELECT i.code, i.guild_id, i.channel_id, i.inviter_id, i.max_age, i.max_uses, i.uses,
               i.temporary, i.created_at, i.expires_at, c.type, c.name, u.username, u.global_name
          FROM invites AS i
          JOIN channels AS c ON c.id = i.channel_id
          JOIN users AS u ON u.id = i.inviter_id
         WHERE i.channel_id = $1 AND i.code > $3 AND coalesce(i.expires_at > $2, true)
         ORDER BY i.code
         LIMIT $4
        """,
        channel_id,
        now,
        after,
        limit,
    )
    return [_invite(row) for row in rows]


async def count(conn: Conn, guild_id: Snowflake, now: datetime) -> int:
    """How many good invites a guild has."""
    found: int = await conn.fetchval(
        """
        SELECT count(*)
          FROM invites
         WHERE guild_id = $1 AND coalesce(expires_at > $2, true)
        """,
        guild_id,
        now,
    )
    return found


async def use(conn: Conn, code: str) -> None:
    """Count a use. Needs the guild's lock."""
    await conn.execute("UPDATE invites SET uses = uses + 1 WHERE code = $1", code)


async def delete(conn: Conn, code: str) -> bool:
    """Delete an invite; False if somebody else did."""
    status: str = await conn.execute("DELETE FROM invites WHERE code = $1", code)
    return status.endswith(" 1")


async def delete_expired(
    conn: Conn, now: datetime, limit: int
) -> list[tuple[Snowflake, Snowflake, str]]:
    """Delete up to `limit` invites that have expired: the guild, the channel and the code."""
    rows = await conn.fetch(
        """
        DELETE FROM invites
         WHERE code = ANY (ARRAY(
               SELECT code
                 FROM invites
                WHERE expires_at <= $1
                ORDER BY expires_at
                LIMIT $2
                  FOR UPDATE SKIP LOCKED
         ))
        RETURNING guild_id, channel_id, code
        """,
        now,
        limit,
    )
    return [(Snowflake(row["guild_id"]), Snowflake(row["channel_id"]), row["code"]) for row in rows]


# Temporary members.


async def mark_there(conn: Conn, guild_id: Snowflake, user_id: Snowflake, now: datetime) -> None:
    await conn.execute(
        "UPDATE members SET there_at = $3 WHERE guild_id = $1 AND user_id = $2",
        guild_id,
        user_id,
        now,
    )


async def mark_all_there(conn: Conn, members: Sequence[Membership], now: datetime) -> None:
    """Note that temporary members are there, in one order, so that nodes don't collide."""
    await conn.execute(
        """
        WITH here AS (
            SELECT m.guild_id, m.user_id
              FROM unnest($1::bigint[], $2::bigint[]) AS h (guild_id, user_id)
              JOIN members AS m ON m.guild_id = h.guild_id AND m.user_id = h.user_id
             WHERE m.is_temporary AND coalesce(m.there_at < $3, true)
             ORDER BY m.guild_id, m.user_id
               FOR NO KEY UPDATE OF m SKIP LOCKED
        )
        UPDATE members AS m
           SET there_at = $3
          FROM here
         WHERE m.guild_id = here.guild_id AND m.user_id = here.user_id
        """,
        [guild_id for guild_id, _ in members],
        [user_id for _, user_id in members],
        now,
    )


async def temporary_after(
    conn: Conn, after: Membership, limit: int
) -> list[tuple[Membership, datetime | None]]:
    """The next temporary members, and when they were there last. Uses members_temporary_idx."""
    rows = await conn.fetch(
        """
        SELECT guild_id, user_id, there_at
          FROM members
         WHERE is_temporary AND (guild_id, user_id) > ($1, $2)
         ORDER BY guild_id, user_id
         LIMIT $3
        """,
        *after,
        limit,
    )
    return [
        ((Snowflake(row["guild_id"]), Snowflake(row["user_id"])), row["there_at"]) for row in rows
    ]


async def is_gone(conn: Conn, member: Membership, since: datetime) -> bool:
    """Whether a member came for a while only, has no role, and was not there since then.

    Never the owner: whoever was handed the guild stays.
    """
    found: bool = await conn.fetchval(
        """
        SELECT EXISTS (
               SELECT FROM members AS m
                WHERE m.guild_id = $1 AND m.user_id = $2 AND m.is_temporary
                  AND coalesce(m.there_at < $3, true)
                  AND NOT EXISTS (SELECT FROM roles AS r WHERE r.id = ANY (m.roles))
                  AND NOT EXISTS (
                      SELECT FROM guilds AS g WHERE g.id = m.guild_id AND g.owner_id = m.user_id
                      )
               )
        """,
        *member,
        since,
    )
    return found


def _invite(row: asyncpg.Record) -> InviteRow:
    return InviteRow(
        code=row["code"],
        guild_id=Snowflake(row["guild_id"]),
        channel=InvitedChannel(id=Snowflake(row["channel_id"]), type=row["type"], name=row["name"]),
        inviter=User(
            id=Snowflake(row["inviter_id"]),
            username=row["username"],
            global_name=row["global_name"],
        ),
        max_age=row["max_age"],
        max_uses=row["max_uses"],
        uses=row["uses"],
        temporary=row["temporary"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
