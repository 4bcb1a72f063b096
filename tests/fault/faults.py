"""What goes wrong, each by its name: registered once, injected by chance."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
import psutil

from internal.db.roles import APP, DATABASE, OWNER
from tests.fault.deployment import Deployment, Node
from tests.fault.slow_disk import DELAY_S
from tests.fault.wire import Wire

_SLOW: Final = "parley_gateway_slow_readers_total"
_SOCKETS: Final = "parley_gateway_sockets"
_READY_S: Final = 20.0
_LOOK_S: Final = 0.05
_HELD_S: Final = 7.0


class Hit(msgspec.Struct, frozen=True):
    """What a fault is known to have hit: so many of what."""

    count: int
    what: str
    # When each part of it began and was over, for a fault that goes from node to node.
    steps: list[tuple[float, float]] = []


Inject = Callable[[Deployment], Awaitable[Hit]]
Obstacle = Callable[[Deployment], str | None]


class Fault(msgspec.Struct, frozen=True):
    """How to inject it; it is over when that returns. `obstacle` says why it can't be done here.

    One that `leaves_doubt` must have left operations without a certain end. The others, which by
    their nature need not, must have hit something that can be counted.
    """

    name: str
    inject: Inject
    obstacle: Obstacle
    leaves_doubt: bool


FAULTS: Final[dict[str, Fault]] = {}
# What is meant to be here and can't be yet.
NOT_YET: Final = {"fill_media": "there are no uploads yet"}


def _nothing(_target: Deployment) -> str | None:
    return None


def _needs_postgres(target: Deployment) -> str | None:
    return None if target.postgres.processes() else "the PostgreSQL is not ours"


def _needs_several(target: Deployment) -> str | None:
    return None if len(target.nodes) > 1 else "there is one node"


def _needs_database_line(target: Deployment) -> str | None:
    return None if target.nodes[0].to_database else "the node keeps PostgreSQL within"


def _needs_redis(target: Deployment) -> str | None:
    return None if target.redis is not None else "there is no redis-server, or a single node"


def _needs_clock(target: Deployment) -> str | None:
    return None if target.nodes[0].clock else "libfaketime is not installed"


def _needs_own_disk(target: Deployment) -> str | None:
    home = target.postgres.home
    is_own = home is not None and home.parent.is_mount()
    return None if is_own else "a small file system can't be mounted here"


def _needs_slow_disk(target: Deployment) -> str | None:
    is_there = target.slow_disk is not None and target.nodes[0].to_database is not None
    return None if is_there else "there is no C compiler, or the node keeps PostgreSQL within"


def _fault(
    obstacle: Obstacle = _nothing, *, leaves_doubt: bool = True
) -> Callable[[Inject], Inject]:
    def register(inject: Inject) -> Inject:
        name = inject.__name__
        FAULTS[name] = Fault(name, inject, obstacle, leaves_doubt)
        return inject

    return register


# Processes.


@_fault()
async def kill_node(target: Deployment) -> Hit:
    """`kill -9` of a node."""
    node = target.node
    await node.kill()
    await node.start()
    return Hit(1, "processes killed")


@_fault(_needs_several)
async def kill_all_nodes(target: Deployment) -> Hit:
    """`kill -9` of all nodes at once."""
    await asyncio.gather(*(node.kill() for node in target.nodes))
    await asyncio.gather(*(node.start() for node in target.nodes))
    return Hit(len(target.nodes), "processes killed")


@_fault(_needs_postgres)
async def kill_postgres(target: Deployment) -> Hit:
    """`kill -9` of all of PostgreSQL."""
    killed = len(target.postgres.processes())
    target.postgres.kill()
    return Hit(killed, "processes killed")


@_fault(_needs_postgres)
async def kill_everything(target: Deployment) -> Hit:
    """`kill -9` of all nodes and of PostgreSQL: a power cut, but for what the disk had cached."""
    killed = len(target.postgres.processes()) + len(target.nodes)
    for node in target.nodes:
        node.process.signal(signal.SIGKILL)
    target.postgres.kill()
    await asyncio.gather(*(node.kill() for node in target.nodes))
    await asyncio.gather(*(node.start() for node in target.nodes))
    return Hit(killed, "processes killed")


@_fault(_needs_postgres)
async def kill_backends(target: Deployment) -> Hit:
    """`kill -9` of some connections' processes, whereupon PostgreSQL ends all and recovers."""
    backends = [p for p in target.postgres.processes() if _is_backend(p)]
    chosen = target.chance.sample(backends, min(len(backends), target.chance.randint(1, 3)))
    for process in chosen:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return Hit(len(chosen), "processes killed")


