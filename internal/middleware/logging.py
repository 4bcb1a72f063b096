"""One line and one measurement for each request, and the id by which its lines belong together."""

import re
from typing import Final, Protocol
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.contextvars import bind_contextvars, clear_contextvars

from internal.utils.clock import Clock
from internal.utils.request import ADDRESS

REQUEST_ID = web.RequestKey("request_id", str)

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
# A proxy's id is taken over, when it can do no harm in a log line.
_SANE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SWITCHING: Final = 101


class ObserveRequest(Protocol):
    """Counts and times a request."""

    def __call__(self, *, method: str, route: str | None, status: int, seconds: float) -> None: ...


def request_log(observe: ObserveRequest, clock: Clock) -> Middleware:
    """Log each request with the template of its route: never with a query, a body or a token."""

    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = _request_id(request)
        request[REQUEST_ID] = request_id
        clear_contextvars()  # Requests of one connection share a context.
        bind_contextvars(request_id=request_id)
        began = clock.monotonic()
        response = await handler(request)
        seconds = clock.monotonic() - began
        route = route_of(request)
        if response.status != _SWITCHING:  # how long a socket lives is no latency
            observe(method=request.method, route=route, status=response.status, seconds=seconds)
        _log.info(
            "request",
            method=request.method,
            route=route,
            status=response.status,
            ms=round(seconds * 1000, 2),
            address=request[ADDRESS],
        )
        return response

    return log


def route_of(request: web.Request) -> str | None:
    """Name the route by its template, `/guilds/{guild_id}`; None where there is no such route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _SANE.fullmatch(given) else uuid4().hex
