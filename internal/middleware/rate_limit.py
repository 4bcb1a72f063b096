"""Rate limits: how often an account or an address may use a route."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from internal.errors import SlowDown, SlowMode
from internal.utils.address import Network, client_address, network_of
from internal.utils.bucket import Limiter, Rate, Taken
from internal.utils.clock import Clock
from internal.utils.request import ACTOR, ADDRESS


class Rule(msgspec.Struct, frozen=True):
    """A limit. `name` is told to clients, so it stays; routes of one name share their tokens."""

    name: str
    per: Literal["account", "address"]
    rate: Rate


class Reading(msgspec.Struct, frozen=True):
    """What the innermost limit on the way of a request said."""

    rule: Rule
    taken: Taken
    at: float


_READING: Final = web.RequestKey("rate_reading", Reading)

_MINUTE: Final = 1 / 60
_HOUR: Final = 1 / 3600

REGISTER: Final = Rule("register", "address", Rate(10, 20 * _HOUR, guards_secrets=True))
LOGIN: Final = Rule("login", "address", Rate(20, 20 * _MINUTE, guards_secrets=True))
REFRESH: Final = Rule("refresh", "address", Rate(30, 30 * _MINUTE, guards_secrets=True))
# Failed authentications: only who shows wrong tokens meets this limit. It guards no secrets, as
# nobody guesses a signature; a wrong token stays a 401 while Redis is away.
AUTH_FAILURES: Final = Rule("auth-failures", "address", Rate(30, 30 * _MINUTE))
# Everything else that needs no account.
PUBLIC: Final = Rule("public", "address", Rate(100, 20))
# Building everything that a session begins with costs; a RESUME is free.
IDENTIFY: Final = Rule("identify", "account", Rate(20, 0.2))
# A whole office stands behind one address, and after a restart it comes back at once. A handshake
# is cheap, and strangers have a bound of their own.
GATEWAY: Final = Rule("gateway", "address", Rate(200, 20))
# Everything that needs an account and has no rule of its own.
ACCOUNT: Final = Rule("account", "account", Rate(100, 50))
CREDENTIALS: Final = Rule("credentials", "account", Rate(10, 10 * _MINUTE, guards_secrets=True))
CREATE: Final = Rule("create", "account", Rate(20, 0.5))
REPORT: Final = Rule("report", "account", Rate(10, 10 * _MINUTE))
SEND: Final = Rule("send", "account", Rate(20, 10))
TYPING: Final = Rule("typing", "account", Rate(10, 1))


class RateLimits:
    """Applies rules to handlers, and to whatever else counts as using one."""

    def __init__(self, limiter: Limiter, clock: Clock) -> None:
        self._limiter = limiter
        self._clock = clock

    def limited(self, rule: Rule, handler: Handler) -> Handler:
        """Let a request to a handler pass only while its rule allows.

        A rule per account goes inside of what authenticates, a rule per address outside of it.
        """

        async def limit(request: web.Request) -> web.StreamResponse:
            await self.take(request, rule)
            try:
                return await handler(request)
            except (SlowDown, SlowMode):
                _forget_allowance(request)
                raise

        return limit

    async def take(self, request: web.Request, rule: Rule) -> None:
        """Count a request; SlowDown past the rule. Its answer tells the client in headers."""
        taken = await self._limiter.take(f"{rule.name}:{_who(request, rule)}", rule.rate)
        request[_READING] = Reading(rule, taken, self._clock.now().timestamp())
        if not taken.is_allowed:
            raise SlowDown(retry_after=taken.retry_after)

    async def count(self, rule: Rule, who: object) -> None:
        """Count a use that is no request, as a frame of a socket is; SlowDown past the rule."""
        taken = await self._limiter.take(f"{rule.name}:{who}", rule.rate)
        if not taken.is_allowed:
            raise SlowDown(retry_after=taken.retry_after)


def addresses(trusted_proxies: Sequence[Network]) -> Middleware:
    """Set ADDRESS: who is at the other end, behind any trusted proxies."""

    @web.middleware
    async def find(request: web.Request, handler: Handler) -> web.StreamResponse:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
        request[ADDRESS] = client_address(request.remote, forwarded, trusted_proxies)
        return await handler(request)

    return find


def rate_headers(request: web.Request) -> dict[str, str]:
    """Tell how much is left: all five headers, or none where no rule spoke last."""
    reading = request.get(_READING)
    if reading is None:
        return {}
    taken = reading.taken
    return {
        "X-RateLimit-Limit": str(taken.limit),
        "X-RateLimit-Remaining": str(taken.remaining),
        "X-RateLimit-Reset": f"{reading.at + taken.reset_after:.3f}",
        "X-RateLimit-Reset-After": f"{taken.reset_after:.3f}",
        "X-RateLimit-Bucket": reading.rule.name,
    }


def _forget_allowance(request: web.Request) -> None:
    """Tell no headers with a refusal unless they are those of the rule that refused.

    What refuses further in, as the attempts at an account or a slow channel do, has a bucket that
    is not told.
    """
    reading = request.get(_READING)
    if reading is not None and reading.taken.is_allowed:
        del request[_READING]


def _who(request: web.Request, rule: Rule) -> str:
    if rule.per == "account":
        return str(request[ACTOR].user_id)
    return network_of(request[ADDRESS])
