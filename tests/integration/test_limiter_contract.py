"""What holds for every limiter: in one process, and in each kind of Redis that nodes share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internal.db.redis import Redis, RedisAway
from internal.db.redis_limiter import RedisLimiter
from internal.errors import SlowDown, Unavailable
from internal.utils.bucket import Limiter, LocalLimiter, Rate, Taken, take_or_refuse
from tests.support.clock import StandingClock
from tests.support.redis import RedisCluster, RedisServer, RedisService

THREE = Rate(3, 0.5)
TEN = Rate(10, 1 / 60)
GUARDED = Rate(3, 0.5, guards_secrets=True)
# A call to Redis has 250 ms, and the machine may be busy.
SOON_S = 3.0
CONNECT_S = 10.0


class Nodes:
    """Limiters of one service, by a clock that stands."""

    def __init__(self, make: Callable[[float], Limiter], clock: StandingClock) -> None:
        self.make = make
        self.clock = clock

    def limiter(self, scale: float = 1.0) -> Limiter:
        return self.make(scale)


class Fallbacks:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def connect(stack: AsyncExitStack, service: RedisService) -> Redis:
    """Connected, too: that may take a busy machine longer than a call may take."""
    redis = Redis(service.address, prefix="parley:test", count_failure=lambda: None)
    stack.push_async_callback(redis.close)
    async with asyncio.timeout(CONNECT_S):
        while True:
            with suppress(RedisAway):
                redis.is_up = True
                await redis.call(lambda client: cast("Awaitable[Any]", client.ping()))
                return redis


def shared(
    redis: Redis,
    clock: StandingClock,
    scale: float = 1.0,
    fallbacks: Fallbacks | None = None,
) -> RedisLimiter:
    return RedisLimiter(
        redis,
        clock,
        scale=scale,
        count_fallback=fallbacks or Fallbacks(),
        now=lambda: clock.now().timestamp(),
    )


@pytest.fixture(params=[None, "redis_server", "redis_cluster", "redis_sentinels"])
def service(request: pytest.FixtureRequest) -> RedisService | None:
    """What the limiters share; None for one process by itself."""
    return request.getfixturevalue(request.param) if request.param else None


@pytest.fixture
async def nodes(service: RedisService | None) -> AsyncIterator[Nodes]:
    clock = StandingClock()
    async with AsyncExitStack() as stack:
        if service is None:
            yield Nodes(lambda scale: LocalLimiter(clock, scale=scale), clock)
            return
        redis = await connect(stack, service)
        yield Nodes(lambda scale: shared(redis, clock, scale), clock)


async def test_a_burst_then_a_drip(nodes: Nodes) -> None:
    limiter = nodes.limiter()
    burst = [await limiter.take("ada", THREE) for _ in range(4)]
    assert [one.is_allowed for one in burst] == [True, True, True, False]
    assert [one.remaining for one in burst] == [2, 1, 0, 0]
    assert [one.reset_after for one in burst] == [2, 4, 6, 6]
    assert [one.retry_after for one in burst] == [0, 0, 2, 2]
    assert {one.limit for one in burst} == {3}

    nodes.clock.pass_by(seconds=1.9)
    assert not (await limiter.take("ada", THREE)).is_allowed
    nodes.clock.pass_by(seconds=0.1)
    assert (await limiter.take("ada", THREE)).is_allowed
    assert not (await limiter.take("ada", THREE)).is_allowed
    nodes.clock.pass_by(seconds=3600)
    assert (await limiter.take("ada", THREE)).remaining == 2, "no more than the bucket holds"


async def test_a_refusal_costs_nothing(nodes: Nodes) -> None:
    limiter = nodes.limiter()
    for _ in range(20):
        await limiter.take("ada", THREE)

    nodes.clock.pass_by(seconds=2)

    assert (await limiter.take("ada", THREE)).is_allowed


async def test_each_key_has_its_bucket(nodes: Nodes) -> None:
    limiter = nodes.limiter()
    for _ in range(3):
        await limiter.take("ada", THREE)
    assert not (await limiter.take("ada", THREE)).is_allowed
    assert (await limiter.take("bob", THREE)).is_allowed


async def test_the_scale_multiplies_both(nodes: Nodes) -> None:
    limiter = nodes.limiter(scale=2)
    assert [(await limiter.take("ada", THREE)).is_allowed for _ in range(7)] == [True] * 6 + [False]
    nodes.clock.pass_by(seconds=1)
    assert (await limiter.take("ada", THREE)).is_allowed
    assert (await nodes.limiter(scale=0.01).take("eve", THREE)).is_allowed, "always something"


async def test_refused_with_the_time_to_wait(nodes: Nodes) -> None:
    limiter = nodes.limiter()
    for _ in range(3):
        await take_or_refuse(limiter, "ada", THREE)
    with pytest.raises(SlowDown) as refusal:
        await take_or_refuse(limiter, "ada", THREE)
    assert refusal.value.retry_after == 2


async def test_whoever_asks_at_once_shares_the_bucket(nodes: Nodes) -> None:
    limiter = nodes.limiter()

    taken = await asyncio.gather(*(limiter.take("ada", TEN) for _ in range(100)))

    assert sum(one.is_allowed for one in taken) == 10
    assert sorted(one.remaining for one in taken if one.is_allowed) == list(range(10))


async def test_many_keys_at_once_get_each_their_own_answer(nodes: Nodes) -> None:
    limiter = nodes.limiter()
    for number in range(0, 300, 3):
        await limiter.take(str(number), THREE)

    taken = await asyncio.gather(*(limiter.take(str(number), THREE) for number in range(300)))

    assert [one.remaining for one in taken] == [
        1 if number % 3 == 0 else 2 for number in range(300)
    ]


async def test_a_clock_that_was_set_back_opens_the_bucket_late_but_not_never(nodes: Nodes) -> None:
    limiter = nodes.limiter()
    await limiter.take("ada", THREE)
    if isinstance(limiter, LocalLimiter):
        pytest.skip("a process measures by a clock that is never set back")
    nodes.clock.pass_by(days=-1)

    assert not (await limiter.take("ada", THREE)).is_allowed
    nodes.clock.pass_by(seconds=2)
    assert (await limiter.take("ada", THREE)).is_allowed


async def test_nodes_share_a_bucket(any_redis: RedisService) -> None:
    """100 attempts from two nodes at once, by the clock of Redis: the bucket holds ten."""
    async with AsyncExitStack() as stack:
        limiters = [
            RedisLimiter(
                await connect(stack, any_redis), StandingClock(), count_fallback=Fallbacks()
            )
            for _ in range(2)
        ]

        taken = await asyncio.gather(
            *(limiters[number % 2].take("ada", TEN) for number in range(100))
        )

    assert sum(one.is_allowed for one in taken) == 10


async def test_a_flushed_redis_knows_no_script_and_goes_on(any_redis: RedisService) -> None:
    fallbacks = Fallbacks()
    async with AsyncExitStack() as stack:
        limiter = shared(await connect(stack, any_redis), StandingClock(), 1.0, fallbacks)
        for _ in range(3):
            await limiter.take("ada", THREE)
        await any_redis.flush()

        assert (await limiter.take("ada", THREE)).remaining == 2
        assert (await limiter.take("ada", THREE)).remaining == 1
    assert fallbacks.count == 0


async def test_buckets_go_by_themselves_and_tell_nobody(redis_server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        redis = await connect(stack, redis_server)
        limiter = RedisLimiter(redis, StandingClock(), count_fallback=Fallbacks())
        await limiter.take("login:strangers:ada@example.org", TEN)
        await limiter.take("public:203.0.113.7", Rate(100, 20))

    keys = await redis_server.keys()
    assert len(keys) == 2
    assert "ada" not in "".join(keys)
    assert "203" not in "".join(key.rpartition(":")[0] for key in keys)
    # Each is gone at the latest when its bucket is full again.
    lives = sorted([await redis_server.command("PTTL", key) for key in keys])
    assert 0 < lives[0] <= 51
    assert 59_000 < lives[1] <= 60_001


async def test_while_redis_is_away_each_node_limits_by_itself(any_redis: RedisService) -> None:
    fallbacks = Fallbacks()
    async with AsyncExitStack() as stack:
        limiter = shared(await connect(stack, any_redis), StandingClock(), 1.0, fallbacks)
        await limiter.take("ada", THREE)
        await any_redis.kill()

        taken = [await limiter.take("ada", THREE) for _ in range(4)]

    assert [one.is_allowed for one in taken] == [True, True, True, False]
    assert fallbacks.count == 4


async def test_while_redis_is_away_secrets_are_not_guessed(any_redis: RedisService) -> None:
    """Neither refused as too many nor let through: a 503 that tells when to come again."""
    async with AsyncExitStack() as stack:
        limiter = shared(await connect(stack, any_redis), StandingClock())
        await limiter.take("ada", GUARDED)
        await any_redis.kill()

        for _ in range(3):
            with pytest.raises(Unavailable) as refusal:
                await take_or_refuse(limiter, "ada", GUARDED)
            assert refusal.value.retry_after


@pytest.mark.parametrize("rate", [THREE, GUARDED])
async def test_a_paused_redis_holds_up_the_first_few_only(
    any_redis: RedisService, rate: Rate
) -> None:
    async with AsyncExitStack() as stack:
        limiter = shared(await connect(stack, any_redis), StandingClock())
        await limiter.take("ada", rate)
        any_redis.pause()
        loop = asyncio.get_running_loop()

        began = loop.time()
        first = (limiter.take(str(number), rate) for number in range(500))
        found = await asyncio.gather(*first, return_exceptions=True)
        assert loop.time() - began < SOON_S
        expected = Unavailable if rate.guards_secrets else Taken
        assert {type(one) for one in found} == {expected}

        began = loop.time()
        later = (limiter.take(str(number), rate) for number in range(500))
        await asyncio.gather(*later, return_exceptions=True)
        assert loop.time() - began < SOON_S


async def test_whoever_stops_waiting_leaves_the_others_theirs(redis_server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        limiter = shared(await connect(stack, redis_server), StandingClock())
        tasks = [asyncio.create_task(limiter.take("ada", TEN)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()

        found = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert [one.is_allowed for one in found[1:] if isinstance(one, Taken)] == [True, True]


async def test_a_cluster_keeps_buckets_on_all_its_masters(redis_cluster: RedisCluster) -> None:
    async with AsyncExitStack() as stack:
        limiter = shared(await connect(stack, redis_cluster), StandingClock())
        await asyncio.gather(*(limiter.take(str(number), TEN) for number in range(200)))

    counts = [len(await server.keys()) for server in redis_cluster.servers]
    assert sum(counts) == 200
    assert all(counts)


RATES = st.builds(Rate, st.floats(1, 200, allow_nan=False), st.floats(0.005, 0.2, allow_nan=False))
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), min_size=1, max_size=40)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rate=RATES, steps=STEPS)
async def test_both_kinds_say_the_same(
    redis_server: RedisServer, rate: Rate, steps: list[tuple[str, float]]
) -> None:
    """A whole microsecond is what they may differ by.

    The rates are slow: keys go by the clock of Redis, which does not stand.
    """
    clock = StandingClock()
    await redis_server.command("FLUSHALL")
    async with AsyncExitStack() as stack:
        local, remote = LocalLimiter(clock), shared(await connect(stack, redis_server), clock)
        for key, pause in steps:
            clock.pass_by(seconds=pause)
            ours, theirs = await local.take(key, rate), await remote.take(key, rate)
            if ours.is_allowed != theirs.is_allowed or ours.remaining != theirs.remaining:
                # On the very edge of a token either is right, and from there they part.
                tokens = rate.capacity - theirs.reset_after * rate.per_s
                assert abs(tokens - round(tokens)) * 1e6 / rate.per_s < 50
                return
            assert theirs.limit == ours.limit
            assert theirs.reset_after == pytest.approx(ours.reset_after, abs=1e-4)
            assert theirs.retry_after == pytest.approx(ours.retry_after, abs=1e-4)
