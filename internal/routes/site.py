"""The application that serves the route table."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from internal.config.config import Config
from internal.middleware.auth import authentication
from internal.middleware.errors import errors
from internal.middleware.headers import cors, on_prepare
from internal.middleware.intake import expectation, intake, unknown_routes
from internal.middleware.logging import ObserveRequest, request_log
from internal.middleware.overload import Overload
from internal.middleware.rate_limit import PUBLIC, RateLimits, addresses
from internal.routes.docs import DocsHandler
from internal.routes.openapi import describe
from internal.routes.route import Handle, Route
from internal.routes.routes import Handlers, table
from internal.utils.actor import Actor
from internal.utils.clock import Clock

VERSION: Final = "0.1.0"
_OK: Final = 200
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What in a path is no id. A picture is named by its hash and what it is called for.
_SHAPES: Final = {
    "icon": r"(?:a_)?[0-9a-f]{32}\.(?:png|jpg|jpeg|gif|webp)",
    # Of an invite; one of another form is unknown like any other.
    "code": "[0-9A-Za-z-]{1,64}",
}
_ID: Final = "[0-9]+"


def site(  # noqa: PLR0913  # everything that an answer passes through
    config: Config,
    handlers: Handlers,
    *,
    authenticate: Callable[[str], Awaitable[Actor]],
    limits: RateLimits,
    overload: Overload,
    observe: ObserveRequest,
    clock: Clock,
) -> web.Application:
    """Put the table, the middleware and the documentation together."""
    application = web.Application(
        middlewares=[
            addresses(config.trusted_proxies),
            request_log(observe, clock),
            errors(),
            cors(config.cors_origins),
            intake(config.max_body_size),
            unknown_routes(limits),
        ],
        client_max_size=config.max_body_size,
    )
    application.on_response_prepare.append(
        on_prepare(config.cors_origins, is_https=config.public_url.startswith("https:"))
    )
    authenticated = authentication(authenticate, limits)
    expect = expectation(config.max_body_size)
    rows = table(handlers)
    for row in rows:
        handle = overload.shedding(row.work, _guarded(row, limits, overload, authenticated))
        for path in row.paths:
            application.router.add_route(row.method, _pattern(path), handle, expect_handler=expect)
            if row.method == "GET" and row.status == _OK:
                application.router.add_route("HEAD", _pattern(path), handle)
    _add_docs(application, rows, limits)
    return application


def _guarded(
    row: Route,
    limits: RateLimits,
    overload: Overload,
    authenticated: Callable[[Handle], Handle],
) -> Handle:
    """A limit by account is counted once it is known who asks, one by address before."""
    handle = overload.gated(row.work, row.handle)
    if row.is_public:
        return limits.limited(row.rule, handle)
    if row.rule.per == "account":
        return authenticated(limits.limited(row.rule, handle))
    return limits.limited(row.rule, authenticated(handle))


def _pattern(path: str) -> str:
    """The path for aiohttp. Each part has its shape, so that no two routes can meet."""
    return _PLACEHOLDER.sub(lambda found: f"{{{found[1]}:{_SHAPES.get(found[1], _ID)}}}", path)


def _add_docs(application: web.Application, rows: list[Route], limits: RateLimits) -> None:
    def description() -> dict[str, Any]:
        return describe(rows, server="/", version=VERSION)

    docs = DocsHandler(description)

    async def front(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/docs")

    for path, handle in (
        ("/", front),
        ("/openapi.json", docs.openapi),
        ("/docs", docs.page),
        ("/docs/start.js", docs.start),
        ("/docs/{name}", docs.asset),
    ):
        application.router.add_get(path, limits.limited(PUBLIC, handle))