def _is_backend(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        title = " ".join(process.cmdline())
        return any(f" {role} {DATABASE} " in title for role in (APP, OWNER))
    return False


@_fault()
async def pause_node(target: Deployment) -> Hit:
    """A node stands still for a while (SIGSTOP)."""
    node = target.node
    node.process.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(target.lasting(3, 30))
    finally:
        node.process.signal(signal.SIGCONT)
    return Hit(1, "processes stopped")


@_fault(_needs_postgres)
async def pause_postgres(target: Deployment) -> Hit:
    """All of PostgreSQL stands still for a while (SIGSTOP)."""
    stopped = target.postgres.processes()
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        await asyncio.sleep(target.lasting(3, 10))
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
    return Hit(len(stopped), "processes stopped")


@_fault(leaves_doubt=False)
async def rolling_restart(target: Deployment) -> Hit:
    """All nodes are restarted, one after the other, as at a deploy, behind a balancer."""
    moved, steps = 0.0, []
    for node in target.nodes:
        began = time.monotonic()
        assert target.http is not None
        moved += (await node.measure(target.http, _SOCKETS))[0]
        stopping = asyncio.create_task(node.stop())
        await _not_ready(target, node, stopping)
        node.is_offered = False
        await stopping
        await node.start()
        await _ready(target, node)
        node.is_offered = True
        steps.append((began, time.monotonic()))
    return Hit(int(moved), "sockets moved", steps)


async def _not_ready(target: Deployment, node: Node, stopping: "asyncio.Task[None]") -> None:
    """What a balancer does: it asks now and then, and believes a refusal."""
    while not stopping.done() and await _is_ready(target, node):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)


async def _ready(target: Deployment, node: Node) -> None:
    async with asyncio.timeout(_READY_S):
        while not await _is_ready(target, node):  # noqa: ASYNC110  # Nothing else tells.
            await asyncio.sleep(_LOOK_S)


async def _is_ready(target: Deployment, node: Node) -> bool:
    assert target.http is not None
    with suppress(OSError, TimeoutError):
        async with target.http.get(f"{node.process.url}/ready") as answer:
            return answer.status == 200
    return False


# PostgreSQL from within.


@_fault(_needs_postgres)
async def hold_locks(target: Deployment) -> Hit:
    """Somebody's open transaction locks guilds and channels, until PostgreSQL has had enough."""
    conn = await asyncpg.connect(target.postgres.dsn, timeout=5)
    try:
        timeout = f"{_HELD_S:.0f}s"
        await conn.execute(f"SET idle_in_transaction_session_timeout = '{timeout}'")
        transaction = conn.transaction()
        await transaction.start()
        guilds = await conn.fetch("SELECT id FROM guilds ORDER BY id LIMIT 2")
        for guild in guilds:
            await conn.execute("SELECT pg_advisory_xact_lock($1)", guild["id"])
        channels = await conn.fetch(
            "SELECT id FROM channels WHERE guild_id IS NOT NULL ORDER BY id LIMIT 4 FOR UPDATE"
        )
        ended = asyncio.Event()
        conn.add_termination_listener(lambda _conn: ended.set())
        async with asyncio.timeout(2 * _HELD_S):
            await ended.wait()
        return Hit(len(guilds) + len(channels), "locks held")
    finally:
        conn.terminate()


@_fault(_needs_own_disk)
async def fill_disk(target: Deployment) -> Hit:
    """PostgreSQL can write nothing any more, until somebody makes room."""
    assert target.postgres.home is not None
    balloon = target.postgres.home.parent / "balloon"
    free = shutil.disk_usage(balloon.parent).free
    try:
        _inflate(balloon, free)
        await asyncio.sleep(target.lasting(3, 6))
    finally:
        balloon.unlink(missing_ok=True)
    return Hit(free >> 20, "MiB taken")


def _inflate(balloon: Path, free: int) -> None:
    with balloon.open("wb") as file:
        # The last block can't be had by whoever asks for too much at once.
        for size in (free, 1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)


@_fault(_needs_slow_disk, leaves_doubt=False)
async def slow_fsync(target: Deployment) -> Hit:
    """Each flush of PostgreSQL's takes 2 ms more."""
    assert target.slow_disk is not None
    before = await _flushes(target)
    target.slow_disk.slow()
    try:
        await asyncio.sleep(target.lasting(5, 15))
    finally:
        target.slow_disk.quick()
    after = await _flushes(target)
    count, took_ms = after[0] - before[0], after[1] - before[1]
    is_slow = count and took_ms / count >= DELAY_S * 1000
    return Hit(count if is_slow else 0, "slow flushes")


async def _flushes(target: Deployment) -> tuple[int, float]:
    """How often the write-ahead log was flushed, and the milliseconds that took."""
    conn = await asyncpg.connect(target.postgres.dsn, timeout=5)
    try:
        row = await conn.fetchrow(
            """
            SELECT coalesce(sum(fsyncs), 0)::bigint AS count,
                   coalesce(sum(fsync_time), 0)::float8 AS took
              FROM pg_stat_io
             WHERE object = 'wal'
            """
        )
        assert row is not None
        return row["count"], row["took"]
    finally:
        await conn.close()


# Redis.


