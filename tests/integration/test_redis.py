"""The shared Redis: found in each mode, given up on quickly, and found again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from internal.db.redis import Client, Redis, RedisAway
from tests.support.redis import RedisSentinels, RedisServer, RedisService

# A call has 250 ms; this is what it may take on a busy machine.
SOON_S = 3.0
BACK_S = 5.0
# A sentinel takes its time, and the machine may be busy.
FAILOVER_S = 15.0


class Failures:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def connected(service: RedisService, failures: Failures) -> AsyncIterator[Redis]:
    redis = Redis(service.address, prefix="parley", count_failure=failures)
    watch = asyncio.create_task(redis.watch())
    try:
        yield redis
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await redis.close()


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
async def redis(any_redis: RedisService, failures: Failures) -> AsyncIterator[Redis]:
    async with connected(any_redis, failures) as opened:
        yield opened


def setting(key: str) -> Callable[[Client], Awaitable[Any]]:
    return lambda client: cast("Awaitable[Any]", client.set(key, b"1"))


def getting(key: str) -> Callable[[Client], Awaitable[Any]]:
    return lambda client: cast("Awaitable[Any]", client.get(key))


async def until_back(redis: Redis, key: str = "back") -> float:
    """How long it takes until a write succeeds again."""
    began = now()
    async with asyncio.timeout(FAILOVER_S):
        while True:
            with suppress(RedisAway):
                await redis.call(setting(redis.key(key)))
                return now() - began
            await asyncio.sleep(0.02)


async def test_what_one_writes_another_reads(redis: Redis, any_redis: RedisService) -> None:
    async with connected(any_redis, Failures()) as other:
        for number in range(20):
            await redis.call(setting(redis.key("shared", number)))

        found = [await other.call(getting(redis.key("shared", number))) for number in range(20)]

    assert found == [b"1"] * 20


async def test_keys_begin_with_the_prefix(redis_server: RedisServer) -> None:
    async with connected(redis_server, Failures()) as redis:
        await redis.call(setting(redis.key("a", 1, "b")))

    assert await redis_server.keys() == ["parley:a:1:b"]


async def test_a_dead_redis_is_told_at_once_and_found_again(
    redis: Redis, any_redis: RedisService, failures: Failures
) -> None:
    await redis.call(setting(redis.key("a")))
    await any_redis.kill()

    began = now()
    with pytest.raises(RedisAway):
        await redis.call(getting(redis.key("a")))
    assert now() - began < SOON_S
    assert not redis.is_up
    assert failures.count >= 1

    await any_redis.start()
    assert await until_back(redis) < BACK_S
    assert redis.is_up


async def test_once_it_is_back_no_call_meets_a_dead_connection(
    redis: Redis, any_redis: RedisService
) -> None:
    """Each that was open when it died would otherwise fail once more, half a second apart."""
    await asyncio.gather(*(redis.call(getting(redis.key(number))) for number in range(20)))
    await any_redis.kill()
    with pytest.raises(RedisAway):
        await redis.call(getting(redis.key("a")))
    await any_redis.start()
    await until_back(redis)

    await asyncio.gather(*(redis.call(getting(redis.key(number))) for number in range(20)))

    assert redis.is_up


async def test_a_paused_redis_delays_the_first_call_only(
    redis: Redis, any_redis: RedisService
) -> None:
    await redis.call(setting(redis.key("a")))
    any_redis.pause()

    began = now()
    with pytest.raises(RedisAway):
        await redis.call(getting(redis.key("a")))
    assert now() - began < SOON_S

    began = now()
    for _ in range(1000):
        with pytest.raises(RedisAway):
            await redis.call(getting(redis.key("a")))
    assert now() - began < SOON_S

    any_redis.resume()
    assert await until_back(redis) < BACK_S


async def test_many_calls_at_once_meet_a_paused_redis_together(
    redis: Redis, any_redis: RedisService
) -> None:
    await redis.call(setting(redis.key("a")))
    any_redis.pause()

    began = now()
    calls = (redis.call(getting(redis.key(number))) for number in range(200))
    found = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(fault) for fault in found} == {RedisAway}
    assert now() - began < SOON_S


async def test_a_flushed_redis_goes_on(redis: Redis, any_redis: RedisService) -> None:
    await redis.call(setting(redis.key("a")))
    await any_redis.flush()

    assert await redis.call(getting(redis.key("a"))) is None
    assert redis.is_up


async def test_a_sentinel_names_the_next_master(new_sentinels: RedisSentinels) -> None:
    """The old master dies for good: the replica takes over, and no setting changes."""
    async with connected(new_sentinels, Failures()) as redis:
        await redis.call(setting(redis.key("a")))
        old = await new_sentinels.master()
        await old.kill()
        with pytest.raises(RedisAway):
            await redis.call(setting(redis.key("a")))

        assert await until_back(redis) < FAILOVER_S
        assert await new_sentinels.master() is not old


async def test_what_is_published_reaches_a_listener(redis: Redis, any_redis: RedisService) -> None:
    async with (
        connected(any_redis, Failures()) as other,
        redis.listener() as pubsub,
        asyncio.timeout(BACK_S),
    ):
        await pubsub.subscribe(redis.key("news"))
        await anext(pubsub.listen())  # the subscription itself
        await other.call(
            lambda client: cast(
                "Awaitable[Any]", client.execute_command("PUBLISH", redis.key("news"), b"hello")
            )
        )
        message = await anext(pubsub.listen())

    assert message["data"] == b"hello"
