"""Purging: deleting a guild or a channel is short, and its messages follow."""

import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from internal.channel.layout.service import LayoutService
from internal.channel.model import CreateChannel
from internal.channel.service import ChannelService
from internal.channel.thread.member.service import ThreadMembership
from internal.chat.mention.service import MentionService
from internal.chat.message.service import MessageService
from internal.db.postgres import Database
from internal.eventlog import outbox
from internal.guild.audit.service import AuditTrail
from internal.guild.automod.service import AutomodService
from internal.guild.model import DELETED_AT_ONCE, CreateGuild
from internal.guild.service import GuildService
from internal.utils.snowflake import NewId, Snowflake, SnowflakeFactory
from tests.support.clock import StandingClock

OWNER = Snowflake(1)


class Rooms(NamedTuple):
    db: Database
    guilds: GuildService
    channels: ChannelService
    layout: LayoutService
    messages: MessageService


def service(
    db: Database, guilds: GuildService, channels: ChannelService, new_id: NewId
) -> MessageService:
    """The rules of messages, as another process would have them."""
    audit, clock = AuditTrail(new_id), StandingClock()
    return MessageService(
        db,
        channels,
        new_id,
        clock,
        audit=audit,
        mentions=MentionService(channels),
        automod=AutomodService(db, guilds, audit=audit, new_id=new_id, clock=clock),
        membership=ThreadMembership(db, guilds, channels, clock),
        body_keys=[b""],
    )


@pytest.fixture
async def rooms(database_url: str) -> AsyncIterator[Rooms]:
    factory = SnowflakeFactory(1, 0, 2**60)

    def new_id() -> Snowflake:
        return factory.make(int(time.time() * 1000))

    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        db = Database(pool, outbox.write, lambda: None)
        await pool.execute(
            "INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'ada', 'a@b', '-')",
            OWNER,
        )
        audit = AuditTrail(new_id)
        guilds = GuildService(db, new_id, audit)
        channels = ChannelService(db, guilds, new_id)
        yield Rooms(
            db,
            guilds,
            channels,
            LayoutService(guilds, channels, audit, new_id),
            service(db, guilds, channels, new_id),
        )


async def fill(rooms: Rooms, channel_id: Snowflake, count: int) -> None:
    async with rooms.db.read() as conn:
        await conn.execute(
            """
            INSERT INTO messages (channel_id, id, author_id, content)
            SELECT $1, n, $2, 'line ' || n FROM generate_series(1, $3::integer) AS n
            """,
            channel_id,
            OWNER,
            count,
        )
        await conn.execute(
            """
            INSERT INTO slowmode_marks (channel_id, author_id, message_id) VALUES ($1, $2, 1)
            """,
            channel_id,
            OWNER,
        )


async def left(rooms: Rooms) -> tuple[int, int, int]:
    """How many messages, marks of slow mode and channels to purge there are."""
    async with rooms.db.read() as conn:
        row = await conn.fetchrow(
            """
            SELECT (SELECT count(*) FROM messages),
                   (SELECT count(*) FROM slowmode_marks),
                   (SELECT count(*) FROM purges)
            """
        )
    assert row is not None
    return row[0], row[1], row[2]


async def test_messages_of_what_is_gone_are_purged_in_pieces_and_no_others(rooms: Rooms) -> None:
    gone = await rooms.guilds.create(OWNER, CreateGuild(name="Gone"))
    kept = await rooms.guilds.create(OWNER, CreateGuild(name="Kept"))
    assert isinstance(gone.channels, tuple)
    assert isinstance(kept.channels, tuple)
    second = await rooms.layout.create(OWNER, gone.id, CreateChannel(name="second"))
    empty = await rooms.layout.create(OWNER, kept.id, CreateChannel(name="empty"))
    await fill(rooms, gone.channels[0].id, DELETED_AT_ONCE + 250)
    await fill(rooms, second.id, 30)
    await fill(rooms, kept.channels[0].id, 70)

    await rooms.guilds.delete(OWNER, gone.id)
    await rooms.layout.delete(OWNER, empty.id)
    assert await left(rooms) == (350, 3, 3)
    removed = []
    while count := await rooms.messages.purge(100):
        removed.append(count)
    assert max(removed) == 100
    assert await left(rooms) == (70, 1, 0)


async def test_a_purge_goes_on_where_another_process_stopped(rooms: Rooms) -> None:
    guild = await rooms.guilds.create(OWNER, CreateGuild(name="Gone"))
    assert isinstance(guild.channels, tuple)
    await fill(rooms, guild.channels[0].id, DELETED_AT_ONCE + 250)
    await rooms.guilds.delete(OWNER, guild.id)
    assert await rooms.messages.purge(100) == 100

    successor = service(rooms.db, rooms.guilds, rooms.channels, lambda: OWNER)
    while await successor.purge(100):
        assert await left(rooms) != (0, 0, 1)
    assert await left(rooms) == (0, 0, 0)


async def test_marks_that_no_slow_mode_reaches_are_swept(rooms: Rooms) -> None:
    await fill(rooms, Snowflake(7), 1)
    assert await rooms.messages.sweep_marks(10) == 1
    assert await rooms.messages.sweep_marks(10) == 0


async def test_a_few_messages_go_at_once(rooms: Rooms) -> None:
    guild = await rooms.guilds.create(OWNER, CreateGuild(name="Small"))
    assert isinstance(guild.channels, tuple)
    second = await rooms.layout.create(OWNER, guild.id, CreateChannel(name="second"))
    await fill(rooms, guild.channels[0].id, 20)
    await fill(rooms, second.id, 30)
    await rooms.layout.delete(OWNER, second.id)
    assert (await left(rooms))[0] == 20
    await rooms.guilds.delete(OWNER, guild.id)
    assert (await left(rooms))[0] == 0
