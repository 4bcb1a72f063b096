"""What nodes lend each other: revocation works by the log, whatever state Redis is in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from internal.db.redis import Redis
from internal.db.redis_cache import RedisCache
from tests.e2e.conftest import OpenTown
from tests.support.people import Person, Town, refused
from tests.support.redis import RedisServer, RedisService

# What an event may take to every node.
HEARD_S = 2.0
LOOK_AGAIN_S = 0.02

Fault = Callable[[RedisService], Awaitable[None]]


class Service:
    """Two nodes on one database, and what they share."""

    def __init__(self, one: Town, two: Town, redis: RedisService | None) -> None:
        self.one = one
        self.two = two
        self.redis = redis


async def nothing(_redis: RedisService) -> None:
    return


async def kill(redis: RedisService) -> None:
    await redis.kill()


async def pause(redis: RedisService) -> None:
    redis.pause()


async def flush(redis: RedisService) -> None:
    await redis.flush()


async def restart(redis: RedisService) -> None:
    await redis.kill()
    await redis.start()


FAULTS: list[Fault] = [nothing, kill, pause, flush, restart]


@pytest.fixture(params=[None, "redis_server", "redis_cluster", "redis_sentinels"])
def redis(request: pytest.FixtureRequest) -> RedisService | None:
    """What the nodes share; None leaves them the log alone."""
    return request.getfixturevalue(request.param) if request.param else None


@pytest.fixture
async def service(open_town: OpenTown, redis: RedisService | None) -> Service:
    return await open_service(open_town, redis)


async def open_service(open_town: OpenTown, redis: RedisService | None) -> Service:
    more = redis.settings if redis else {}
    one, two = await open_town(**more), await open_town(**more)
    two.shares_people_with(one)
    return Service(one, two, redis)


async def status_on(town: Town, person: Person, path: str = "/users/@me") -> int:
    api = town.stranger
    return (await api.call("GET", path, headers=person.headers)).status


async def user_on(town: Town, asker: Person, user_id: str) -> Any:
    answer = await town.stranger.call("GET", f"/users/{user_id}", headers=asker.headers)
    assert answer.status == 200
    return answer.json()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HEARD_S):
        while not await holds():  # noqa: ASYNC110  # it is another node that we ask
            await asyncio.sleep(LOOK_AGAIN_S)


async def behind_the_back(database_url: str, statement: str) -> None:
    """Change the database so that no event tells it: only a cache can still know otherwise."""
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_logout_is_refused_by_all_nodes(service: Service, fault: Fault) -> None:
    ada = await service.one.person("ada")
    for town in (service.one, service.two, service.one):
        assert await status_on(town, ada) == 200
    if service.redis is not None:
        await fault(service.redis)
    elif fault is not nothing:
        pytest.skip("there is no Redis to harm")

    await ada.post("/auth/logout")

    assert await status_on(service.one, ada) == 401, "at once where it was asked for"

    async def is_refused() -> bool:
        return await status_on(service.two, ada) == 401

    await until(is_refused)
    if service.redis is not None:
        await service.redis.start()
    for town in (service.one, service.two):
        assert await status_on(town, ada) == 401, "for good"


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_password_change_ends_the_other_sessions_everywhere(
    open_town: OpenTown, redis_server: RedisServer, fault: Fault
) -> None:
    service = await open_service(open_town, redis_server)
    ada = await service.one.person("ada")
    phone = Person(service.two, "ada")
    await phone.login()
    for town in (service.one, service.two):
        assert await status_on(town, phone) == 200
        assert await status_on(town, ada) == 200
    passwords = {"password": ada.password, "new_password": "another battery staple"}
    if fault in (kill, pause):
        await fault(redis_server)
        with refused(503):  # it guards a secret
            await ada.post("/auth/password", passwords)
        await redis_server.start()

        async def is_back() -> bool:
            answer = await ada.call("POST", "/auth/login", content=b"{}")
            return answer.status != 503

        await until(is_back)
    else:
        await fault(redis_server)
    ada.take(await ada.post("/auth/password", passwords))

    async def is_refused() -> bool:
        return await status_on(service.two, phone) == 401

    await until(is_refused)
    assert await status_on(service.one, phone) == 401
    assert await status_on(service.two, ada) == 200


async def test_a_session_is_looked_up_once_for_all_nodes(
    open_town: OpenTown, any_redis: RedisService, database_url: str
) -> None:
    service = await open_service(open_town, any_redis)
    ada, bob = await service.one.person("ada"), await service.one.person("bob")
    assert await status_on(service.one, ada) == 200

    await behind_the_back(database_url, "DELETE FROM login_sessions")

    assert await status_on(service.two, ada) == 200, "it was looked up again"
    assert await status_on(service.two, bob) == 401, "whom no node has seen yet"
    await any_redis.flush()
    third = await open_town(**any_redis.settings)
    assert await status_on(third, ada) == 401


async def test_a_node_that_begins_trusts_nothing_older(
    open_town: OpenTown, redis_server: RedisServer
) -> None:
    """A revocation may lie between the copy and the beginning of the node."""
    service = await open_service(open_town, redis_server)
    ada = await service.one.person("ada")
    assert await status_on(service.one, ada) == 200
    stale = await contents(redis_server)
    await ada.post("/auth/logout")
    assert await status_on(service.one, ada) == 401

    async def has_position() -> bool:
        return await status_on(service.two, ada) == 401

    await until(has_position)
    await put_back(redis_server, stale)
    third = await open_town(**redis_server.settings)

    assert await contents(redis_server) == stale
    for town in (service.one, service.two, third):
        assert await status_on(town, ada) == 401


async def test_a_user_is_looked_up_once_for_all_nodes(
    open_town: OpenTown, any_redis: RedisService, database_url: str
) -> None:
    service = await open_service(open_town, any_redis)
    ada, bob = await service.one.person("ada"), await service.one.person("bob")
    assert (await user_on(service.one, bob, ada.id))["global_name"] is None

    await behind_the_back(database_url, "UPDATE users SET global_name = 'Ghost'")

    assert (await user_on(service.two, bob, ada.id))["global_name"] is None, "looked up again"
    await any_redis.flush()
    assert (await user_on(service.two, bob, ada.id))["global_name"] == "Ghost"


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_changed_user_is_seen_by_all_nodes(service: Service, fault: Fault) -> None:
    ada, bob = await service.one.person("ada"), await service.one.person("bob")
    for town in (service.one, service.two):
        assert (await user_on(town, bob, ada.id))["global_name"] is None
    if service.redis is not None:
        await fault(service.redis)
    elif fault is not nothing:
        pytest.skip("there is no Redis to harm")

    for number in range(3):
        await ada.patch("/users/@me", {"global_name": f"Ada {number}"})
        seen = await user_on(service.one, bob, ada.id)
        assert seen["global_name"] == f"Ada {number}", "at once where it was changed"

    async def is_seen() -> bool:
        seen = await user_on(service.two, bob, ada.id)
        return bool(seen["global_name"] == "Ada 2")

    await until(is_seen)


async def test_no_secret_is_in_redis(open_town: OpenTown, redis_server: RedisServer) -> None:
    service = await open_service(open_town, redis_server)
    ada = await service.one.person("ada")
    phone = Person(service.two, "ada")
    await phone.login()
    for town in (service.one, service.two):
        await user_on(town, ada, ada.id)

    kept = await contents(redis_server)

    everything = repr(kept)
    assert f":session:{ada.session_id}" in everything
    assert f":user:{ada.id}" in everything
    secrets = (ada.email, ada.password, ada.access_token, ada.refresh_token, "127.0.0.1", "$2b$")
    assert [secret for secret in secrets if secret in everything] == []


async def test_a_cache_that_is_away_finds_nothing(redis_server: RedisServer) -> None:
    redis = Redis(redis_server.address, prefix="parley", count_failure=lambda: None)
    cache = RedisCache(redis)
    await cache.put("a", b"1", 30)
    assert await cache.get("a") == b"1"
    assert 29_000 < await redis_server.command("PTTL", "parley:cache:a") <= 30_000

    await redis_server.kill()

    await cache.put("b", b"1", 30)
    assert await cache.get("a") is None
    await redis.close()


async def contents(redis: RedisServer) -> dict[str, str]:
    """What caches have put there."""
    keys = [key for key in await redis.keys() if ":cache:" in key]
    return {key: await redis.command("GET", key) for key in keys}


async def put_back(redis: RedisServer, kept: dict[str, str]) -> None:
    for key, value in kept.items():
        await redis.command("SET", key, value)
