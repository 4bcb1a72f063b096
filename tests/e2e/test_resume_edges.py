"""Resumes and revocations while the log stands still, or while a client does not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from internal.chat.ws.session import State
from tests.e2e.conftest import OpenTown
from tests.support.gateway import Op
from tests.support.people import Person, Town, refused

# The lock under which positions are given: whoever holds it keeps everything in the outbox.
DRAIN = 4242


@asynccontextmanager
async def log_stands_still(database_url: str) -> AsyncIterator[None]:
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute("SELECT pg_advisory_lock($1)", DRAIN)
        yield
    finally:
        await conn.close()


async def test_what_was_said_in_a_deleted_channel_is_nowhere(
    town: Town, ada: Person, bob: Person, database_url: str
) -> None:
    guild = await town.guild(ada, bob)
    channel = await ada.post("/channels", {"guild_id": guild.id, "name": "secret"})
    await bob.connect()
    before = bob.gateway
    await bob.fence()
    await before.abort()
    await ada.say(channel["id"], "TOPSECRET in a channel")
    await ada.say(guild.channel_id, "TOPSECRET in a guild")
    await ada.delete(f"/channels/{channel['id']}")
    # What has no position yet is told behind RESUMED, and takes back what was said only then.
    await ada.connect()
    await ada.fence()
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("CHANNEL_DELETE", id=channel["id"])
    told = [frame.d["content"] for frame in after.of_type("MESSAGE_CREATE")]
    assert told == ["TOPSECRET in a guild"]
    await ada.delete(f"/guilds/{guild.id}")
    await after.expect("GUILD_DELETE", id=guild.id)
    conn = await asyncpg.connect(database_url)
    held = await conn.fetchval(
        """
        SELECT count(*)
          FROM (SELECT payload FROM event_log UNION ALL SELECT payload FROM event_outbox) AS e
         WHERE position('TOPSECRET'::bytea IN e.payload) > 0
        """
    )
    await conn.close()
    assert held == 0


async def test_a_guild_that_ready_showed_before_its_position_is_heard_after_a_resume(
    town: Town, ada: Person, database_url: str
) -> None:
    async with log_stands_still(database_url):
        guild = await town.guild(ada)
        before = await town.open_gateway()
        await before.expect_op(Op.HELLO)
        shown = await before.identify(ada.access_token)
        assert [frame.t for frame in shown] == ["READY", "GUILD_CREATE"]
        await before.abort()
        after = await ada.resume(before.session_id, before.seq)
        await after.expect("RESUMED")
    said = await ada.say(guild.channel_id, "hello?")
    await after.expect("MESSAGE_CREATE", id=said["id"])
    assert not after.of_type("GUILD_CREATE")


async def test_a_guild_joined_and_being_left_is_not_left_without_having_been_told(
    town: Town, ada: Person, bob: Person, database_url: str
) -> None:
    guild = await town.guild(ada)
    await bob.connect()
    before = bob.gateway
    await bob.fence()
    await before.abort()
    await bob.post(f"/guilds/{guild.id}/join")
    await ada.connect()
    await ada.fence()
    async with log_stands_still(database_url):
        await bob.post(f"/guilds/{guild.id}/leave")
        after = await bob.resume(before.session_id, before.seq)
        await after.expect("RESUMED")
    await bob.fence(after)
    assert not after.of_type("GUILD_CREATE")
    assert not after.of_type("GUILD_DELETE")


async def test_a_revoked_socket_that_does_not_read_is_closed_all_the_same(
    town: Town, ada: Person, bob: Person
) -> None:
    assert town.app is not None
    guild = await town.guild(ada, bob)
    await bob.connect()
    reader = bob.gateway
    reader.stop_reading()
    (client,) = (c for c in town.app.gateway.clients if c.user_id == int(bob.id))
    async with asyncio.timeout(30):
        while not client.is_paused:
            await asyncio.gather(*(ada.say(guild.channel_id, "😀" * 2000) for _ in range(20)))
    assert not client.is_live
    await bob.post("/auth/logout")
    with refused(401, 40001):
        await bob.get("/users/@me")
    await ada.connect()
    await ada.fence()
    assert client.session.state is State.CLOSED
    assert client.transport is None or client.transport.is_closing()
    await reader.abort()


async def test_strangers_of_one_network_share_their_places(open_town: OpenTown) -> None:
    town = await open_town(TRUSTED_PROXIES="127.0.0.1/32", GATEWAY_SOCKETS_PER_ADDRESS="3")
    assert town.app is not None
    gateway = town.app.gateway
    opened = [
        await town.open_gateway(headers={"X-Forwarded-For": f"2001:db8:1:2::{n}"})
        for n in range(1, 4)
    ]
    assert not gateway.admit("2001:db8:1:2::ffff")
    assert gateway.admit("2001:db8:1:3::1")
    for each in opened:
        await each.abort()
