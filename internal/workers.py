"""The worker processes below a supervisor: started, restarted, measured, and stopped."""

import asyncio
import itertools
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from prometheus_client import Counter, Gauge

from internal.config.config import Config, environ_of
from internal.monitoring.sums import ACCEPT, Sums
from internal.serve import CannotServe, Serving, Worker
from internal.utils.background import Background
from internal.utils.json import UnreadableJson, decoder, encode

# By this variable a process learns that it is one of several.
WORKER: Final = "PARLEY_WORKER"

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
# After so long a life, a death is a new misfortune and no part of a series.
_STABLE_S: Final = 10.0
# Who could not begin to serve so many times in a row, while not all did yet, never will.
_ATTEMPTS: Final = 5
# What a worker may take to stop, beside what it was given to drain.
_STOP_S: Final = 15.0
_SCRAPE_S: Final = 2.0
# How often each is asked whether it is alive, and how long an answer may take.
_LOOK_S: Final = 3.0
# So many questions in a row without an answer are a process that hangs: 12 s. The answer needs the
# worker's loop alone, so that neither load nor a silent database comes near; and a machine that
# stood still for long is one question, however long it was.
_MISSES: Final = 4
# Who does not serve yet has a minute.
_MISSES_AT_START: Final = 20

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_read_worker = decoder(Worker)
_read_serving = decoder(Serving)


def read_worker(text: str | None) -> Worker | None:
    """What the supervisor says in WORKER; None for a process that has none above it."""
    try:
        return _read_worker(text) if text else None
    except UnreadableJson:
        raise CannotServe(f"{WORKER} is for the workers that a server starts: unset it.") from None


@dataclass(slots=True)
class _Running:
    """A worker process. Its key is given once: a number comes again, a pid may."""

    key: int
    number: int
    process: Process
    socket: Path
    serves: bool = False
    # Questions in a row that it has not answered.
    misses: int = 0
    # One question at a time, so that no older page replaces a newer.
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def hangs(self) -> bool:
        return self.misses >= (_MISSES if self.serves else _MISSES_AT_START)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()


