"""Headers that every answer carries, and what browsers are told about other origins."""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from internal.middleware.logging import REQUEST_ID
from internal.middleware.rate_limit import rate_headers

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]

# An answer is for the one who asked, now: no cache keeps it, no page is made of it.
_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, X-Audit-Log-Reason, X-Request-Id"
)
_EXPOSED: Final = (
    "Retry-After, X-RateLimit-Bucket, X-RateLimit-Limit, X-RateLimit-Remaining, "
    "X-RateLimit-Reset, X-RateLimit-Reset-After, X-RateLimit-Scope, X-Request-Id"
)
_PREFLIGHT_AGE_S: Final = "7200"


def harden(headers: MutableMapping[str, str]) -> None:
    """Add what every answer carries, where the answer does not know better."""
    for name, value in _ALWAYS.items():
        headers.setdefault(name, value)
    headers.pop("Server", None)


def on_prepare(origins: Collection[str], *, is_https: bool) -> OnPrepare:
    """Make the hook that completes the headers of every answer, errors and sockets included."""

    async def complete(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        harden(headers)
        if is_https:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        if REQUEST_ID in request:
            headers["X-Request-Id"] = request[REQUEST_ID]
        headers.update(rate_headers(request))
        if origins:
            headers.add("Vary", "Origin")
            origin = request.headers.get("Origin", "")
            if origin in origins:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = _EXPOSED

    return complete


def cors(origins: Collection[str]) -> Middleware:
    """Answer preflights of the listed origins.

    Tokens travel in a header that pages set themselves, so credentials of the browser are not
    asked for, and other origins need no refusal: their browsers find no permission.
    """

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_preflight = (
            request.method == "OPTIONS"
            and "Access-Control-Request-Method" in request.headers
            and request.headers.get("Origin", "") in origins
        )
        if not is_preflight:
            return await handler(request)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _REQUEST_HEADERS,
                "Access-Control-Max-Age": _PREFLIGHT_AGE_S,
            },
        )

    return preflight
