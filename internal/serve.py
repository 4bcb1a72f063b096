"""One server process from start to stop: the database, the schema, the application, the sockets."""

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Final

import asyncpg
import msgspec
import structlog
from aiohttp import web
from structlog.typing import EventDict, WrappedLogger

from internal.app import MIGRATIONS, App, open_app
from internal.config.config import Config, Secret, bound_to, ensure_secret
from internal.db.cluster import EmbeddedError
from internal.db.embedded import EmbeddedPostgres, embedded_postgres
from internal.db.migrate import MigrationError, migrate
from internal.db.postgres import AWAY, UnsafeDatabase
from internal.errors import Unavailable
from internal.middleware.connections import BRIEF, Limits
from internal.middleware.runner import Runner
from internal.monitoring.logger import configure
from internal.utils.background import Background
from internal.utils.json import encode

_log = structlog.get_logger(__name__)
# Connections that wait to be accepted; a reconnect storm is a burst.
_LISTEN: Final = 4096
# A closed terminal means as much as Ctrl-C.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GREETING_S: Final = 10.0
_RETRY_S: Final = 0.25
_NO_FILE: Final = -1
# Of the embedded database: those of a process beside its pool, those for people with tools.
_OTHER_CONNECTIONS: Final = 5
_SPARE_CONNECTIONS: Final = 20
_USUAL_CONNECTIONS: Final = 100


class CannotServe(Exception):
    """Why the server does not start, as one sentence for whoever started it."""


class Served(msgspec.Struct, frozen=True):
    """What DATA_DIR/server.json says of the running process, or of the one above its workers."""

    pid: int
    host: str
    port: int
    metrics_port: int


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told that serves beside others, below a supervisor.

    The supervisor holds the other end of its standard input as long as it lives. On its standard
    output the process says, once, that it serves.
    """

    number: int
    metrics_socket: str


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself once it serves."""

    setup_secret: str | None


async def serve(config: Config, worker: Worker | None = None) -> None:
    """Serve until SIGINT or SIGTERM; CannotServe when it can't be done."""
    async with until_stopped(config) as (stop, stack):
        if worker is None:
            await _serve_alone(ensure_secret(config), stop, stack)
        else:
            await _serve_beside(config, worker, stop, stack)


@asynccontextmanager
async def until_stopped(config: Config) -> AsyncIterator[tuple["Stop", AsyncExitStack]]:
    """Have the wish to stop, and a stack that is left when the block is or is interrupted."""
    configure(config.log_level, config.log_format)
    _raise_file_limit()
    stop = Stop()
    try:
        async with AsyncExitStack() as stack:
            yield stop, stack
    except asyncio.CancelledError:
        if not stop.asked:
            raise
    except (EmbeddedError, MigrationError, UnsafeDatabase) as fault:
        raise CannotServe(str(fault)) from fault
    finally:
        stop.forget()


def _raise_file_limit() -> None:
    """Take as many file descriptors as we may: each socket is one, and 1,024 is a usual start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems say more than they give
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle_garbage() -> None:
    """Look for garbage less often than Python would by itself.

    Nearly everything here dies by its count of references, while the ring alone holds tens of
    thousands of objects that each full collection would walk.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


class Stop:
    """The wish to stop: it interrupts a start, and ends the serving."""

    def __init__(self) -> None:
        self.asked = False
        # Nobody looks after this process any more: it is to make room for the next one.
        self.orphaned = False
        self.event = asyncio.Event()
        self._main = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._is_serving = False
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self.ask)

    def serving(self) -> None:
        self._is_serving = True

    def ask(self) -> None:
        # Twice is impatience with a slow farewell, not a wish to skip the database's.
        if self.asked:
            return
        self.asked = True
        self.event.set()
        if not self._is_serving and self._main is not None:
            self._main.cancel()

    def orphan(self) -> None:
        self.orphaned = True
        self.ask()

    def forget(self) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)


