"""SQL for guilds, their members, and what GUILD_CREATE tells of them."""

from collections.abc import Sequence

import asyncpg

from internal.db.postgres import Conn
from internal.guild.model import (
    DELETED_AT_ONCE,
    LARGE,
    GuildAccess,
    GuildChannel,
    GuildRow,
    Member,
    OwnGuild,
    PublicGuild,
    Role,
    RoleColors,
)
from internal.permission import model as permission
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake


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
        INSERT INTO guilds (id, name, description, owner_id, discoverable)
        VALUES ($1, $2, $3, $4, $5)
        """,
        guild.id,
        guild.name,
        guild.description,
        guild.owner_id,
        guild.discoverable,
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


async def insert_member(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> None:
    """Add a member and count it. Needs the guild's lock."""
    await conn.execute(
        """
        WITH added AS (
            INSERT INTO members (guild_id, user_id) VALUES ($1, $2) RETURNING guild_id
        )
        UPDATE guilds SET member_count = member_count + 1
         WHERE id = (SELECT guild_id FROM added)
        """,
        guild_id,
        user_id,
    )


async def find(conn: Conn, guild_id: Snowflake) -> GuildRow | None:
    row = await conn.fetchrow(
        """
        SELECT id, name, description, owner_id, discoverable, member_count
          FROM guilds
         WHERE id = $1
        """,
        guild_id,
    )
    return None if row is None else _guild(row)


async def find_access(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> GuildAccess | None:
    """The guild as this account may use it; None unless it is a member."""
    row = await conn.fetchrow(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count,
               m.user_id, m.nick, m.joined_at, u.username, u.global_name,
               r.permissions AS everyone
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN users AS u ON u.id = m.user_id
          JOIN roles AS r ON r.id = m.guild_id
         WHERE m.guild_id = $1 AND m.user_id = $2
        """,
        guild_id,
        user_id,
    )
    if row is None:
        return None
    return GuildAccess(
        guild=_guild(row),
        member=_member(row),
        permissions=permission.in_guild(
            is_owner=row["owner_id"] == user_id, everyone=row["everyone"]
        ),
    )


async def public_before(conn: Conn, before: Snowflake | None, limit: int) -> list[PublicGuild]:
    """The newest discoverable guilds older than `before`, newest first."""
    rows = await conn.fetch(
        """
        SELECT id, name, description, member_count
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
        SELECT id, name, description, member_count
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
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count,
               m.user_id, r.permissions AS everyone
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN roles AS r ON r.id = m.guild_id
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
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count,
               m.user_id, r.permissions AS everyone
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
          JOIN roles AS r ON r.id = m.guild_id
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
    conn: Conn, user_id: Snowflake, guild_id: Snowflake | None
) -> list[tuple[GuildRow, Timestamp]]:
    """The guilds of an account, or the one named, with the time it joined; by id."""
    rows = await conn.fetch(
        """
        SELECT g.id, g.name, g.description, g.owner_id, g.discoverable, g.member_count,
               m.joined_at
          FROM members AS m
          JOIN guilds AS g ON g.id = m.guild_id
         WHERE m.user_id = $1 AND ($2::bigint IS NULL OR m.guild_id = $2)
         ORDER BY g.id
        """,
        user_id,
        guild_id,
    )
    return [(_guild(row), Timestamp.at(row["joined_at"])) for row in rows]


async def roles_of(conn: Conn, guild_ids: Sequence[Snowflake]) -> dict[Snowflake, list[Role]]:
    """The roles of guilds, lowest first. Uses roles_guild_idx."""
    rows = await conn.fetch(
        """
        SELECT id, guild_id, name, permissions, position, color, hoist, mentionable, managed
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
    """The channels of guilds, in the order they are shown. Uses channels_guild_idx."""
    rows = await conn.fetch(
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
         WHERE c.guild_id = ANY($1::bigint[])
         ORDER BY c.guild_id, c.position, c.id
        """,
        guild_ids,
    )
    found: dict[Snowflake, list[GuildChannel]] = {guild_id: [] for guild_id in guild_ids}
    for row in rows:
        found[row["guild_id"]].append(_channel(row))
    return found


async def first_members_of(
    conn: Conn, guild_ids: Sequence[Snowflake], own_id: Snowflake
) -> dict[Snowflake, list[Member]]:
    """Up to LARGE members of each guild and always `own_id`; by id. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.guild_id, m.user_id, m.nick, m.joined_at, u.username, u.global_name
          FROM unnest($1::bigint[]) AS g (id)
         CROSS JOIN LATERAL (
               (SELECT guild_id, user_id, nick, joined_at
                  FROM members
                 WHERE guild_id = g.id
                 ORDER BY user_id
                 LIMIT $3)
               UNION
               (SELECT guild_id, user_id, nick, joined_at
                  FROM members
                 WHERE guild_id = g.id AND user_id = $2)
               ) AS m
          JOIN users AS u ON u.id = m.user_id
         ORDER BY m.guild_id, m.user_id
        """,
        guild_ids,
        own_id,
        LARGE,
    )
    found: dict[Snowflake, list[Member]] = {guild_id: [] for guild_id in guild_ids}
    for row in rows:
        found[row["guild_id"]].append(_member(row))
    return found


