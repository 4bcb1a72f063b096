"""What faults are injected into: the nodes, their PostgreSQL, their Redis, the lines between."""

import asyncio
import os
import random
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import msgspec
import psutil

from internal.db.cluster import SOCKET_NAME, find_binaries, open_home, read_record
from internal.db.embedded import EmbeddedPostgres, embedded_postgres
from internal.db.roles import DATABASE, SUPERUSER
from tests.fault.slow_disk import SlowDisk
from tests.fault.slow_disk import build as build_slow_disk
from tests.fault.wire import Address, Wire
from tests.support.process import ROOT, DidNotServe, ServerProcess
from tests.support.redis import RedisServer, redis_binary

if TYPE_CHECKING:
    from tests.fault.flaky import FlakyLine

LAUNCHER: Final = ROOT / "tests" / "fault" / "sabotage" / "launch.py"
_DISK: Final = "600M"
_FAKETIME: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_SETTINGS: Final = {
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "512MB",
    # So that slow flushes can be told from quick ones.
    "track_wal_io_timing": "on",
}
_METRICS_S: Final = 2.0
_STARTS: Final = 8
_SUPERVISOR_S: Final = 0.5


class Postgres(Protocol):
    """Where the nodes keep everything."""

    @property
    def dsn(self) -> str:
        """For whoever judges, past all lines."""
        ...

    @property
    def home(self) -> Path | None:
        """The folder that its data lie below."""
        ...

    def processes(self) -> list[psutil.Process]:
        """All of it, the postmaster first; none when it is not ours."""
        ...

    def kill(self) -> None:
        """`kill -9` for all of it. It is started again at once."""
        ...


class GivenPostgres:
    """Somebody else's, which no fault may touch."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.home: Path | None = None

    def processes(self) -> list[psutil.Process]:
        return []

    def kill(self) -> None:
        raise AssertionError("the PostgreSQL is not ours")


class NodesPostgres:
    """The embedded one of the only node, which starts it again itself."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    @property
    def dsn(self) -> str:
        cluster = open_home(self._process.data_dir)
        record = read_record(cluster)
        assert record is not None
        password, host = cluster.password.read_text().strip(), quote(record.socket_dir, safe="")
        return f"postgresql://{SUPERUSER}:{password}@/{DATABASE}?host={host}&port=5432"

    @property
    def home(self) -> Path | None:
        return self._process.data_dir

    def processes(self) -> list[psutil.Process]:
        pid = self._process.postmaster()
        return [] if pid is None else _family(pid)

    def kill(self) -> None:
        self._process.kill_postgres()


class OwnPostgres:
    """One that stands alone, in a session of its own, and outlives every node."""

    def __init__(self, server: EmbeddedPostgres, home: Path) -> None:
        self.home: Path | None = home
        self._server = server
        self._watch = asyncio.create_task(server.watch())

    @property
    def dsn(self) -> str:
        return self._server.dsn(SUPERUSER, DATABASE)

    @property
    def socket(self) -> Path:
        (folder,) = parse_qs(urlsplit(self._server.owner_dsn).query)["host"]
        return Path(folder) / SOCKET_NAME

    def dsn_by(self, wire: Wire) -> str:
        """For a node: as the owner of the schema, over a line of its own."""
        owner = urlsplit(self._server.owner_dsn)
        who = f"{owner.username}:{owner.password}"
        return f"postgresql://{who}@127.0.0.1:{wire.port}/{DATABASE}?sslmode=disable"

    def processes(self) -> list[psutil.Process]:
        return _family(self._server.pid)

    def kill(self) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        # A fresh watcher takes each death for the first, and restarts without a pause.
        self._watch.cancel()
        self._watch = asyncio.create_task(self._server.watch())

    async def close(self) -> None:
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]
    return []