async def _serve_alone(config: Config, stop: Stop, stack: AsyncExitStack) -> None:
    """The only process: the database and the word to whoever started it are its own."""
    started = time.monotonic()
    background = Background()
    config = await open_database(config, stack, background)
    # Behind the database: its watcher must not take a stop for a crash.
    stack.push_async_callback(background.stop)
    app = await _open(config, stack)
    metrics_port = await stack.enter_async_context(
        listen(
            Runner(app.metrics_web, limits=BRIEF),
            config.metrics_host,
            config.metrics_port,
            "METRICS_PORT",
        )
    )
    # Entered last, left first: sockets are sent away before anything they need is closed.
    port = await stack.enter_async_context(
        listen(_runner(config, app), config.host, config.port, "PORT")
    )
    app.address.config = bound_to(config, port)
    write_served(config, Served(os.getpid(), config.host, port, metrics_port), stack)
    _settle(stop, config, port, started)
    greet(app.config, metrics_port, await _setup_secret(app))
    await _until_end(app, stop, background.failed)


async def _serve_beside(config: Config, worker: Worker, stop: Stop, stack: AsyncExitStack) -> None:
    """One of several processes on a port, which its supervisor holds for them."""
    started = time.monotonic()
    _number_lines(worker.number)
    stack.enter_context(_orphaned_with_stdin(stop))
    app = await _open(config, stack)
    await stack.enter_async_context(_listen_to_supervisor(app.metrics_web, worker.metrics_socket))
    port = await stack.enter_async_context(
        listen(_runner(config, app), config.host, config.port, "PORT", beside=True)
    )
    _settle(stop, config, port, started)
    say(encode(Serving(setup_secret=await _setup_secret(app))).decode() + "\n")
    await _until_end(app, stop)


async def _open(config: Config, stack: AsyncExitStack) -> App:
    try:
        return await stack.enter_async_context(open_app(config))
    except AWAY as fault:
        raise CannotServe(f"The database can't be reached: {_reason(fault)}") from None


def _settle(stop: Stop, config: Config, port: int, started: float) -> None:
    _settle_garbage()
    stop.serving()
    _log.info("serving", host=config.host, port=port, seconds=round(time.monotonic() - started, 2))


async def _until_end(app: App, stop: Stop, *failures: asyncio.Event) -> None:
    """Wait for a wish to stop or for a fault. Balancers are told, and get time to hear it."""
    await first_of(stop.event, app.background.failed, *failures)
    _log.info("stopping", asked=stop.asked)
    app.health.drain()
    app.gateway.refuse_newcomers()
    if not stop.asked:
        raise CannotServe("A part of the server has ended, and so it stops; its log tells why.")
    if not stop.orphaned:
        await asyncio.sleep(app.config.drain_delay.total_seconds())


async def first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _number_lines(number: int) -> None:
    """Have each line of the log say which worker wrote it."""

    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, "worker": number}

    structlog.configure(processors=[add, *structlog.get_config()["processors"]])


@contextmanager
def _orphaned_with_stdin(stop: Stop) -> Iterator[None]:
    """Stop when the supervisor is gone, which closes our standard input without a word."""
    loop = asyncio.get_running_loop()
    stdin = sys.__stdin__.fileno() if sys.__stdin__ else _NO_FILE

    def look() -> None:
        if not os.read(stdin, 1024):
            loop.remove_reader(stdin)
            _log.warning("supervisor_gone")
            stop.orphan()

    try:
        loop.add_reader(stdin, look)
    except (OSError, ValueError):
        raise CannotServe(
            "There is no supervisor above this worker: unset PARLEY_WORKER."
        ) from None
    try:
        yield
    finally:
        loop.remove_reader(stdin)


def _reason(fault: BaseException) -> str:
    """What a fault says; some say nothing, but their names do."""
    return str(fault) or type(fault).__name__


