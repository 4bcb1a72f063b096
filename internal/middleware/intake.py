"""What is refused before a handler sees it: bodies that are too long or packed."""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from internal.errors import BodyTooLarge, UnsupportedEncoding


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
