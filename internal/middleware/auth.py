"""Who is asking: the access token of a request becomes its actor."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from internal.errors import Unauthorized
from internal.middleware.rate_limit import AUTH_FAILURES, RateLimits
from internal.utils.actor import Actor
from internal.utils.request import ACTOR


def authentication(
    authenticate: Callable[[str], Awaitable[Actor]], limits: RateLimits
) -> Callable[[Handler], Handler]:
    """Make the guard that lets only requests with a good access token through.

    Wrong tokens are counted by address. A good one passes however many wrong ones were shown: it
    can't be guessed, and a stranger behind the same address must not lock its owner out.
    """

    def authenticated(handler: Handler) -> Handler:
        async def check(request: web.Request) -> web.StreamResponse:
            try:
                request[ACTOR] = await authenticate(request.headers.get("Authorization", ""))
            except Unauthorized:
                await limits.take(request, AUTH_FAILURES)
                raise
            return await handler(request)

        return check

    return authenticated