async def open_database(config: Config, stack: AsyncExitStack, background: Background) -> Config:
    """The settings with a database that is up and has the newest schema."""
    if config.database_url is None:
        server: EmbeddedPostgres = await stack.enter_async_context(
            embedded_postgres(config.data_dir, settings=_room_for(config))
        )
        await migrate(server.owner_dsn, MIGRATIONS)
        background.start("embedded-postgres", server.watch())
        return msgspec.structs.replace(config, database_url=Secret(server.app_dsn))
    try:
        await migrate(str(config.database_url), MIGRATIONS)
    except (*AWAY, asyncpg.PostgresError) as fault:
        raise CannotServe(f"The database can't be used: {_reason(fault)}") from None
    return config


def _room_for(config: Config) -> dict[str, str]:
    """One process has room in what the embedded database allows by itself."""
    if config.workers == 1:
        return {}
    needed = config.workers * (config.db_pool_size + _OTHER_CONNECTIONS) + _SPARE_CONNECTIONS
    return {"max_connections": str(max(needed, _USUAL_CONNECTIONS))}


@asynccontextmanager
async def listen(
    runner: Runner, host: str, port: int, name: str, *, beside: bool = False
) -> AsyncIterator[int]:
    """Serve for the length of a block; the port that it got.

    `beside` others of this account that listen on the same port in the same way.
    """
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=_LISTEN, reuse_port=beside)
        try:
            await site.start()
        except OSError as fault:
            raise port_is_taken(fault, host, port, name) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def port_is_taken(fault: OSError, host: str, port: int, name: str) -> CannotServe:
    return CannotServe(
        f"{name}={port} on {host} can't be listened on: {fault.strerror or fault}. "
        f"Is another server running? Set {name} to a free port."
    )


@asynccontextmanager
async def _listen_to_supervisor(app: web.Application, socket: str) -> AsyncIterator[None]:
    """Serve the metrics on a socket in a folder that nobody else may enter."""
    runner = Runner(app, limits=BRIEF)
    await runner.setup()
    try:
        await web.UnixSite(runner, socket).start()
        yield
    finally:
        await runner.cleanup()


def _runner(config: Config, app: App) -> Runner:
    limits = Limits(
        max_body_size=config.max_body_size,
        connections=config.http_max_connections,
        per_address=config.http_connections_per_address,
        trusted_proxies=config.trusted_proxies,
        shutdown_s=config.shutdown_timeout.total_seconds(),
    )
    return Runner(app.web, limits=limits, is_draining=lambda: app.health.is_draining)


def write_served(config: Config, served: Served, stack: AsyncExitStack) -> None:
    path = config.data_dir / "server.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(encode(served) + b"\n")
    fresh.replace(path)
    stack.callback(path.unlink, missing_ok=True)


def greet(config: Config, metrics_port: int, setup_secret: str | None) -> None:
    """Tell whoever started it what to do next."""
    url = config.public_url
    lines = [
        "",
        f"  Parley serves on {url}",
        "",
        f"  read and try the API   {url}/docs",
        f"  live events            {url.replace('http', 'ws', 1)}/gateway",
        f"  metrics                http://{config.metrics_host}:{metrics_port}/metrics",
        "  a first conversation   README.md",
    ]
    if setup_secret is not None:
        lines += [
            "",
            "  Nobody administers this server yet. Register, then become its administrator with",
            f"  this secret, which works once:  {setup_secret}",
        ]
    lines += ["", "  Stop with Ctrl-C.", ""]
    say("\n".join(lines) + "\n")


def say(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        # Nobody reads it. Python would fail once more at its end, when it flushes what is left.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


async def _setup_secret(app: App) -> str | None:
    """The secret, also when the database dies just now and is started again."""
    until = time.monotonic() + _GREETING_S
    while time.monotonic() < until:
        try:
            return await app.setup_secret()
        except Unavailable:
            await asyncio.sleep(_RETRY_S)
    return None
