"""What goes wrong, each by its name: registered once, injected by chance."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import psutil

from internal.db.cluster import open_home, read_record
from internal.db.roles import APP, DATABASE, SUPERUSER
from tests.support.process import ServerProcess

_DISK: Final = "600M"
_FAKETIME: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Target:
    """What faults are injected into: the nodes, and the PostgreSQL of the first of them."""

    def __init__(self, nodes: Sequence[ServerProcess], chance: random.Random) -> None:
        self.nodes = nodes
        self.chance = chance

    @property
    def node(self) -> ServerProcess:
        return self.chance.choice(self.nodes)

    @property
    def database(self) -> ServerProcess:
        """The node that keeps the embedded PostgreSQL."""
        return self.nodes[0]

    @property
    def superuser_dsn(self) -> str:
        cluster = open_home(self.database.data_dir)
        record = read_record(cluster)
        assert record is not None
        password, host = cluster.password.read_text().strip(), quote(record.socket_dir, safe="")
        return f"postgresql://{SUPERUSER}:{password}@/{DATABASE}?host={host}&port=5432"

    def postgres(self) -> list[psutil.Process]:
        """All processes of PostgreSQL, the postmaster first."""
        pid = self.database.postmaster()
        assert pid is not None, "there is no embedded PostgreSQL"
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        return []


Inject = Callable[[Target], Awaitable[None]]


class Fault(msgspec.Struct, frozen=True):
    """How to inject it; it is over when that returns. `obstacle` says why it can't be done here."""

    name: str
    inject: Inject
    obstacle: Callable[[Target], str | None]


FAULTS: Final[dict[str, Fault]] = {}


def _needs_embedded(target: Target) -> str | None:
    return None if target.database.postmaster() else "the PostgreSQL is not ours"


def _needs_faketime(target: Target) -> str | None:
    return None if "LD_PRELOAD" in target.database.environ else "libfaketime is not installed"


def _needs_own_disk(target: Target) -> str | None:
    is_own = target.database.data_dir.parent.is_mount()
    return None if is_own else "a small file system can't be mounted here"


def _nothing(_target: Target) -> str | None:
    return None


def _fault(obstacle: Callable[[Target], str | None] = _nothing) -> Callable[[Inject], Inject]:
    def register(inject: Inject) -> Inject:
        name = inject.__name__
        FAULTS[name] = Fault(name, inject, obstacle)
        return inject

    return register


@_fault()
async def kill_server(target: Target) -> None:
    """`kill -9` of a node."""
    node = target.node
    await node.kill()
    await node.start()


@_fault(_needs_embedded)
async def kill_postgres(target: Target) -> None:
    """`kill -9` of all of PostgreSQL. The node that keeps it starts it again."""
    target.database.kill_postgres()


@_fault(_needs_embedded)
async def kill_both(target: Target) -> None:
    """`kill -9` of the node and of PostgreSQL: a machine that lost its power, but for the disk."""
    target.database.signal(signal.SIGKILL)
    target.database.kill_postgres()
    await target.database.ended()
    await target.database.start()


@_fault(_needs_embedded)
async def kill_backend(target: Target) -> None:
    """`kill -9` of one connection's process, whereupon PostgreSQL ends all and recovers."""
    backends = [p for p in target.postgres() if f" {APP} " in " ".join(_command(p))]
    if backends:
        with suppress(psutil.NoSuchProcess):
            target.chance.choice(backends).kill()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


@_fault()
async def pause_server(target: Target) -> None:
    """A node stands still for a while."""
    node = target.node
    node.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(target.chance.uniform(1, 3))
    finally:
        node.signal(signal.SIGCONT)


@_fault(_needs_embedded)
async def pause_postgres(target: Target) -> None:
    """PostgreSQL stands still for a while."""
    stopped = target.postgres()
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        await asyncio.sleep(target.chance.uniform(1, 3))
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@_fault()
async def restart(target: Target) -> None:
    """A node is stopped as at a deploy, and started again."""
    node = target.node
    await node.stop()
    await node.start()


@_fault(_needs_faketime)
async def jump_clock(target: Target) -> None:
    """The clock of the nodes goes wrong by up to a minute, and after a while is right again."""
    _set_clock(target, target.chance.choice((-1, 1)) * target.chance.uniform(5, 60))
    try:
        await asyncio.sleep(target.chance.uniform(2, 4))
    finally:
        _set_clock(target, 0)


def _set_clock(target: Target, off_s: float) -> None:
    path = Path(target.database.environ["FAKETIME_TIMESTAMP_FILE"])
    path.write_text(f"{off_s:+.1f}\n")


@_fault(_needs_own_disk)
async def fill_disk(target: Target) -> None:
    """Nothing can be written any more, until somebody makes room."""
    balloon = target.database.data_dir.parent / "balloon"
    free = shutil.disk_usage(balloon.parent).free
    try:
        with balloon.open("wb") as file:
            # The last block can't be had by whoever asks for too much at once.
            for size in (free, 1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
        await asyncio.sleep(target.chance.uniform(2, 4))
    finally:
        balloon.unlink(missing_ok=True)


def faketime(folder: Path) -> dict[str, str]:
    """The environment of a process whose clock can be changed; empty where that can't be done."""
    if not _FAKETIME:
        return {}
    path = folder / "clock"
    path.write_text("+0.0\n")
    return {
        "LD_PRELOAD": str(_FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def own_disk(folder: Path) -> Iterator[Path]:
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
