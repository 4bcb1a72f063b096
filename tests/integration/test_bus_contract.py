"""What every bus promises to its node, and what Redis's does beyond that between nodes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from typing_extensions import override

from internal.db.redis import Redis
from internal.eventlog.bus import (
    Bus,
    Drained,
    Ears,
    LocalBus,
    RedisBus,
    Whisper,
    entries_of,
)
from internal.eventlog.model import Entry
from internal.events import Audience, Event
from internal.utils.background import Background
from internal.utils.snowflake import Snowflake
from tests.support.redis import RedisService

EPOCH = 7
# What is told until somebody hears it.
_PROBE = b'{"n":-1,'


class Waved(Event, frozen=True, kw_only=True):
    """Somebody waved."""

    type: ClassVar[str] = "WAVE"
    n: int
    padding: str = ""

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=Snowflake(5), channel_id=Snowflake(6))


class Listener:
    """A node's end of a bus, and all that it heard."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[Drained | Whisper] = []
        # How often it was called to find out whether it hears; such a call may come late.
        self.probes = 0
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        bus.connect(Ears(drained=self._hear, whisper=self._hear))

    async def has_heard(self, count: int) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: len(self.heard) >= count)

    async def was_probed(self) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: self.probes > 0)

    @property
    def waves(self) -> list[bytes]:
        return [heard.payload for heard in self.heard if isinstance(heard, Whisper)]

    def _hear(self, message: Drained | Whisper) -> None:
        if isinstance(message, Whisper) and message.payload.startswith(_PROBE):
            self.probes += 1
        else:
            self.heard.append(message)
        task = asyncio.get_running_loop().create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


class Nodes:
    """Nodes on one Redis."""

    def __init__(self, service: RedisService, stack: AsyncExitStack) -> None:
        self.service = service
        self.dropped: list[str] = []
        self._stack = stack

    async def open(self) -> Listener:
        """One more node, which hears by now."""
        redis = Redis(self.service.address, prefix="parley:test", count_failure=lambda: None)
        self._stack.push_async_callback(redis.close)
        listener = Listener(RedisBus(redis, count_dropped=self.dropped.append))
        background = Background()
        self._stack.push_async_callback(background.stop)
        background.start("bus", listener.bus.run())
        background.start("redis", redis.watch())
        await self.level(listener)
        return listener

    async def level(self, listener: Listener) -> None:
        """Wait until a node hears what another one tells."""
        redis = Redis(self.service.address, prefix="parley:test", count_failure=lambda: None)
        other = RedisBus(redis, count_dropped=lambda _what: None)
        working = asyncio.gather(other.run(), redis.watch())
        try:
            listener.probes = 0
            async with asyncio.timeout(10):
                while not listener.probes:
                    other.whisper(Waved(n=-1))
                    with_patience = asyncio.create_task(listener.was_probed())
                    await asyncio.wait([with_patience], timeout=0.05)
                    with_patience.cancel()
                    await asyncio.gather(with_patience, return_exceptions=True)
            listener.heard.clear()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await redis.close()


@pytest.fixture
async def nodes(any_redis: RedisService) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(any_redis, stack)


OpenBus = Callable[[], Awaitable[Listener]]


@pytest.fixture(params=["in this process", "on Redis"])
def shared(request: pytest.FixtureRequest) -> RedisService | None:
    """What nodes share: nothing, or a Redis."""
    if request.param == "in this process":
        return None
    service: RedisService = request.getfixturevalue("redis_server")
    return service


@pytest.fixture
async def open_bus(shared: RedisService | None) -> AsyncIterator[OpenBus]:
    """A bus of each kind, for the promises that both make."""
    async with AsyncExitStack() as stack:

        async def local() -> Listener:
            listener = Listener(LocalBus())
            background = Background()
            background.start("bus", listener.bus.run())
            stack.push_async_callback(background.stop)
            return listener

        yield local if shared is None else Nodes(shared, stack).open


