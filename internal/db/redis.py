"""Redis, which nodes share: commands with a deadline, and a quick no while it is away."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast
from urllib.parse import unquote, urlsplit

import msgspec
import redis.asyncio as aioredis
import structlog
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")
Client: TypeAlias = "aioredis.Redis | aioredis.RedisCluster"
Mode: TypeAlias = Literal["single", "cluster", "sentinel"]

# No answer within this is a failure. Redis answers in well under a millisecond; a request that
# waits longer than this for a rate limit would have waited too long.
_CALL_S: Final = 0.4
_HELD_UP_S: Final = 0.1
_PING_S: Final = 0.5
# To find a cluster or a master again takes more than one question.
_PROBE_S: Final = 2.0
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_CONNECTIONS: Final = 32
# The client of a cluster, when the nodes change, takes connections away from those who are opening
# them, who then find None. That no node answers is no RedisError.
_FAILURES: Final = (
    TimeoutError,
    RedisError,
    RedisClusterException,
    OSError,
    AttributeError,
)
# No retries: whoever calls can do without an answer, and knows better when to ask again.
_TIMES: Final[dict[str, Any]] = {
    # Whoever calls has a deadline. With one here, redis-py sends by asyncio.wait_for, which costs a
    # task for each command, and before Python 3.12 may lose a cancellation.
    "socket_timeout": None,
    "socket_connect_timeout": _CALL_S,
    "retry": Retry(NoBackoff(), 0),
}


class RedisAway(Exception):
    """Redis does not answer. Nothing that was logged depends on it."""


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is. With `sentinel`, the hosts of `url` are sentinels that tell."""

    url: str
    mode: Mode = "single"
    # The name that the sentinels know the master by.
    service: str = "mymaster"


