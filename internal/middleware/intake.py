"""What is refused before a handler sees it: bodies that are too long or packed."""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from internal.errors import BodyTooLarge, HttpError, UnsupportedEncoding
from internal.middleware.errors import error_response
from internal.middleware.rate_limit import PUBLIC, RateLimits


def expectation(max_body_size: int) -> Handler:
    """Make what answers `Expect` before the middlewares run: no body is asked for to be refused."""

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Expect", "").lower() != "100-continue":
            return error_response(HttpError("Only 100-continue may be expected"), 417)
        if (request.content_length or 0) > max_body_size:
            refusal = error_response(BodyTooLarge())
            refusal.force_close()
            return refusal
        if request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    return answer  # type: ignore[return-value]  # aiohttp goes on when it is None


def intake(max_body_size: int) -> Middleware:
    """Refuse by the head of a request what reading its body would refuse later, or not at all.

    The limit of a body whose length is not told is `client_max_size` of the application.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (request.content_length or 0) > max_body_size:
            raise BodyTooLarge
        # A packed body of a few kB unpacks to as many MB; no client needs that for what it sends.
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise UnsupportedEncoding
        return await handler(request)

    return check


def unknown_routes(limits: RateLimits) -> Middleware:
    """Count what asks for routes that there are not: every real one has a limit of its own."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is not None:
            await limits.take(request, PUBLIC)
        return await handler(request)

    return check
