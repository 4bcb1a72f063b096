"""One server process from start to stop: the database, the schema, the application, the sockets."""

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import asyncpg
import msgspec
import structlog
from aiohttp import web

from internal.app import MIGRATIONS, App, open_app
from internal.config.config import Config, Secret, bound_to, ensure_secret
from internal.db.cluster import EmbeddedError
from internal.db.embedded import EmbeddedPostgres, embedded_postgres
from internal.db.migrate import MigrationError, migrate
from internal.db.postgres import AWAY, UnsafeDatabase
from internal.errors import Unavailable
from internal.middleware.connections import Limits
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


class CannotServe(Exception):
    """Why the server does not start, as one sentence for whoever started it."""


class Served(msgspec.Struct, frozen=True):
    """What DATA_DIR/server.json says of the running process."""

    pid: int
    host: str
    port: int
    metrics_port: int


async def serve(config: Config) -> None:
    """Serve until SIGINT or SIGTERM; CannotServe when it can't be done."""
    configure(config.log_level, config.log_format)
    _raise_file_limit()
    stop = _Stop()
    try:
        async with AsyncExitStack() as stack:
            await _run(ensure_secret(config), stop, stack)
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


class _Stop:
    """The wish to stop: it interrupts a start, and ends the serving."""

    def __init__(self) -> None:
        self.asked = False
        self.event = asyncio.Event()
        self._main = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._is_serving = False
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._ask)

    def serving(self) -> None:
        self._is_serving = True

    def forget(self) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def _ask(self) -> None:
        # Twice is impatience with a slow farewell, not a wish to skip the database's.
        if self.asked:
            return
        self.asked = True
        self.event.set()
        if not self._is_serving and self._main is not None:
            self._main.cancel()


async def _run(config: Config, stop: _Stop, stack: AsyncExitStack) -> None:
    started = time.monotonic()
    background = Background()
    database_url = await _database(config, stack, background)
    # Behind the database: its watcher must not take a stop for a crash.
    stack.push_async_callback(background.stop)
    if config.redis_url is not None:
        _log.warning("redis_unused", reason="one process needs none; several nodes come later")
    config = msgspec.structs.replace(config, database_url=Secret(database_url))
    try:
        app = await stack.enter_async_context(open_app(config))
    except AWAY as fault:
        raise CannotServe(f"The database can't be reached: {_reason(fault)}") from None
    metrics_port = await stack.enter_async_context(
        _listen(app.metrics_web, config.metrics_host, config.metrics_port, "METRICS_PORT")
    )
    # Entered last, left first: sockets are sent away before anything they need is closed.
    port = await stack.enter_async_context(
        _listen(app.web, config.host, config.port, "PORT", _limits(config))
    )
    app.address.config = bound_to(config, port)
    _write_served(config, Served(os.getpid(), config.host, port, metrics_port), stack)
    _settle_garbage()
    stop.serving()
    _log.info("serving", host=config.host, port=port, seconds=round(time.monotonic() - started, 2))
    await _greet(app, metrics_port)
    failures = [background.failed.wait(), app.background.failed.wait(), stop.event.wait()]
    waiting = [asyncio.ensure_future(failure) for failure in failures]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    _log.info("stopping", asked=stop.asked)
    app.health.drain()
    if not stop.asked:
        raise CannotServe("A part of the server has ended, and so it stops; its log tells why.")


def _reason(fault: BaseException) -> str:
    """What a fault says; some say nothing, but their names do."""
    return str(fault) or type(fault).__name__


async def _database(config: Config, stack: AsyncExitStack, background: Background) -> str:
    """The DSN to serve with, of a database that is up and has the newest schema."""
    if config.database_url is None:
        server: EmbeddedPostgres = await stack.enter_async_context(
            embedded_postgres(config.data_dir)
        )
        await migrate(server.owner_dsn, MIGRATIONS)
        background.start("embedded-postgres", server.watch())
        return server.app_dsn
    try:
        await migrate(str(config.database_url), MIGRATIONS)
    except (*AWAY, asyncpg.PostgresError) as fault:
        raise CannotServe(f"The database can't be used: {_reason(fault)}") from None
    return str(config.database_url)


@asynccontextmanager
async def _listen(
    app: web.Application, host: str, port: int, name: str, limits: Limits | None = None
) -> AsyncIterator[int]:
    """Serve an application for the length of a block; the port that it got."""
    runner = Runner(app, limits=limits)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=_LISTEN)
        try:
            await site.start()
        except OSError as fault:
            raise CannotServe(
                f"{name}={port} on {host} can't be listened on: {fault.strerror or fault}. "
                f"Is another server running? Set {name} to a free port."
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _limits(config: Config) -> Limits:
    return Limits(
        max_body_size=config.max_body_size,
        connections=config.http_max_connections,
        per_address=config.http_connections_per_address,
        trusted_proxies=config.trusted_proxies,
        shutdown_s=config.shutdown_timeout.total_seconds(),
    )


def _write_served(config: Config, served: Served, stack: AsyncExitStack) -> None:
    path = config.data_dir / "server.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(encode(served) + b"\n")
    fresh.replace(path)
    stack.callback(path.unlink, missing_ok=True)


async def _greet(app: App, metrics_port: int) -> None:
    """Tell whoever started it what to do next."""
    url = app.config.public_url
    lines = [
        "",
        f"  Parley serves on {url}",
        "",
        f"  read and try the API   {url}/docs",
        f"  live events            {url.replace('http', 'ws', 1)}/gateway",
        f"  metrics                http://{app.config.metrics_host}:{metrics_port}/metrics",
        "  a first conversation   README.md",
    ]
    secret = await _setup_secret(app)
    if secret is not None:
        lines += [
            "",
            "  Nobody administers this server yet. Register, then become its administrator with",
            f"  this secret, which works once:  {secret}",
        ]
    lines += ["", "  Stop with Ctrl-C.", ""]
    try:
        sys.stdout.write("\n".join(lines) + "\n")
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
