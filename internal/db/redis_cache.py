"""A cache that all nodes share, in Redis. Nothing is lost with it."""

from contextlib import suppress
from typing import Any, Final

from internal.db.redis import Client, Redis, RedisAway

_MILLISECONDS: Final = 1000


class RedisCache:
    """Bytes under keys, for a while. While Redis is away, nothing is found and nothing kept."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def get(self, key: str) -> bytes | None:
        name = self._redis.key("cache", key)
        try:
            found: bytes | None = await self._redis.call(lambda client: _get(client, name))
        except RedisAway:
            return None
        return found

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        name, lives = self._redis.key("cache", key), int(ttl_s * _MILLISECONDS)
        with suppress(RedisAway):
            await self._redis.call(lambda client: _set(client, name, value, lives))


async def _get(client: Client, name: str) -> Any:
    return await client.get(name)


async def _set(client: Client, name: str, value: bytes, lives_ms: int) -> Any:
    return await client.set(name, value, px=lives_ms)
