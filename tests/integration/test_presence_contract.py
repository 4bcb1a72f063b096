"""What every store of presence promises to its nodes, in the process and in Redis."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis as Client

from internal.db.redis import Redis, RedisAway
from internal.presence.model import (
    PresenceLimits,
    PresenceUpdate,
    SessionPresence,
    Status,
    UserPresence,
)
from internal.presence.repository import (
    PATIENCE_S,
    TTL_S,
    Board,
    LocalPresences,
    Presences,
    RedisPresences,
)
from tests.support.clock import StandingClock
from tests.support.presence import Node, part
from tests.support.redis import RedisService

PREFIX = "parley:test"
_IDLE = PresenceUpdate(status="idle")
KINDS = ["in this process", "single", "cluster", "sentinel"]


class Shared:
    """Where nodes tell each other who is there; one of them at a time may die."""

    def __init__(self, service: RedisService | None, stack: AsyncExitStack) -> None:
        self.clock = StandingClock()
        self._service = service
        self._stack = stack
        self._board = Board(self.clock)
        self.opened: list[Redis] = []

    def open(self, name: str) -> Presences:
        if self._service is None:
            return LocalPresences(self._board, name)
        redis = Redis(self._service.address, prefix=PREFIX, count_failure=lambda: None)
        self._stack.push_async_callback(redis.close)
        self.opened.append(redis)
        return RedisPresences(redis, name, self.clock)

    def node(self, name: str, limits: PresenceLimits | None = None) -> Node:
        return Node(name, self.open(name), self.clock, limits or PresenceLimits())

    async def silence(self, name: str) -> None:
        """What a node wrote lapses: it has not said for long that it lives."""
        if self._service is None:
            self._board.heard_at[name] -= TTL_S + PATIENCE_S + 1
            return
        redis = self.opened[0]
        keys = [redis.key("presence", f"{{{name}}}", of) for of in ("version", "users", "log")]
        await redis.call(lambda client: cast("Any", client).delete(*keys))


@pytest.fixture(params=KINDS)
def service(request: pytest.FixtureRequest) -> RedisService | None:
    """What the nodes share: nothing, or a Redis of each mode."""
    names = {"single": "server", "cluster": "cluster", "sentinel": "sentinels"}
    if request.param not in names:
        return None
    found: RedisService = request.getfixturevalue(f"redis_{names[request.param]}")
    return found


@pytest.fixture
async def shared(service: RedisService | None) -> AsyncIterator[Shared]:
    async with AsyncExitStack() as stack:
        yield Shared(service, stack)


@pytest.fixture
async def in_redis(redis_server: RedisService) -> AsyncIterator[Shared]:
    async with AsyncExitStack() as stack:
        yield Shared(redis_server, stack)


async def read(store: Presences) -> dict[tuple[str, int], UserPresence | None]:
    return {(node, user_id): known for node, user_id, known in await store.changes()}


async def opened(shared: Shared, *names: str) -> list[Presences]:
    """Nodes that are known and have read what there is."""
    stores = [shared.open(name) for name in names]
    for store in stores:
        await store.replace({})
    for store in stores:
        await store.changes()
    return stores


# The store.


async def test_what_one_writes_the_others_read_once(shared: Shared) -> None:
    here, there, third = await opened(shared, "a", "b", "c")
    assert await here.put({1: part(), 2: part("dnd")})
    wanted = {("a", 1): part(), ("a", 2): part("dnd")}
    assert await read(there) == wanted
    assert await read(third) == wanted
    assert await read(here) == {}
    assert await read(there) == {}


async def test_the_last_word_counts(shared: Shared) -> None:
    here, there = await opened(shared, "a", "b")
    await here.put({1: part(), 2: part()})
    await here.put({1: part("idle"), 2: None})
    assert await read(there) == {("a", 1): part("idle"), ("a", 2): None}


async def test_a_newcomer_reads_everything(shared: Shared) -> None:
    [here] = await opened(shared, "a")
    await here.put({1: part(), 2: part()})
    await here.put({2: None})
    there = shared.open("b")
    assert {key: known for key, known in (await read(there)).items() if known} == {("a", 1): part()}


async def test_everything_anew_takes_away_what_is_not_in_it(shared: Shared) -> None:
    here, there = await opened(shared, "a", "b")
    await here.put({1: part(), 2: part()})
    await there.changes()
    await here.replace({2: part("dnd"), 3: part()})
    assert await read(there) == {
        ("a", 1): None,
        ("a", 2): part("dnd"),
        ("a", 3): part(),
    }


async def test_a_node_that_falls_silent_takes_its_users_along_once(shared: Shared) -> None:
    here, dead, other = await opened(shared, "a", "b", "c")
    await dead.put({1: part(), 2: part()})
    await other.put({1: part(key=7)})
    await here.changes()
    await shared.silence("b")
    await here.beat()
    await other.beat()
    gone = await read(here)
    shared.clock.pass_by(seconds=PATIENCE_S + 1)
    await here.beat()
    await other.beat()
    gone |= await read(here)
    assert gone == {("b", 1): None, ("b", 2): None}
    assert await read(here) == {}


async def test_a_node_lives_as_long_as_it_says_so(shared: Shared) -> None:
    here, there = await opened(shared, "a", "b")
    await here.put({1: part()})
    await there.changes()
    for _ in range(4):
        shared.clock.pass_by(seconds=TTL_S / 2)
        assert await here.beat()
        assert await there.beat()
        assert await read(there) == {}


async def test_who_was_forgotten_is_told_so_and_may_write_everything_anew(shared: Shared) -> None:
    here, there = await opened(shared, "a", "b")
    await here.put({1: part()})
    await there.changes()
    await shared.silence("a")
    assert not await here.beat()
    assert not await here.put({2: part()})
    await here.replace({1: part(), 2: part()})
    assert await here.beat()
    found = await read(there)
    assert found["a", 1] == part()
    assert found["a", 2] == part()


async def test_who_was_never_known_has_to_write_everything_first(shared: Shared) -> None:
    store = shared.open("a")
    assert not await store.beat()
    assert not await store.put({1: part()})


async def test_more_changes_than_are_remembered_one_by_one(shared: Shared) -> None:
    here, there = await opened(shared, "a", "b")
    await here.put({user_id: part() for user_id in range(1, 3001)})
    assert len(await read(there)) == 3000
    await here.put({user_id: part("idle") for user_id in range(1, 3001)})
    await here.put(dict.fromkeys(range(1, 2001)))
    found = await read(there)
    assert {user_id for (_, user_id), known in found.items() if known is None} == set(
        range(1, 2001)
    )
    assert all(found["a", user_id] == part("idle") for user_id in range(2001, 3001))


async def test_of_what_a_session_shows_the_later_word_is_kept(shared: Shared) -> None:
    here, there = await opened(shared, "a", "b")
    words = [SessionPresence(key, "idle", "web", (), 5) for key in range(1, 30)]
    await here.keep(words)
    await there.keep(
        [SessionPresence(1, "dnd", "web", (), 6), SessionPresence(2, "dnd", at=4, device="web")]
    )
    found = {word.key: word for word in await there.kept([*range(1, 31)])}
    assert sorted(found) == list(range(1, 30))
    assert found[1].status == "dnd"
    assert found[2] == words[1]
    assert await here.kept([77]) == []


# Several nodes, each with its people.


@pytest.mark.parametrize("status", ["invisible", "idle"])
async def test_what_a_session_showed_outlives_its_node(shared: Shared, status: Status) -> None:
    dead = shared.node("a")
    dead.come(1)
    dead.service.change(1, 1, PresenceUpdate(status=status))
    for _ in range(2):
        await dead.work()
    await shared.silence("a")
    here = shared.node("b")
    here.service.back(1, 1, "web")
    here.service.live(1, 1, (9,))
    for _ in range(2):
        await here.work()
    assert here.listeners.statuses(1) == ([] if status == "invisible" else [status])


async def test_users_of_a_dead_node_go_offline_on_the_others(shared: Shared) -> None:
    here, dead = shared.node("a"), shared.node("b")
    here.come(1)
    dead.come(2)
    dead.come(3)
    here.come(3, key=33, status="dnd")
    for node in (here, dead, here):
        await node.work()
    assert here.listeners.statuses(2) == ["online"]
    assert here.listeners.statuses(3)[-1] == "dnd"
    assert here.service.online == 3
    await shared.silence("b")
    await here.work()
    shared.clock.pass_by(seconds=PATIENCE_S + 1)
    for _ in range(2):
        await here.work()
    assert here.listeners.statuses(2) == ["offline"]
    # The other session is still there, and dominated all along.
    assert here.listeners.statuses(3) == []
    assert here.service.online == 2


async def test_sessions_on_several_nodes_come_to_one_everywhere(shared: Shared) -> None:
    nodes = [shared.node(name) for name in "abc"]
    for number, node in enumerate(nodes):
        node.come(1, key=number + 1, status="idle")
    nodes[2].come(1, key=9, status="dnd")
    for _ in range(2):
        for node in nodes:
            await node.work()
    assert [node.listeners.statuses(1)[-1] for node in nodes] == ["dnd"] * 3
    nodes[2].service.gone(9, 1, for_good=True)
    for _ in range(2):
        for node in nodes:
            await node.work()
    assert [node.listeners.statuses(1) for node in nodes] == [["idle"]] * 3


async def test_a_session_that_moved_to_another_node_is_one(shared: Shared) -> None:
    here, there = shared.node("a"), shared.node("b")
    here.come(1, status="dnd")
    for node in (here, there, here):
        await node.work()
    assert there.listeners.statuses(1) == ["dnd"]
    here.service.gone(1, 1, for_good=False)
    there.service.back(1, 1, "web")
    there.service.live(1, 1, (9,))
    for node in (there, here, there):
        await node.work()
    # It is as it was, and then as it says there: what the first node still holds is older.
    assert there.listeners.statuses(1) == []
    shared.clock.pass_by(seconds=1)
    there.service.change(1, 1, _IDLE)
    for node in (there, here, there):
        await node.work()
    assert there.listeners.statuses(1) == ["idle"]
    there.service.gone(1, 1, for_good=True)
    for node in (there, here, there):
        await node.work()
    assert there.listeners.statuses(1) == ["offline"]
    shared.clock.pass_by(seconds=15)
    for node in (here, there, here):
        await node.work()
    shared.clock.pass_by(seconds=31)
    for node in (here, there, here):
        await node.work()
    assert there.listeners.statuses(1) == []
    assert here.listeners.statuses(1)[-1] == "offline"
    assert (here.service.online, there.service.online) == (0, 0)


# Redis alone.


async def test_an_emptied_redis_makes_nobody_go(
    in_redis: Shared, redis_server: RedisService
) -> None:
    here, there = in_redis.node("a"), in_redis.node("b")
    here.come(1)
    for node in (here, there):
        await node.work()
    assert there.listeners.statuses(1) == ["online"]
    await redis_server.flush()
    # The others look first, and wait; then it is as it was.
    await there.work()
    await here.work()
    in_redis.clock.pass_by(seconds=PATIENCE_S + 1)
    for node in (there, here, there):
        await node.work()
    assert there.listeners.statuses(1) == []
    here.service.gone(1, 1, for_good=True)
    for node in (here, there):
        await node.work()
    assert there.listeners.statuses(1) == ["offline"]


async def test_while_redis_is_away_everybody_stays_and_later_all_is_told(
    in_redis: Shared, redis_server: RedisService
) -> None:
    here, there = in_redis.node("a"), in_redis.node("b")
    here.come(1)
    here.come(2)
    for node in (here, there):
        await node.work()
    there.listeners.told.clear()
    # A node that was missing already when Redis went was not missing all the time.
    await redis_server.flush()
    await there.work()
    await redis_server.kill()
    here.service.gone(2, 2, for_good=True)
    here.come(3)
    for node in (here, there):
        with pytest.raises(RedisAway):
            await node.service.exchange()
        await node.service.tell()
    assert here.listeners.statuses(2)[-1] == "offline"
    assert here.listeners.statuses(3) == ["online"]
    assert there.listeners.told == []
    in_redis.clock.pass_by(hours=1)
    await redis_server.start()
    for redis in in_redis.opened:
        redis.is_up = True
    for node in (there, here, there):
        await node.work()
    assert there.listeners.statuses(1) == []
    assert there.listeners.statuses(2) == ["offline"]
    assert there.listeners.statuses(3) == ["online"]


async def test_a_value_that_cannot_be_read_costs_no_others(in_redis: Shared) -> None:
    here, there, newer = await opened(in_redis, "a", "b", "c")
    await there.put({1: part()})
    await newer.put({7: part(), 8: part()})
    await here.changes()
    [redis, *_] = in_redis.opened
    users = redis.key("presence", "{c}", "users")
    await newer.put({7: part("dnd"), 8: part("dnd")})
    odd = msgspec.msgpack.encode([[9], [[1, "streaming", "web"]]])
    await redis.call(lambda client: cast("Any", client).hset(users, "7", odd))
    await there.put({1: None})
    # Who can't be read is shown as away, not as before.
    assert await read(here) == {("b", 1): None, ("c", 7): None, ("c", 8): part("dnd")}
    assert cast("RedisPresences", here).unreadable == 1
    await there.put({2: part()})
    await newer.put({7: part("idle")})
    assert await read(here) == {("b", 2): part(), ("c", 7): part("idle")}


async def test_the_dead_are_not_asked_for_ever(in_redis: Shared) -> None:
    here, there = await opened(in_redis, "a", "b")
    [redis, *_] = in_redis.opened
    nodes = redis.key("presence", "nodes")

    async def asked() -> int:
        before = await redis.call(lambda client: cast("Any", client).info("commandstats"))
        assert await read(here) == {}
        after = await redis.call(lambda client: cast("Any", client).info("commandstats"))
        evals = [stats.get("cmdstat_eval", {"calls": 0})["calls"] for stats in (before, after)]
        return int(evals[1] - evals[0])

    living = await asked()
    seconds, _ = await redis.call(lambda client: cast("Any", client).time())
    dead = {f"dead {n}": (seconds - TTL_S - PATIENCE_S - 2) * 1000 for n in range(50)}
    await redis.call(lambda client: cast("Any", client).zadd(nodes, dead))
    assert await asked() == living
    # The clocks of the nodes say nothing of that: one of them may be far behind.
    in_redis.clock.pass_by(days=-1)
    assert await there.beat()
    found = await redis.call(lambda client: cast("Any", client).zrange(nodes, 0, -1))
    assert set(found) == {b"a", b"b"}
    assert await there.put({1: part()})
    assert await read(here) == {("b", 1): part()}


async def test_what_a_node_writes_ends_with_it(
    in_redis: Shared, redis_server: RedisService
) -> None:
    [store] = await opened(in_redis, "a")
    await store.put({1: part()})
    client = Client.from_url(redis_server.address.url)
    try:
        keys = [key async for key in client.scan_iter(f"{PREFIX}:presence:*")]
        left_ms = {key.decode(): await client.pttl(key) for key in keys}
    finally:
        await client.aclose()
    assert left_ms.pop(f"{PREFIX}:presence:nodes") == -1
    assert len(left_ms) == 3
    assert all(0 < left <= TTL_S * 1000 for left in left_ms.values()), left_ms
