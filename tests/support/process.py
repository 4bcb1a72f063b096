"""The real server as a process: started, stopped, killed and started again."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
STOP_S = 30.0
_OWN_PORTS = range(9_500, 12_000)


class Served(msgspec.Struct):
    """What the server writes to DATA_DIR/server.json once it serves."""

    pid: int
    host: str
    port: int
    metrics_port: int


class DidNotServe(Exception):
    """The server ended, or took too long, before it served. Its last lines tell why."""


class ServerProcess:
    """`python cmd/main.py` with an environment of its own. The port stays over restarts."""

    def __init__(self, data_dir: Path, environ: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.lines: list[str] = []
        # What Python runs; another program stands in for the server by ending up in it.
        self.program: tuple[str, ...] = (str(ROOT / "cmd" / "main.py"),)
        # Nothing of the caller's own settings, lest a test depend on where it runs.
        kept = (
            "PATH",
            "HOME",
            "LANG",
            "TMPDIR",
            "COVERAGE_PROCESS_START",
            "COVERAGE_PROCESS_CONFIG",
        )
        self.environ = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DATA_DIR": str(data_dir),
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "METRICS_PORT": "0",
            "LOG_FORMAT": "json",
            "BCRYPT_COST": "4",
            "RATE_LIMIT_SCALE": "1000",
            **environ,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._served: Served | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def has_ended(self) -> bool:
        """Whether it is there no more, whoever ended it."""
        return self._process is None or self._process.returncode is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port()}"

    @property
    def metrics_url(self) -> str:
        assert self._served is not None
        return f"http://127.0.0.1:{self._served.metrics_port}/metrics"

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            await self.stop()

    async def start(self) -> None:
        """Start it and wait until it serves."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self.program,
            cwd=self.data_dir.parent,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read(self._process))
        try:
            async with asyncio.timeout(START_S):
                await self._serving(self._process)
        except BaseException:
            self.signal(signal.SIGKILL)
            await self.ended()
            raise

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and wait for it; the exit code. It is killed if it does not."""
        self.signal(number)
        try:
            async with asyncio.timeout(STOP_S):
                return await self.ended()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.ended()
            raise AssertionError(f"did not stop within {STOP_S} s:\n{self.tail()}") from None

    async def kill(self) -> None:
        """`kill -9`: it has no time for a last word."""
        self.signal(signal.SIGKILL)
        await self.ended()

    def signal(self, number: signal.Signals) -> None:
        process = self._running()
        if process.returncode is None:
            process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end without asking for it; the exit code."""
        process = self._running()
        code = await process.wait()
        if self._reader is not None:
            # An embedded PostgreSQL that outlives it holds no end of this pipe.
            await self._reader
        self._process = self._reader = None
        return code

    def tail(self, count: int = 40) -> str:
        return "\n".join(self.lines[-count:])

    def postmaster(self) -> int | None:
        """The process number of its embedded PostgreSQL, if that is there."""
        try:
            text = (self.data_dir / "postgres" / "postmaster.pid").read_text()
        except FileNotFoundError:
            return None
        return int(text.splitlines()[0])

    def kill_postgres(self) -> None:
        """`kill -9` for its embedded PostgreSQL and all that belongs to it."""
        pid = self.postmaster()
        assert pid is not None, "there is no embedded PostgreSQL"
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(pid)
            for process in (postmaster, *postmaster.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    async def says(self, text: str, *, within: float = 15.0) -> str:
        """Wait until it has printed a line with this text; the line."""
        async with asyncio.timeout(within):
            while True:
                self._news.clear()
                found = next((line for line in self.lines if text in line), None)
                if found is not None:
                    return found
                await self._news.wait()

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the server is not running"
        return self._process

    def _port(self) -> int:
        return self._served.port if self._served is not None else int(self.environ["PORT"])

    async def _serving(self, process: asyncio.subprocess.Process) -> None:
        """Each line that it prints is an occasion to look; what it prints last comes after."""
        while True:
            self._news.clear()
            served = self._look()
            if served is not None and served.pid == process.pid:
                self._served = served
                return
            if process.returncode is not None or (self._reader is not None and self._reader.done()):
                raise DidNotServe(self.tail())
            await self._news.wait()

    def _look(self) -> Served | None:
        try:
            content = (self.data_dir / "server.json").read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(content, type=Served)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
            self._news.set()
        self._news.set()


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than as an entry that its parent has not read."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that nobody listens on at the moment.

    Below those that the system gives to whoever asks for any: nobody else gets it by chance before
    it is used.
    """
    while True:
        port = secrets.choice(_OWN_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
