"""Several nodes are one service: whoever is on one meets whoever is on another."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.e2e.conftest import OpenTown
from tests.support.gateway import Gateway, Op
from tests.support.people import Guild, Person, Town
from tests.support.redis import RedisServer, RedisService

Trouble = Callable[[RedisServer], Awaitable[None]]
REPLACED = 4902


class Nodes:
    """Two nodes on one database, and Ada on the first of them with Bob on the second."""

    def __init__(self, first: Town, second: Town, guild: Guild, ada: Person, bob: Person) -> None:
        self.first = first
        self.second = second
        self.guild = guild
        self.ada = ada
        self.bob = bob


async def know_each_other(*towns: Town) -> None:
    """Wait until each has found that it isn't the only one; without a Redis that takes a second."""
    async with asyncio.timeout(10):
        for town in towns:
            assert town.app is not None
            while town.app.is_alone():  # noqa: ASYNC110  # a look each second has no event
                await asyncio.sleep(0.01)


async def open_nodes(open_town: OpenTown, **settings: str) -> Nodes:
    first, second = [await open_town(**settings) for _ in range(2)]
    second.shares_people_with(first)
    await know_each_other(first, second)
    ada, bob = await first.person("ada"), await second.person("bob")
    guild = await first.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    return Nodes(first, second, guild, ada, bob)


@pytest.fixture(params=["with Redis", "without Redis"])
def shared_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """Nodes share a database in any case."""
    if request.param == "without Redis":
        return {}
    service: RedisServer = request.getfixturevalue("redis_server")
    return service.settings


@pytest.fixture
async def nodes(open_town: OpenTown, shared_settings: dict[str, str]) -> Nodes:
    return await open_nodes(open_town, **shared_settings)


async def test_people_on_different_nodes_talk(nodes: Nodes) -> None:
    for number in range(20):
        await nodes.ada.say(nodes.guild.channel_id, f"from the first {number}")
        await nodes.bob.say(nodes.guild.channel_id, f"from the second {number}")
    for person in (nodes.ada, nodes.bob):
        for number in range(20):
            await person.gateway.expect("MESSAGE_CREATE", content=f"from the first {number}")
            await person.gateway.expect("MESSAGE_CREATE", content=f"from the second {number}")
    orders = [
        [(frame.s, frame.d["id"]) for frame in person.gateway.of_type("MESSAGE_CREATE")]
        for person in (nodes.ada, nodes.bob)
    ]
    assert orders[0] == orders[1]
    assert len(orders[0]) == 40


async def test_a_session_is_resumed_on_another_node(nodes: Nodes) -> None:
    bob = nodes.bob
    before = bob.gateway
    await before.abort()
    for number in range(10):
        await nodes.ada.say(nodes.guild.channel_id, f"missed {number}")
    await nodes.ada.fence()
    bob.town = nodes.first
    after = await bob.resume(before.session_id, before.seq)
    for number in range(10):
        await after.expect("MESSAGE_CREATE", content=f"missed {number}")
    await after.expect("RESUMED")
    await nodes.ada.say(nodes.guild.channel_id, "live again")
    await after.expect("MESSAGE_CREATE", content="live again")


async def test_a_resume_on_another_node_ends_the_zombie(nodes: Nodes) -> None:
    """One live socket for each session, whether Redis can tell it or the log has to."""
    bob = nodes.bob
    zombie = bob.gateway
    other: Gateway = zombie
    for town in (nodes.first, nodes.second, nodes.first):
        bob.town = town
        other = await bob.resume(zombie.session_id, zombie.seq)
        await other.expect("RESUMED")
        await zombie.expect_close(REPLACED)
        other.session_id, zombie = zombie.session_id, other
    await nodes.ada.say(nodes.guild.channel_id, "once")
    await other.expect("MESSAGE_CREATE", content="once")


async def test_of_two_resumes_at_once_on_two_nodes_one_stays(nodes: Nodes) -> None:
    bob = nodes.bob
    before = bob.gateway
    await before.abort()
    sockets = []
    for town in (nodes.first, nodes.second):
        bob.town = town
        gateway = await town.open_gateway()
        await gateway.expect_op(Op.HELLO)
        sockets.append(gateway)
    await asyncio.gather(
        *(gateway.resume(bob.access_token, before.session_id, before.seq) for gateway in sockets)
    )
    lost = [asyncio.create_task(gateway.expect_close(REPLACED)) for gateway in sockets]
    try:
        done, others = await asyncio.wait(lost, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        (winner,) = (gateway for gateway, task in zip(sockets, lost, strict=True) if task in others)
        await nodes.ada.say(nodes.guild.channel_id, "to the one who is left")
        await winner.expect("MESSAGE_CREATE", content="to the one who is left")
        assert not next(iter(others)).done()
    finally:
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)