class Node:
    """A server process, and the lines to it and from it."""

    def __init__(self, name: str, process: ServerProcess, clock: Path | None) -> None:
        self.name = name
        self.process = process
        self.clock = clock
        # Clients come by this one.
        self.door = Wire(self._address)
        self.to_database: Wire | None = None
        self.to_redis: Wire | None = None
        # What a balancer would send clients to; it takes out what says that it is going.
        self.is_offered = True
        self.is_meant_to_run = False

    def _address(self) -> Address:
        parts = urlsplit(self.process.url)
        return parts.hostname or "", parts.port or 0

    async def start(self) -> None:
        """As under a supervisor: what does not find its database at once is started again."""
        for attempt in range(_STARTS):
            try:
                await self.process.start()
                break
            except DidNotServe:
                if attempt == _STARTS - 1:
                    raise
                await asyncio.sleep(_SUPERVISOR_S)
        self.is_meant_to_run = True
        await self.door.open()

    async def kill(self) -> None:
        self.is_meant_to_run = False
        await self.process.kill()
        self.door.shut()

    async def stop(self) -> None:
        self.is_meant_to_run = False
        await self.process.stop()
        self.door.shut()

    async def measure(self, http: aiohttp.ClientSession, *names: str) -> list[float]:
        """What it counts under these names, in their order; 0 for what it does not know."""
        timeout = aiohttp.ClientTimeout(total=_METRICS_S)
        async with http.get(self.process.metrics_url, timeout=timeout) as answer:
            lines = (line.rpartition(" ") for line in (await answer.text()).splitlines())
        counts: dict[str, float] = {}
        for name, _, count in lines:
            if not name.startswith("#"):
                bare = name.partition("{")[0]
                counts[bare] = counts.get(bare, 0) + float(count)
        return [counts.get(name, 0) for name in names]


class Deployment:
    """All of it. Faults choose by `chance`, and last longer in a thorough run."""

    def __init__(
        self,
        nodes: Sequence[Node],
        postgres: Postgres,
        redis: RedisServer | None,
        slow_disk: SlowDisk | None,
        chance: random.Random,
        *,
        is_thorough: bool,
    ) -> None:
        self.nodes = nodes
        self.postgres = postgres
        self.redis = redis
        self.slow_disk = slow_disk
        self.chance = chance
        self.is_thorough = is_thorough
        # Set by the campaign: the line that some readers come by, and what asks for metrics.
        self.line: FlakyLine | None = None
        self.http: aiohttp.ClientSession | None = None
        # Nodes that ended though nobody asked them to.
        self.deaths: list[str] = []

    @property
    def node(self) -> Node:
        return self.chance.choice(self.nodes)

    def lasting(self, short_s: float, thorough_s: float) -> float:
        return thorough_s if self.is_thorough else short_s

    def urls(self) -> list[str]:
        """Where clients may go; anywhere when nobody is offered."""
        offered = [node.door.url for node in self.nodes if node.is_offered]
        return offered or [node.door.url for node in self.nodes]

    def name_of(self, url: str) -> str:
        return next((node.name for node in self.nodes if node.door.url == url), "")

    async def count(self, *names: str) -> list[float]:
        """The sums over all nodes of what they count under these names."""
        assert self.http is not None
        each = await asyncio.gather(*(node.measure(self.http, *names) for node in self.nodes))
        return [sum(counts) for counts in zip(*each, strict=True)]

    async def revive(self) -> None:
        """Start again what has ended by itself, and remember that it did."""
        for node in self.nodes:
            if node.is_meant_to_run and node.process.has_ended:
                self.deaths.append(f"{node.name} ended by itself:\n{node.process.tail(12)}")
                await node.process.ended()
                await node.start()

    async def stop(self) -> None:
        """Stop all nodes at once; what does not stop in time is remembered like a death."""
        await asyncio.gather(*(self._stop(node) for node in self.nodes))

    async def _stop(self, node: Node) -> None:
        if node.is_meant_to_run and not node.process.has_ended:
            try:
                await node.stop()
            except AssertionError as fault:
                self.deaths.append(f"{node.name} {fault}")


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks of its deployment."""

    nodes: int
    seed: int
    is_thorough: bool = False
    own_disk: bool = False
    slow_disk: bool = False
    clock: bool = False
    redis: bool = True
    # The name of a bug to be built into the nodes.
    sabotage: str = ""


@asynccontextmanager
async def deploy(needs: Needs, folder: Path, environ: dict[str, str]) -> AsyncIterator[Deployment]:
    """Start it all, for the length of a block. `environ` may bring a DATABASE_URL to use."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(_own_disk(folder)) if needs.own_disk else folder
        slow_disk = build_slow_disk(folder / "slow") if needs.slow_disk else None
        has_own = needs.nodes > 1 and "DATABASE_URL" not in environ
        own = await _own_postgres(disk, slow_disk, stack) if has_own else None
        redis = await _redis(folder, stack) if needs.redis and needs.nodes > 1 else None
        key = secrets.token_hex(32)
        nodes = []
        for number in range(needs.nodes):
            name = f"node{number + 1}"
            clock = _clock(folder / f"{name}.clock") if needs.clock else None
            # With a PostgreSQL of its own within, the node is on the disk that can fill up.
            home = disk if needs.nodes == 1 else folder
            process = ServerProcess(home / name, {**_environ(clock), **environ})
            if needs.sabotage:
                process.program = (str(LAUNCHER), needs.sabotage)
            node = Node(name, process, clock)
            if own is not None:
                node.to_database = await _wire(own, stack)
                process.environ |= {"DATABASE_URL": own.dsn_by(node.to_database)}
                process.environ.setdefault("JWT_SECRET", key)
            if redis is not None:
                node.to_redis = await _line(lambda: ("127.0.0.1", redis.port), stack)
                process.environ["REDIS_URL"] = f"redis://127.0.0.1:{node.to_redis.port}/0"
            nodes.append(node)
        await _start(nodes, stack)
        postgres: Postgres = own or (
            GivenPostgres(environ["DATABASE_URL"])
            if "DATABASE_URL" in environ
            else NodesPostgres(nodes[0].process)
        )
        chance = random.Random(f"{needs.seed} faults")  # noqa: S311  # It can be repeated.
        yield Deployment(nodes, postgres, redis, slow_disk, chance, is_thorough=needs.is_thorough)


