"""Token buckets that all nodes share, in Redis."""

import asyncio
from asyncio import Future, Task
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b, sha1
from itertools import chain
from typing import Any, Final, NamedTuple
from zlib import crc32

from redis.exceptions import NoScriptError
from typing_extensions import override

from internal.db.redis import Client, Redis, RedisAway
from internal.errors import Unavailable
from internal.utils.bucket import Limiter, LocalLimiter, Rate, Taken, told
from internal.utils.clock import Clock

# A bucket is the moment at which it is full again: one number, which needs no upkeep while nobody
# asks, and which is gone once that moment has come. `wait` is the time until then. A clock that was
# set back leaves a bucket empty at worst.
_TAKE: Final = """
local now = tonumber(ARGV[1])
if now < 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local answers = {}
for i, key in ipairs(KEYS) do
    local interval = tonumber(ARGV[2 * i + 1])
    local most = tonumber(ARGV[2 * i]) * interval
    local full_at = tonumber(redis.call('GET', key) or 0) or 0
    local wait = math.min(math.max(full_at - now, 0), most)
    local is_allowed = wait + interval <= most + 1
    if is_allowed then
        wait = wait + interval
    end
    if is_allowed or full_at - now > most then
        redis.call('SET', key, string.format('%.0f', now + wait), 'PX', math.ceil(wait / 1000))
    end
    answers[i] = math.floor(wait + 0.5) * (is_allowed and 1 or -1)
end
return answers
"""
_SHA: Final = sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()
_MICROSECONDS: Final = 1e6
# Redis does nothing else while it runs a script: this many keys take it about 0.3 ms.
_BATCH: Final = 128
# A script of a cluster keeps to the keys of one slot, so keys are dealt out to this many groups.
_GROUPS: Final = 16
# Redis is looked for twice a second.
_RETRY_S: Final = 1.0
_REDIS_TIME: Final = -1.0


class _Ask(NamedTuple):
    """One attempt on its way."""

    key: str
    rate: Rate
    # Until the bucket is full again, in microseconds; negative when the attempt is refused.
    wait: "Future[int]"


class RedisLimiter(Limiter):
    """Buckets in Redis, each shared by all nodes.

    What is asked for while a question is under way goes with the next one, so that many attempts
    cost one round trip. While Redis is away, limits that guard secrets refuse, and all others
    are kept by this node alone.
    """

    def __init__(
        self,
        redis: Redis,
        clock: Clock,
        *,
        scale: float = 1.0,
        count_fallback: Callable[[], None],
        now: Callable[[], float] | None = None,
    ) -> None:
        """`now` tells the time in seconds instead of Redis, whose clock is the same for all."""
        self._redis = redis
        self._scale = scale
        self._count_fallback = count_fallback
        self._now = now
        self._own = LocalLimiter(clock, scale=scale)
        self._asks: list[_Ask] = []
        self._asking: Task[None] | None = None

    @override
    async def take(self, key: str, rate: Rate) -> Taken:
        scaled = rate.scaled(self._scale)
        try:
            wait = await self._ask(key, scaled)
        except RedisAway:
            if rate.guards_secrets:
                raise Unavailable(retry_after=_RETRY_S) from None
            self._count_fallback()
            return await self._own.take(key, rate)
        return _told(scaled, wait)

    async def _ask(self, key: str, rate: Rate) -> int:
        if not self._redis.is_up:
            raise RedisAway
        loop = asyncio.get_running_loop()
        ask = _Ask(self._name(key), rate, loop.create_future())
        self._asks.append(ask)
        if self._asking is None:
            # It begins in the next turn of the loop, with all that this turn asks for.
            self._asking = loop.create_task(self._send_all())
        return await ask.wait

    async def _send_all(self) -> None:
        try:
            while self._asks:
                batch, self._asks = self._asks[:_BATCH], self._asks[_BATCH:]
                await asyncio.gather(*(self._send(group) for group in self._grouped(batch)))
        finally:
            self._asking = None

    def _grouped(self, batch: list[_Ask]) -> Sequence[Sequence[_Ask]]:
        if not self._redis.is_cluster:
            return [batch]
        groups: dict[str, list[_Ask]] = {}
        for ask in batch:
            groups.setdefault(ask.key.partition("}")[0], []).append(ask)
        return list(groups.values())

    async def _send(self, asks: Sequence[_Ask]) -> None:
        try:
            waits = await self._redis.call(_script(asks, self._now() if self._now else None))
        except Exception as fault:  # noqa: BLE001  # whatever it is, who waits must hear of it
            for ask in asks:
                if not ask.wait.done():
                    ask.wait.set_exception(fault)
            return
        for ask, wait in zip(asks, waits, strict=True):
            if not ask.wait.done():
                ask.wait.set_result(wait)

    def _name(self, key: str) -> str:
        """Name a bucket without telling whose it is: keys hold addresses of people and networks."""
        digest = blake2b(key.encode(), digest_size=16).hexdigest()
        if not self._redis.is_cluster:
            return self._redis.key("limit", digest)
        return self._redis.key("limit", f"{{limit-{crc32(key.encode()) % _GROUPS}}}", digest)


def _script(asks: Sequence[_Ask], now: float | None) -> Callable[[Client], Awaitable[list[int]]]:
    keys = [ask.key for ask in asks]
    time = _REDIS_TIME if now is None else now * _MICROSECONDS
    rates = chain.from_iterable((ask.rate.capacity, _interval(ask.rate)) for ask in asks)
    arguments: list[Any] = [len(keys), *keys, time, *rates]

    async def run(client: Client) -> list[int]:
        try:
            waits: list[int] = await client.evalsha(_SHA, *arguments)
        except NoScriptError:  # a server that has not seen it since it started or was flushed
            waits = await client.eval(_TAKE, *arguments)
        return waits

    return run


def _interval(rate: Rate) -> float:
    """The microseconds in which one token falls."""
    return _MICROSECONDS / rate.per_s


def _told(rate: Rate, wait: int) -> Taken:
    # Redis answers in whole microseconds; what that leaves out is never a token.
    slack = 0.5 / _interval(rate)
    tokens = rate.capacity - abs(wait) / _interval(rate)
    whole = round(tokens)
    exact = float(whole) if abs(tokens - whole) <= slack else tokens
    return told(rate, max(0.0, exact), is_allowed=wait >= 0)