def entry(pos: int, payload: bytes | None = b'{"n":1}') -> Entry:
    return Entry(
        {
            "pos": pos,
            "outbox_id": pos + 100,
            "type": "MESSAGE_CREATE",
            "users": None,
            "guild_id": 5,
            "channel_id": 6,
            "subject": 9,
            "retracts": [1],
            "retracts_channels": None,
            "revises": 9,
            "payload": payload,
            "parent_id": 5,
            "reshapes": 0,
            "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        }
    )


# What every bus promises.


async def test_a_node_hears_its_own_whispers_at_once_and_in_order(open_bus: OpenBus) -> None:
    listener = await open_bus()
    for number in range(100):
        listener.bus.whisper(Waved(n=number))
    assert [int(wave.split(b":")[1].split(b",")[0]) for wave in listener.waves] == list(range(100))
    first = listener.heard[0]
    assert isinstance(first, Whisper)
    assert (first.kind, first.users, first.guild_id, first.channel_id) == ("WAVE", None, 5, 6)


async def test_a_node_is_not_told_what_it_told_of_the_log(open_bus: OpenBus) -> None:
    listener = await open_bus()
    listener.bus.drained(EPOCH, [entry(1), entry(2)])
    listener.bus.whisper(Waved(n=1))
    assert len(listener.heard) == 1


async def test_every_node_has_a_name_of_its_own(open_bus: OpenBus) -> None:
    names = {(await open_bus()).bus.node for _ in range(3)}
    assert len(names) == 3


async def test_a_whisper_before_anybody_listens_is_lost_and_no_error() -> None:
    LocalBus().whisper(Waved(n=1))


# What Redis's does between nodes, on each kind of Redis.


async def test_nodes_hear_each_other_once(nodes: Nodes) -> None:
    one, two, three = [await nodes.open() for _ in range(3)]
    for listener in (one, two, three):
        listener.heard.clear()
    one.bus.whisper(Waved(n=1))
    one.bus.drained(EPOCH, [entry(11), entry(12, None)])
    for listener in (two, three):
        await listener.has_heard(2)
        told = {type(message): message for message in listener.heard}
        drained = told[Drained]
        assert isinstance(drained, Drained)
        assert (drained.epoch, drained.head) == (EPOCH, 12)
        for was, came in zip([entry(11), entry(12, None)], entries_of(drained.rows), strict=True):
            assert [getattr(was, slot) for slot in Entry.__slots__] == [
                getattr(came, slot) for slot in Entry.__slots__
            ]
    assert [type(message) for message in one.heard] == [Whisper]


async def test_too_much_to_carry_is_a_hint(nodes: Nodes) -> None:
    one, two = [await nodes.open() for _ in range(2)]
    two.heard.clear()
    one.bus.drained(EPOCH, [entry(11, b"x" * (2 << 20))])
    await two.has_heard(1)
    assert two.heard == [Drained(EPOCH, 11)]


async def test_who_whispers_too_much_is_cut_short(nodes: Nodes) -> None:
    one, two = [await nodes.open() for _ in range(2)]
    two.heard.clear()
    # In one go: nothing can leave in between.
    for number in range(1_500):
        one.bus.whisper(Waved(n=number))
    await two.has_heard(1_000)
    assert len(one.waves) == 1_500
    assert two.waves[-1].startswith(b'{"n":1499')
    assert nodes.dropped.count("whisper") == 500


async def test_redis_may_die_and_come_back(nodes: Nodes) -> None:
    one, two = [await nodes.open() for _ in range(2)]
    await nodes.service.kill()
    one.heard.clear()
    one.bus.whisper(Waved(n=1))
    assert len(one.waves) == 1
    await nodes.service.start()
    await nodes.level(two)
    await nodes.level(one)
    two.bus.whisper(Waved(n=2))
    await one.has_heard(1)


async def test_a_redis_that_says_nothing_is_as_good_as_dead(nodes: Nodes) -> None:
    one, two = [await nodes.open() for _ in range(2)]
    nodes.service.pause()
    try:
        one.bus.whisper(Waved(n=1))
        async with asyncio.timeout(5):
            while "packet" not in nodes.dropped:  # noqa: ASYNC110  # a counter has no event
                await asyncio.sleep(0.01)
    finally:
        nodes.service.resume()
    await nodes.level(two)


async def test_what_can_not_be_read_is_passed_over(redis_server: RedisService) -> None:
    async with AsyncExitStack() as stack:
        nodes = Nodes(redis_server, stack)
        one, two = [await nodes.open() for _ in range(2)]
        redis = Redis(redis_server.address, prefix="parley:test", count_failure=lambda: None)
        stack.push_async_callback(redis.close)
        await redis.call(lambda client: client.publish(redis.key("bus"), b"\x00nonsense"))
        two.heard.clear()
        one.bus.whisper(Waved(n=1))
        await two.has_heard(1)
        assert nodes.dropped.count("unreadable") == 2