class Workers:
    """WORKERS processes of `program`, with the settings of this one, that serve on one port."""

    def __init__(
        self, config: Config, program: Sequence[str], environ: Mapping[str, str], folder: Path
    ) -> None:
        # All have begun to serve.
        self.serving = asyncio.Event()
        # One never will.
        self.failed = asyncio.Event()
        self.setup_secret: str | None = None
        self.background = Background()
        self._program = program
        # All settings, so that a .env that has changed meanwhile is not half in effect.
        self._environ = {**environ, **environ_of(config)}
        self._folder = folder
        self._numbers = range(1, config.workers + 1)
        self._awaited = set(self._numbers)
        self._keys = itertools.count()
        self._running: dict[int, _Running] = {}
        self._patience_s = _STOP_S + sum(
            span.total_seconds()
            for span in (config.drain_delay, config.drain_window, config.shutdown_timeout)
        )
        self._sums = Sums()
        self._alive = Gauge(
            "parley_workers", "Worker processes that serve and answer.", registry=None
        )
        self._restarts = Counter(
            "parley_worker_restarts", "Workers started in place of one that died.", registry=None
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have them run for the length of a block; when it is left they have drained and ended."""
        for number in self._numbers:
            self.background.start(f"worker-{number}", self._keep(number))
        try:
            yield
        finally:
            await self.background.stop()
            await asyncio.gather(*map(self._end, list(self._running.values())))

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The page of metrics for all workers, in a format that is accepted, and its type."""
        serving = [worker for worker in self._running.values() if worker.serves]
        answers = await asyncio.gather(*(self._ask(one, _SCRAPE_S) for one in serving))
        self._alive.set(sum(answers))
        return self._sums.render(accept, (self._alive, self._restarts))

    # One worker after the other.

    async def _keep(self, number: int) -> None:
        """Have a worker of this number, whatever happens to it."""
        pause, failures = 0.0, 0
        while True:
            begun = time.monotonic()
            has_served = await self._outlive(number)
            if time.monotonic() - begun > _STABLE_S:
                pause = 0.0
            failures = 0 if has_served else failures + 1
            if failures == _ATTEMPTS and not self.serving.is_set():
                self.failed.set()
            await asyncio.sleep(pause)
            pause = min(max(pause * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._restarts.inc()

    async def _outlive(self, number: int) -> bool:
        """Start a worker and wait for its end; whether it served."""
        try:
            worker = await self._start(number)
        except OSError as fault:
            # The machine may have no room for a process, and some in a while.
            _log.error("worker_not_started", worker=number, reason=str(fault))
            return False
        code = await self._attend(worker)
        self._forget(worker)
        _log.error("worker_died", worker=number, pid=worker.process.pid, code=code)
        return worker.serves

    async def _start(self, number: int) -> _Running:
        key = next(self._keys)
        socket = self._folder / f"{number}-{key}.sock"
        told = Worker(number=number, metrics_socket=str(socket))
        spawning = asyncio.ensure_future(self._spawn(told))
        try:
            process = await asyncio.shield(spawning)
        finally:
            # Also when the wish to stop comes in between: whom we start, we end.
            process = await spawning
            worker = self._running[number] = _Running(key, number, process, socket)
            self._sums.enter(key)
        return worker

    async def _spawn(self, told: Worker) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._program,
            # Its end tells the worker that we are gone, whichever way we went.
            stdin=PIPE,
            stdout=PIPE,
            env={**self._environ, WORKER: encode(told).decode()},
            # So that Ctrl-C in our terminal reaches us alone, and the order of stopping is ours.
            start_new_session=True,
        )

    async def _attend(self, worker: _Running) -> int:
        """Hear that it serves, and wait for its end."""
        assert worker.process.stdout is not None  # noqa: S101  # A pipe, as asked for above.
        async with self._watched(worker):
            async for line in worker.process.stdout:
                self._hear(worker, line)
            return await worker.process.wait()

    @asynccontextmanager
    async def _watched(self, worker: _Running) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch(worker))
            yield
            watching.cancel()

    async def _watch(self, worker: _Running) -> None:
        """Keep its last page, lest its death take much along; end it by force when it hangs."""
        while not worker.hangs:
            answered, _ = await asyncio.gather(self._ask(worker, _LOOK_S), asyncio.sleep(_LOOK_S))
            worker.misses = 0 if answered else worker.misses + 1
        _log.error("worker_hangs", worker=worker.number, pid=worker.process.pid)
        worker.kill()

    def _forget(self, worker: _Running) -> None:
        self._sums.leave(worker.key)
        worker.socket.unlink(missing_ok=True)
        del self._running[worker.number]

    def _hear(self, worker: _Running, line: bytes) -> None:
        with suppress(UnreadableJson):
            self.setup_secret = _read_serving(line).setup_secret
            worker.serves, worker.misses = True, 0
            if worker.number not in self._awaited:
                _log.info("worker_restarted", worker=worker.number, pid=worker.process.pid)
            self._awaited.discard(worker.number)
            if not self._awaited:
                self.serving.set()

    async def _end(self, worker: _Running) -> None:
        """Let it drain, and end it by force when it takes longer than it may or hangs."""
        with suppress(ProcessLookupError):
            worker.process.terminate()
        try:
            async with asyncio.timeout(self._patience_s), self._watched(worker):
                await worker.process.wait()
        except TimeoutError:
            _log.error("worker_slow_to_stop", worker=worker.number, pid=worker.process.pid)
            worker.kill()
            await worker.process.wait()
        self._forget(worker)

    # What they have counted.

    async def _ask(self, worker: _Running, patience_s: float) -> bool:
        """Read a worker's page; whether it answered. One that does not counts with its last."""
        try:
            async with (
                asyncio.timeout(patience_s),
                worker.asking,
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(worker.socket))) as http,
                http.get(
                    "http://worker/metrics", headers={"Accept": ACCEPT}, raise_for_status=True
                ) as answer,
            ):
                self._sums.update(worker.key, await answer.text())
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            if worker.serves:
                _log.warning("worker_unmeasured", worker=worker.number, reason=type(fault).__name__)
            return False
        return True
