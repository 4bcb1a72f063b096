"""People and guilds, put into the database directly: thousands in a second."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

import asyncpg
import msgspec

from internal.permission.model import EVERYONE_DEFAULT
from internal.utils.actor import Actor
from internal.utils.clock import SystemClock
from internal.utils.jwt import AccessTokens
from internal.utils.snowflake import EPOCH_MS, Snowflake

_LIFETIME = timedelta(hours=1)


class Settler(msgspec.Struct):
    """Somebody with an account, signed in."""

    id: int
    token: str
    # The numbers of their guilds, in the town's list.
    guilds: list[int]


class Town(msgspec.Struct):
    """Everybody, and the channel of each guild."""

    people: list[Settler]
    channels: list[str]


async def settle(dsn: str, secret: str, *, people: int, small: int, size: int) -> Town:
    """One guild that all are in, and `small` ones of `size` people each."""
    conn = await asyncpg.connect(dsn)
    try:
        # From before the server's first id, as those of its workers must stay its own.
        first = (int(time.time() * 1000) - EPOCH_MS - 3_600_000) << 22
        ids = count(first)
        users = [next(ids) for _ in range(people)]
        members = [list(range(people))]
        members += [[(g * size + n) % people for n in range(size)] for g in range(small)]
        channels = await _insert_guilds(conn, users, members, ids)
        sessions = await _insert_accounts_of(conn, users, ids)
        audience = str(await conn.fetchval("SELECT id FROM instance"))
        await conn.execute("ANALYZE")
    finally:
        await conn.close()
    tokens = AccessTokens(
        [secret],
        audience=audience,
        lifetime=_LIFETIME,
        clock=SystemClock(),
        new_id=lambda: Snowflake(next(ids)),
    )
    guilds: list[list[int]] = [[] for _ in users]
    for number, inside in enumerate(members):
        for index in inside:
            guilds[index].append(number)
    settlers = [
        Settler(user, tokens.issue(Actor(Snowflake(user), Snowflake(session))), own)
        for user, session, own in zip(users, sessions, guilds, strict=True)
    ]
    return Town(settlers, [str(channel) for channel in channels])


async def _insert_guilds(
    conn: "asyncpg.Connection[asyncpg.Record]",
    users: Sequence[int],
    members: Sequence[Sequence[int]],
    ids: "count[int]",
) -> list[int]:
    await conn.copy_records_to_table(
        "users",
        columns=("id", "username", "email", "password_hash"),
        records=[(u, f"settler{n}", f"settler{n}@example.org", "-") for n, u in enumerate(users)],
    )
    guilds = [next(ids) for _ in members]
    channels = [next(ids) for _ in members]
    await conn.copy_records_to_table(
        "guilds",
        columns=("id", "name", "owner_id", "member_count"),
        records=[
            (guild, f"Guild {number}", users[inside[0]], len(inside))
            for number, (guild, inside) in enumerate(zip(guilds, members, strict=True))
        ],
    )
    await conn.copy_records_to_table(
        "roles",
        columns=("id", "guild_id", "name", "permissions"),
        records=[(guild, guild, "@everyone", int(EVERYONE_DEFAULT)) for guild in guilds],
    )
    await conn.copy_records_to_table(
        "channels",
        columns=("id", "guild_id", "type", "name"),
        records=[(c, guild, 0, "general") for c, guild in zip(channels, guilds, strict=True)],
    )
    await conn.copy_records_to_table(
        "members",
        columns=("guild_id", "user_id"),
        records=[
            (guild, users[index])
            for guild, inside in zip(guilds, members, strict=True)
            for index in inside
        ],
    )
    return channels


async def _insert_accounts_of(
    conn: "asyncpg.Connection[asyncpg.Record]", users: Sequence[int], ids: "count[int]"
) -> list[int]:
    """The login sessions, one each."""
    sessions = [next(ids) for _ in users]
    until = datetime.now(UTC) + _LIFETIME
    await conn.copy_records_to_table(
        "login_sessions",
        columns=("id", "user_id", "refresh_hash", "expires_at", "address", "user_agent"),
        records=[
            (session, user, b"", until, "127.0.0.1", "bench")
            for session, user in zip(sessions, users, strict=True)
        ],
    )
    return sessions