def _environ(clock: Path | None) -> dict[str, str]:
    return {
        "LOG_LEVEL": "warning",
        # Small enough that whoever stalls falls behind.
        "SLOW_READER_BYTES": "64KiB",
        "DRAIN_WINDOW": "1s",
        "SHUTDOWN_TIMEOUT": "2",
        # Whoever stalls on a bad line falls far behind; that is no reason to begin anew.
        "REPLAY_LIMIT": "1000000",
        "JWT_EXPIRES_IN": "12h",
        **(_faketime(clock) if clock is not None else {}),
    }


async def _own_postgres(
    disk: Path, slow_disk: SlowDisk | None, stack: AsyncExitStack
) -> OwnPostgres:
    home = disk / "database"
    binaries = slow_disk.binaries if slow_disk is not None else find_binaries()
    server = await stack.enter_async_context(
        embedded_postgres(home, settings=_SETTINGS, binaries=binaries)
    )
    own = OwnPostgres(server, home)
    stack.push_async_callback(own.close)
    return own


async def _redis(folder: Path, stack: AsyncExitStack) -> RedisServer | None:
    if redis_binary() is None:
        return None
    return await stack.enter_async_context(RedisServer(folder / "redis"))


async def _wire(own: OwnPostgres, stack: AsyncExitStack) -> Wire:
    return await _line(lambda: own.socket, stack)


async def _line(leads_to: Callable[[], Address], stack: AsyncExitStack) -> Wire:
    wire = Wire(leads_to)
    await wire.start()
    stack.push_async_callback(wire.stop)
    return wire


async def _start(nodes: Sequence[Node], stack: AsyncExitStack) -> None:
    """All at once, as an orchestrator would; they are stopped likewise."""
    await asyncio.gather(*(node.door.start() for node in nodes))
    for node in nodes:
        stack.push_async_callback(node.door.stop)
        stack.push_async_callback(_kill, node)
    await asyncio.gather(*(node.start() for node in nodes))


async def _kill(node: Node) -> None:
    """What a run that broke off has left; otherwise the nodes have been stopped before."""
    if node.process.has_ended:
        return
    if node.to_database is None:
        # Its PostgreSQL would outlive it.
        await node.stop()
    else:
        await node.kill()


def _clock(path: Path) -> Path | None:
    """A file that says how wrong a node's clock is; None where that can't be done."""
    if not _FAKETIME:
        return None
    path.write_text("+0.0\n")
    return path


def _faketime(clock: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(_FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def _own_disk(folder: Path) -> Iterator[Path]:
    """A folder on a small file system of its own; where that can't be mounted, just a folder."""
    disk, image = folder / "disk", folder / "disk.img"
    disk.mkdir()
    is_mounted = os.geteuid() == 0 and _mount(image, disk)
    disk.chmod(0o755)
    try:
        yield disk
    finally:
        if is_mounted:
            _done("umount", "--lazy", str(disk))
            image.unlink()


def _mount(image: Path, disk: Path) -> bool:
    return (
        _done("truncate", "--size", _DISK, str(image))
        and _done("mkfs.ext4", "-q", "-m", "0", "-F", str(image))
        and _done("mount", "-o", "loop", str(image), str(disk))
    )


def _done(*command: str) -> bool:
    program = shutil.which(command[0])
    if program is None:
        return False
    result = subprocess.run([program, *command[1:]], check=False, capture_output=True)
    return result.returncode == 0
