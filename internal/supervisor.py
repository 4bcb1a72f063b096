"""Several server processes on one port: what they share, from start to stop."""

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager

import msgspec
import structlog
from aiohttp import web

from internal.config.config import Config, Secret, bound_to, ensure_secret
from internal.db.embedded_redis import embedded_redis, find_binary
from internal.db.sockets import socket_folder
from internal.middleware.connections import BRIEF
from internal.middleware.runner import Runner
from internal.serve import (
    CannotServe,
    Served,
    Stop,
    first_of,
    greet,
    listen,
    open_database,
    port_is_taken,
    until_stopped,
    write_served,
)
from internal.utils.background import Background
from internal.utils.port import claimed
from internal.workers import Workers

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def supervise(config: Config, program: Sequence[str], environ: Mapping[str, str]) -> None:
    """Keep WORKERS processes serving until SIGINT or SIGTERM; CannotServe when it can't be done.

    `program` is what each of them runs, in this environment but with our settings.
    """
    if platform.system() != "Linux":
        raise CannotServe("WORKERS above 1 needs Linux, where processes can share a port.")
    async with until_stopped(config) as (stop, stack):
        started = time.monotonic()
        # First of all: a start that is refused changes nothing.
        config = stack.enter_context(_at_port(ensure_secret(config)))
        background = Background()
        config = await _open_servers(config, stack, background)
        # Behind the servers: their watchers must not take a stop for a crash.
        stack.push_async_callback(background.stop)
        folder = stack.enter_context(socket_folder(config.data_dir / "workers"))
        workers = Workers(config, program, environ, folder)
        await _supervise(config, workers, stop, stack)
        _log.info("supervising", seconds=round(time.monotonic() - started, 2))
        await first_of(stop.event, background.failed, workers.background.failed)
        _log.info("stopping", asked=stop.asked)
        if not stop.asked:
            raise CannotServe("A part of the server has ended, and so it stops; its log tells why.")


@contextmanager
def _at_port(config: Config) -> Iterator[Config]:
    """Hold the port for the workers; the settings with the one that PORT=0 came to."""
    with ExitStack() as stack:
        try:
            port = stack.enter_context(claimed(config.host, config.port))
        except OSError as fault:
            raise port_is_taken(fault, config.host, config.port, "PORT") from None
        yield bound_to(config, port)


async def _open_servers(config: Config, stack: AsyncExitStack, background: Background) -> Config:
    """The settings with a migrated database and a Redis that the workers share."""
    if config.redis_url is None:
        # What would be missing is told before anything is started.
        find_binary()
    config = await open_database(config, stack, background)
    if config.redis_url is not None:
        return config
    redis = await stack.enter_async_context(embedded_redis(config.data_dir / "redis"))
    background.start("embedded-redis", redis.watch())
    return msgspec.structs.replace(config, redis_url=Secret(redis.url))


async def _supervise(config: Config, workers: Workers, stop: Stop, stack: AsyncExitStack) -> None:
    """Have all workers serve, and say so."""
    metrics_port = await stack.enter_async_context(
        listen(
            Runner(_metrics_app(workers), limits=BRIEF),
            config.metrics_host,
            config.metrics_port,
            "METRICS_PORT",
        )
    )
    # Entered last, left first: they drain before anything that they need is closed.
    await stack.enter_async_context(workers.running())
    await first_of(workers.serving, workers.failed, workers.background.failed)
    if not workers.serving.is_set():
        raise CannotServe("No worker could begin to serve; what it said stands above.")
    write_served(config, Served(os.getpid(), config.host, config.port, metrics_port), stack)
    stop.serving()
    greet(config, metrics_port, workers.setup_secret)


def _metrics_app(workers: Workers) -> web.Application:
    """The application of the metrics listener: GET /metrics is the sum over the workers."""

    async def scrape(request: web.Request) -> web.Response:
        page, content_type = await workers.scrape(request.headers.get("Accept", ""))
        return web.Response(
            body=page, headers={"Content-Type": content_type, "Cache-Control": "no-store"}
        )

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    return app
