"""Processes known by more than their number, so that nobody else's is ever signalled."""

import asyncio
import os
import select
import signal
import subprocess
from pathlib import Path

import msgspec
import psutil

# Seconds since boot are exact to a clock tick; the rest is for systems that round.
SAME_START_S = 1.5
POLL_S = 0.05


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """A number may be given to another process after a while; with its start it is unique."""

    pid: int
    started: float


class Process:
    """A process that is ours to wait for and to signal, as our child or adopted."""

    def __init__(self, pid: int, *, child: subprocess.Popen[bytes] | None = None) -> None:
        """Take hold of a process; ProcessLookupError if there is none of this number."""
        self.pid = pid
        self._child = child
        self._fd = _pidfd(pid)
        try:
            self._known = psutil.Process(pid)
        except psutil.NoSuchProcess as error:
            self.release()
            raise ProcessLookupError(pid) from error

    @property
    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return not poll.poll(0)
        try:
            return bool(self._known.is_running()) and self._known.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Signal this very process; one that has ended is left in peace."""
        if not self.alive:
            return
        try:
            if self._fd is not None:
                # By descriptor, since the number alone could be another's by now.
                signal.pidfd_send_signal(self._fd, number)
            else:
                self._known.send_signal(number)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return

    async def ended(self, *, within: float | None = None) -> bool:
        """Wait for its end; False if it still runs after so many seconds."""
        try:
            async with asyncio.timeout(within):
                while self.alive:
                    await self._end_or_poll()
        except TimeoutError:
            return not self.alive
        return True

    def release(self) -> None:
        """Give back the descriptor; the process itself is left alone."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _end_or_poll(self) -> None:
        if self._fd is None:
            await asyncio.sleep(POLL_S)
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        # A copy, because a loop knows one reader for a descriptor and several may wait here.
        copy = os.dup(self._fd)
        loop.add_reader(copy, _settle, done)
        try:
            await done
        finally:
            loop.remove_reader(copy)
            os.close(copy)


def identify(pid: int) -> ProcessId | None:
    """Look up number and start of a process; None if there is none."""
    try:
        # Against the time of boot, so that setting the clock doesn't change it.
        started = psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.Error:
        return None
    return ProcessId(pid=pid, started=started)


def is_same(one: ProcessId, other: ProcessId) -> bool:
    return one.pid == other.pid and abs(one.started - other.started) < SAME_START_S


def serves(pid: int, folder: Path, *, program: str = "postgres") -> bool:
    """Whether this is a live process of the server that has its data in just this folder.

    Each of its processes stays in the folder, which no other program has a reason to do.
    A process that we may not look at is none of ours: ours run under our account or below root.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or Path(process.exe()).name != program:
            return False
        return folder.samefile(process.cwd())
    except (psutil.Error, OSError):
        return False


def all_serving(folder: Path, *, program: str = "postgres") -> list[Process]:
    """Every process of the server of this folder, workers that outlived their parent too."""
    found = []
    for pid in psutil.pids():
        # Held first and looked at afterwards: what we hold can't be exchanged in between.
        if not serves(pid, folder, program=program):
            continue
        try:
            process = Process(pid)
        except ProcessLookupError:
            continue
        if serves(pid, folder, program=program):
            found.append(process)
        else:
            process.release()
    return found


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _pidfd(pid: int) -> int | None:
    """Open a descriptor for a process; None where the system has no such thing or forbids it."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None