class Redis:
    """The shared Redis.

    While it is away every call fails at once; a ping now and then finds it again. Keys and channels
    begin with the same prefix, so that several services can share one Redis.
    """

    def __init__(
        self, address: RedisAddress, *, prefix: str, count_failure: Callable[[], None]
    ) -> None:
        self.prefix = prefix
        self.is_up = True
        self._address = address
        self._client = _open(address)
        self._count_failure = count_failure
        # Commands to a cluster whose callers may have gone.
        self._left: set[asyncio.Task[Any]] = set()

    async def call(self, command: Callable[[Client], Awaitable[T]]) -> T:
        """Run a command; RedisAway when it fails, or when Redis was away a moment ago."""
        if not self.is_up:
            raise RedisAway
        return await self._call(command)

    def key(self, *parts: object) -> str:
        """A key of ours. A part in braces keeps what belongs together in one slot of a cluster."""
        return ":".join((self.prefix, *map(str, parts)))

    async def watch(self) -> None:
        """Look after it until cancelled: what was away is used again once it answers."""
        while True:
            await asyncio.sleep(_PING_S)
            with suppress(RedisAway):
                if not self.is_up:
                    await self._call(_drop_idle, within_s=_PROBE_S)
                await self._call(
                    lambda client: cast("Awaitable[Any]", client.ping()), within_s=_PROBE_S
                )
                if not self.is_up:
                    self.is_up = True
                    _log.info("redis_back")

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[Any]:
        """A connection for PUBLISH's other end: SUBSCRIBE works on any node of a cluster."""
        client = self._listening_client()
        try:
            pubsub = client.pubsub()
            try:
                yield pubsub
            finally:
                with suppress(RedisError, OSError, asyncio.TimeoutError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # it ships none
        finally:
            if client is not self._client:
                await client.aclose()

    @property
    def is_cluster(self) -> bool:
        """Whether a script or a transaction must keep to the keys of one slot."""
        return self._address.mode == "cluster"

    async def close(self) -> None:
        if self._left:
            await asyncio.wait(self._left, timeout=_PROBE_S)
        for close in _closers(self._client):
            with suppress(RedisError, OSError):
                await close()

    async def _call(
        self, command: Callable[[Client], Awaitable[T]], within_s: float = _CALL_S
    ) -> T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            try:
                return await self._within(within_s, command)
            except TimeoutError:
                if loop.time() - began < within_s + _HELD_UP_S:
                    raise
                # This process was held up: the answer may have been there all the time.
                return await self._within(within_s, command)
        except _FAILURES as fault:
            self._count_failure()
            if self.is_up:
                self.is_up = False
                _log.warning("redis_away", reason=type(fault).__name__)
            raise RedisAway from fault

    async def _within(self, seconds: float, command: Callable[[Client], Awaitable[T]]) -> T:
        async with asyncio.timeout(seconds):
            if self.is_cluster:
                return await self._whole(_run(command, self._client))
            return await command(self._client)

    async def _whole(self, command: Coroutine[Any, Any, T]) -> T:
        """Wait for a command that must not be cut in the middle.

        Cancelled, redis-py's cluster client forgets connections that it has just opened. What is
        left behind ends by its own timeouts.
        """
        task = asyncio.get_running_loop().create_task(command)
        self._left.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever waited has been told already, or has gone.

    def _listening_client(self) -> "aioredis.Redis":
        if not isinstance(self._client, aioredis.RedisCluster):
            return self._client
        host, port = random.choice(hosts_of(self._address.url, _PORT))  # noqa: S311
        return aioredis.Redis(host=host, port=port, **_TIMES, **_credentials(self._address.url))


async def _run(command: Callable[[Client], Awaitable[T]], client: Client) -> T:
    if isinstance(client, aioredis.RedisCluster):
        # What it is told before it knows the slots it sends to any node.
        return await command(await client.initialize())
    return await command(client)


def _open(address: RedisAddress) -> Client:
    if address.mode == "single":
        # A full pool makes callers wait for each other, within their deadline.
        pool = aioredis.BlockingConnectionPool.from_url(
            address.url, max_connections=_CONNECTIONS, timeout=_CALL_S, **_TIMES
        )
        return aioredis.Redis.from_pool(pool)
    settings = {**_TIMES, **_credentials(address.url)}
    if address.mode == "cluster":
        nodes = [ClusterNode(host, port) for host, port in hosts_of(address.url, _PORT)]
        return aioredis.RedisCluster(
            startup_nodes=nodes,
            # A slot that moved is looked up by itself; to begin anew would cut off all others.
            reinitialize_steps=0,
            max_connections=_CONNECTIONS,
            # Its commands are not cut by whoever waits for them.
            **{**settings, "socket_timeout": _CALL_S},
        )
    sentinels: Any = aioredis.Sentinel(  # type: ignore[no-untyped-call]  # it ships none
        hosts_of(address.url, _SENTINEL_PORT), sentinel_kwargs=_TIMES, **settings
    )
    master: aioredis.Redis = sentinels.master_for(address.service, max_connections=_CONNECTIONS)
    return master


async def _drop_idle(client: Client) -> None:
    """Close connections that nobody uses: to a server that died, each would fail once more."""
    if isinstance(client, aioredis.RedisCluster):
        for node in client.get_nodes():
            await node.disconnect_free_connections()
        return
    for one in (client, *_sentinels_of(client)):
        await one.connection_pool.disconnect(inuse_connections=False)


def _sentinels_of(client: "aioredis.Redis") -> "Sequence[aioredis.Redis]":
    pool = client.connection_pool
    return pool.sentinel_manager.sentinels if isinstance(pool, SentinelConnectionPool) else ()


def _closers(client: Client) -> Iterator[Callable[[], Awaitable[Any]]]:
    """What closes all connections of a client. Some it leaves open by itself."""
    yield client.aclose
    if isinstance(client, aioredis.RedisCluster):
        # After a failure it takes itself for one that was never opened.
        yield client.nodes_manager.aclose
        yield partial(client.nodes_manager.aclose, "startup_nodes")
    else:
        for sentinel in _sentinels_of(client):
            yield sentinel.aclose


def hosts_of(url: str, default_port: int) -> list[tuple[str, int]]:
    """The hosts of `redis://user:password@host:port,host:port/0`."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"{parts.scheme}://{host}") for host in hosts]
    return [(host.hostname or "localhost", host.port or default_port) for host in found]


def _credentials(url: str) -> dict[str, Any]:
    """What a URL of several hosts says beside them, by the names of the client's settings."""
    parts = urlsplit(url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    settings: dict[str, Any] = {}
    if user:
        settings["username"] = unquote(user)
    if password:
        settings["password"] = unquote(password)
    if parts.path.strip("/"):
        settings["db"] = int(parts.path.strip("/"))
    if parts.scheme == "rediss":
        settings["ssl"] = True
    return settings