@_fault(_needs_redis, leaves_doubt=False)
async def kill_redis(target: Deployment) -> Hit:
    """`kill -9` of Redis, which is started again, empty, after a moment."""
    return await _without_redis(target, 1.5)


@_fault(_needs_redis, leaves_doubt=False)
async def remove_redis(target: Deployment) -> Hit:
    """Redis is gone for longer."""
    return await _without_redis(target, target.lasting(5, 20))


async def _without_redis(target: Deployment, seconds: float) -> Hit:
    assert target.redis is not None
    lines = _redis_lines(target)
    using = sum(len(line.pairs) for line in lines)
    await target.redis.kill()
    try:
        await asyncio.sleep(seconds)
    finally:
        await target.redis.start()
    return Hit(using, "connections lost")


@_fault(_needs_redis, leaves_doubt=False)
async def flush_redis(target: Deployment) -> Hit:
    """Everything in Redis is deleted."""
    assert target.redis is not None
    count = int(await target.redis.command("DBSIZE"))
    await target.redis.flush()
    return Hit(count, "keys deleted")


@_fault(_needs_redis, leaves_doubt=False)
async def pause_redis(target: Deployment) -> Hit:
    """Redis stands still for a while (SIGSTOP)."""
    assert target.redis is not None
    lines = _redis_lines(target)
    before = sum(line.sent for line in lines)
    target.redis.pause()
    try:
        await asyncio.sleep(target.lasting(3, 10))
    finally:
        target.redis.resume()
    return Hit(sum(line.sent for line in lines) - before, "bytes unanswered")


def _redis_lines(target: Deployment) -> list[Wire]:
    return [node.to_redis for node in target.nodes if node.to_redis is not None]


# The network. Bytes vanish, or connections are refused: in turn.


@_fault(_needs_database_line)
async def partition_database(target: Deployment) -> Hit:
    """One node can't reach PostgreSQL: its bytes vanish, and come no more."""
    line = target.node.to_database
    assert line is not None
    async with _black(line):
        await asyncio.sleep(target.lasting(5, 15))
    return Hit(line.swallowed, "bytes swallowed")


@_fault(_needs_database_line)
async def cut_database(target: Deployment) -> Hit:
    """One node can't reach PostgreSQL: its connections are cut, and new ones refused."""
    line = target.node.to_database
    assert line is not None
    hit = line.shut()
    await asyncio.sleep(target.lasting(3, 10))
    await line.open()
    return Hit(hit, "connections cut")


@_fault(_needs_redis, leaves_doubt=False)
async def partition_redis(target: Deployment) -> Hit:
    """One node can't reach Redis: its bytes vanish, and come no more."""
    line = target.chance.choice(_redis_lines(target))
    async with _black(line):
        await asyncio.sleep(target.lasting(4, 15))
    return Hit(line.swallowed, "bytes swallowed")


@_fault()
async def partition_clients(target: Deployment) -> Hit:
    """One node can't reach its clients: bytes vanish, and come no more."""
    door = target.node.door
    async with _black(door):
        await asyncio.sleep(target.lasting(5, 15))
    return Hit(door.swallowed, "bytes swallowed")


@asynccontextmanager
async def _black(line: Wire) -> AsyncIterator[None]:
    line.swallowed = 0
    line.blacken()
    try:
        yield
    finally:
        await line.open()


# Readers.


@_fault(leaves_doubt=False)
async def slow_reader(target: Deployment) -> Hit:
    """Some readers take two kilobytes a second."""
    return await _at_pace(target, 2048)


@_fault(leaves_doubt=False)
async def silent_reader(target: Deployment) -> Hit:
    """Some readers take nothing at all, and stay connected."""
    return await _at_pace(target, 0)


async def _at_pace(target: Deployment, bytes_per_s: int) -> Hit:
    assert target.line is not None
    (before,) = await target.count(_SLOW)
    target.line.slow_down(bytes_per_s)
    try:
        await asyncio.sleep(target.lasting(6, 15))
        (after,) = await target.count(_SLOW)
    finally:
        target.line.speed_up()
    return Hit(int(after - before), "readers left behind")


# Time.


@_fault(_needs_clock, leaves_doubt=False)
async def jump_clock(target: Deployment) -> Hit:
    """The clock of a node goes wrong by up to a minute, and after a while is right again."""
    node = target.node
    assert node.clock is not None
    off_s = target.chance.choice((-1, 1)) * target.chance.uniform(5, 60)
    node.clock.write_text(f"{off_s:+.1f}\n")
    try:
        await asyncio.sleep(target.lasting(3, 6))
        told = await _told_time(target, node) - time.time()
    finally:
        node.clock.write_text("+0.0\n")
    return Hit(int(abs(told) > abs(off_s) / 2), "clocks wrong")


async def _told_time(target: Deployment, node: Node) -> float:
    """The time of day by a node's clock."""
    assert target.http is not None
    async with target.http.get(f"{node.process.url}/live") as answer:
        return parsedate_to_datetime(answer.headers["Date"]).timestamp()