async def test_a_logout_counts_on_every_node(nodes: Nodes) -> None:
    bob = nodes.bob
    for town in (nodes.first, nodes.second):
        bob.town = town
        await bob.get("/users/@me")
    socket = bob.gateway
    bob.town = nodes.first
    await bob.post("/auth/logout")
    await socket.expect_close(4004)
    bob.town = nodes.second
    await signed_out(bob)


async def test_a_retry_on_another_node_makes_no_second_message(nodes: Nodes) -> None:
    ada, channel_id = nodes.ada, nodes.guild.channel_id
    more = {"nonce": "only once", "enforce_nonce": True}
    ids = set()
    for town in (nodes.first, nodes.second, nodes.first):
        ada.town = town
        ids.add((await ada.say(channel_id, "hello", **more))["id"])
    assert len(ids) == 1


# With Redis alone.


async def test_typing_is_seen_on_other_nodes(open_town: OpenTown, any_redis: RedisService) -> None:
    nodes = await open_nodes(open_town, **any_redis.settings)
    # Level with the log, and told through Redis by now.
    await nodes.ada.fence()
    heard = None
    while heard is None:
        await nodes.ada.post(f"/channels/{nodes.guild.channel_id}/typing")
        await nodes.bob.fence()
        heard = next(iter(nodes.bob.gateway.of_type("TYPING_START")), None)
    assert heard.d["user_id"] == nodes.ada.id
    assert heard.d["guild_id"] == nodes.guild.id


async def signed_out(person: Person) -> None:
    """Wait until the token is refused: within 2 s on every node."""
    async with asyncio.timeout(2):
        while (await person.call("GET", "/users/@me")).status != 401:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # No event tells.


async def kill(redis: RedisServer) -> None:
    await redis.kill()


async def pause(redis: RedisServer) -> None:
    redis.pause()


async def flush(redis: RedisServer) -> None:
    await redis.flush()


async def nothing_wrong(_redis: RedisServer) -> None:
    return


@pytest.mark.parametrize("trouble", [kill, pause, flush, nothing_wrong])
async def test_redis_may_fail_and_nothing_logged_is_lost(
    open_town: OpenTown, redis_server: RedisServer, trouble: Trouble
) -> None:
    nodes = await open_nodes(open_town, **redis_server.settings)
    ada, bob, channel_id = nodes.ada, nodes.bob, nodes.guild.channel_id
    await ada.say(channel_id, "before")
    await bob.gateway.expect("MESSAGE_CREATE", content="before")
    try:
        await trouble(redis_server)
        for number in range(20):
            await ada.say(channel_id, f"during {number}")
        for number in range(20):
            await bob.gateway.expect("MESSAGE_CREATE", content=f"during {number}")
        # Resumes, zombies and revocations go on, too.
        before = bob.gateway
        bob.town = nodes.first
        after = await bob.resume(before.session_id, before.seq)
        await after.expect("RESUMED")
        await before.expect_close(REPLACED)
        await bob.post("/auth/logout")
        await after.expect_close(4004)
        bob.town = nodes.second
        await signed_out(bob)
    finally:
        await redis_server.start()
    await ada.say(channel_id, "after")
    await ada.gateway.expect("MESSAGE_CREATE", content="after")


async def test_a_node_without_its_redis_is_degraded_and_ready(
    open_town: OpenTown, redis_server: RedisServer
) -> None:
    town = await open_town(**redis_server.settings)
    assert (await town.stranger.get("/ready"))["status"] == "ready"
    await redis_server.kill()
    async with asyncio.timeout(5):
        while (await town.stranger.get("/ready"))["status"] != "degraded":  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # It is asked twice a second.
    assert (await town.stranger.get("/ready"))["checks"]["redis"] == "Redis does not answer"


async def test_a_node_starts_while_redis_is_away(
    open_town: OpenTown, redis_server: RedisServer
) -> None:
    before = await open_town(**redis_server.settings)
    ada = await before.person("ada")
    guild = await before.guild(ada)
    await redis_server.kill()
    ada.town = await open_town(**redis_server.settings)
    await ada.connect()
    await ada.say(guild.channel_id, "hello")
    await ada.gateway.expect("MESSAGE_CREATE", content="hello")
    assert ada.gateway.frames[0].op == Op.HELLO