async def members_after(
    conn: Conn, guild_id: Snowflake, after: Snowflake, limit: int
) -> list[Member]:
    """The next members of a guild, in the order of their ids. Uses members_pkey."""
    rows = await conn.fetch(
        """
        SELECT m.user_id, m.nick, m.joined_at, u.username, u.global_name
          FROM members AS m
          JOIN users AS u ON u.id = m.user_id
         WHERE m.guild_id = $1 AND m.user_id > $2
         ORDER BY m.user_id
         LIMIT $3
        """,
        guild_id,
        after,
        limit,
    )
    return [_member(row) for row in rows]


async def memberships_of(conn: Conn, user_id: Snowflake) -> list[tuple[Snowflake, Member]]:
    """An account as the member that it is in each of its guilds; by guild."""
    rows = await conn.fetch(
        """
        SELECT m.guild_id, m.user_id, m.nick, m.joined_at, u.username, u.global_name
          FROM members AS m
          JOIN users AS u ON u.id = m.user_id
         WHERE m.user_id = $1
         ORDER BY m.guild_id
        """,
        user_id,
    )
    return [(Snowflake(row["guild_id"]), _member(row)) for row in rows]


async def find_member(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> Member | None:
    row = await conn.fetchrow(
        """
        SELECT m.user_id, m.nick, m.joined_at, u.username, u.global_name
          FROM members AS m
          JOIN users AS u ON u.id = m.user_id
         WHERE m.guild_id = $1 AND m.user_id = $2
        """,
        guild_id,
        user_id,
    )
    return None if row is None else _member(row)


async def member_ids_of(conn: Conn, guild_id: Snowflake) -> tuple[Snowflake, ...]:
    rows = await conn.fetch("SELECT user_id FROM members WHERE guild_id = $1", guild_id)
    return tuple(Snowflake(row["user_id"]) for row in rows)


async def channel_ids_of(conn: Conn, guild_id: Snowflake) -> tuple[Snowflake, ...]:
    rows = await conn.fetch("SELECT id FROM channels WHERE guild_id = $1", guild_id)
    return tuple(Snowflake(row["id"]) for row in rows)


async def update(conn: Conn, guild: GuildRow) -> None:
    await conn.execute(
        """
        UPDATE guilds
           SET name = $2, description = $3, owner_id = $4, discoverable = $5
         WHERE id = $1
        """,
        guild.id,
        guild.name,
        guild.description,
        guild.owner_id,
        guild.discoverable,
    )


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


async def delete_member(conn: Conn, guild_id: Snowflake, user_id: Snowflake) -> None:
    """Remove a member and count it. Needs the guild's lock."""
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


def _guild(row: asyncpg.Record) -> GuildRow:
    return GuildRow(
        id=Snowflake(row["id"]),
        name=row["name"],
        description=row["description"],
        owner_id=Snowflake(row["owner_id"]),
        discoverable=row["discoverable"],
        member_count=row["member_count"],
    )


def _public(row: asyncpg.Record) -> PublicGuild:
    return PublicGuild(
        id=Snowflake(row["id"]),
        name=row["name"],
        description=row["description"],
        features=("DISCOVERABLE",),
        approximate_member_count=row["member_count"],
    )


def _own(row: asyncpg.Record) -> OwnGuild:
    is_owner = row["owner_id"] == row["user_id"]
    return OwnGuild(
        id=Snowflake(row["id"]),
        name=row["name"],
        description=row["description"],
        features=("DISCOVERABLE",) if row["discoverable"] else (),
        approximate_member_count=row["member_count"],
        owner=is_owner,
        permissions=str(permission.in_guild(is_owner=is_owner, everyone=row["everyone"])),
    )


def _member(row: asyncpg.Record) -> Member:
    return Member(
        user=User(
            id=Snowflake(row["user_id"]),
            username=row["username"],
            global_name=row["global_name"],
        ),
        nick=row["nick"],
        joined_at=Timestamp.at(row["joined_at"]),
    )


def _role(row: asyncpg.Record) -> Role:
    return Role(
        id=Snowflake(row["id"]),
        name=row["name"],
        color=row["color"],
        colors=RoleColors(primary_color=row["color"]),
        hoist=row["hoist"],
        position=row["position"],
        permissions=str(row["permissions"]),
        managed=row["managed"],
        mentionable=row["mentionable"],
    )


def _channel(row: asyncpg.Record) -> GuildChannel:
    last = row["last_message_id"]
    return GuildChannel(
        id=Snowflake(row["id"]),
        type=row["type"],
        guild_id=Snowflake(row["guild_id"]),
        name=row["name"],
        topic=row["topic"],
        position=row["position"],
        nsfw=row["nsfw"],
        rate_limit_per_user=row["rate_limit_per_user"],
        last_message_id=None if last is None else Snowflake(last),
    )
