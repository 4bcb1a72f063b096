"""Token buckets: how often something may be done, per key."""

from collections import OrderedDict
from typing import Final, Protocol

import msgspec

from internal.errors import SlowDown
from internal.utils.clock import Clock

# Past this the buckets that were left alone longest are forgotten, so memory stays bounded. A
# forgotten bucket is a full one: whoever holds this many keys gets no more than fresh keys would.
_MOST_BUCKETS: Final = 100_000


class Rate(msgspec.Struct, frozen=True):
    """A bucket of `capacity` tokens, into which `per_s` fall each second."""

    capacity: float
    per_s: float
    # Whether it keeps secrets from being guessed. While the buckets that nodes share can't be
    # asked such a limit refuses, lest each node grant it anew; others go on with the node's own.
    guards_secrets: bool = False

    def scaled(self, scale: float) -> "Rate":
        """The rate times `scale`; something is always allowed."""
        return Rate(max(1.0, self.capacity * scale), self.per_s * scale, self.guards_secrets)


class Taken(msgspec.Struct, frozen=True):
    """What a bucket says to one attempt."""

    is_allowed: bool
    limit: int
    remaining: int
    # Seconds until the bucket is full again, and until one more attempt is allowed.
    reset_after: float
    retry_after: float


class Limiter(Protocol):
    """Where buckets are kept: in this process, or shared by all nodes."""

    async def take(self, key: str, rate: Rate) -> Taken:
        """Take one token from the bucket of `key`, if there is one.

        Unavailable when that can't be said and the rate guards secrets.
        """
        ...


class LocalLimiter:
    """Buckets in this process."""

    def __init__(self, clock: Clock, *, scale: float = 1.0, most: int = _MOST_BUCKETS) -> None:
        """`scale` multiplies every rate."""
        self._clock = clock
        self._scale = scale
        self._most = most
        # The tokens at a moment. The key that was used last stands last.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def take(self, key: str, rate: Rate) -> Taken:
        scaled = rate.scaled(self._scale)
        capacity, per_s = scaled.capacity, scaled.per_s
        now = self._clock.monotonic()
        tokens, since = self._levels.pop(key, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * per_s)
        is_allowed = tokens >= 1
        if is_allowed:
            tokens -= 1
        self._levels[key] = (tokens, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return told(scaled, tokens, is_allowed=is_allowed)


def told(rate: Rate, tokens: float, *, is_allowed: bool) -> Taken:
    """What to say to an attempt that left so many tokens in its bucket."""
    return Taken(
        is_allowed=is_allowed,
        limit=int(rate.capacity),
        remaining=int(tokens),
        reset_after=(rate.capacity - tokens) / rate.per_s,
        retry_after=0.0 if tokens >= 1 else (1 - tokens) / rate.per_s,
    )


async def take_or_refuse(limiter: Limiter, key: str, rate: Rate) -> Taken:
    """Take a token; SlowDown when there is none."""
    taken = await limiter.take(key, rate)
    if not taken.is_allowed:
        raise SlowDown(retry_after=taken.retry_after)
    return taken
