"""Access tokens: short-lived, signed, and good for one installation only."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Final

import jwt
import msgspec

from internal.errors import Unauthorized
from internal.utils.actor import Actor
from internal.utils.clock import Clock
from internal.utils.json import UnreadableJson, convert
from internal.utils.snowflake import Snowflake

_ALGORITHM: Final = "HS256"
# The whole header. A token with any other, or with one field more (kid, jku, jwk, crit, b64), is
# refused before it is looked at.
_HEADER: Final = {"alg": _ALGORITHM, "typ": "at+jwt"}
_REQUIRED: Final = ["exp", "iat", "sub", "aud", "jti", "sid"]
_LONGEST: Final = 2048
# Clocks of nodes differ; a token from further in the future was not made by one of ours.
_SKEW_S: Final = 60
_MOST_CACHED: Final = 10_000


class Claims(msgspec.Struct, frozen=True):
    """What an access token says."""

    sub: Snowflake
    sid: Snowflake
    aud: str
    jti: str
    iat: int
    exp: int


class AccessTokens:
    """Makes and checks access tokens."""

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        audience: str,
        lifetime: timedelta,
        clock: Clock,
        new_id: Callable[[], Snowflake],
    ) -> None:
        """The first secret signs; all of them verify."""
        self.lifetime = lifetime
        self._keys = [secret.encode() for secret in secrets]
        self._audience = audience
        self._clock = clock
        self._new_id = new_id
        # A client shows the same token with every request of a quarter of an hour.
        self._claims = lru_cache(_MOST_CACHED)(self._decode)

    def issue(self, actor: Actor) -> str:
        now = int(self._clock.now().timestamp())
        claims = {
            "sub": str(actor.user_id),
            "sid": str(actor.session_id),
            "aud": self._audience,
            "jti": str(self._new_id()),
            "iat": now,
            "exp": now + int(self.lifetime.total_seconds()),
        }
        return jwt.encode(claims, self._keys[0], algorithm=_ALGORITHM, headers=dict(_HEADER))

    def verify(self, token: str) -> Claims:
        """What a token says, if it is ours and has not expired; Unauthorized otherwise."""
        if len(token) > _LONGEST or not token.isascii():
            raise Unauthorized
        claims = self._claims(token)
        now = self._clock.now().timestamp()
        if not claims.iat - _SKEW_S <= now < claims.exp:
            raise Unauthorized
        return claims

    def _decode(self, token: str) -> Claims:
        try:
            if jwt.get_unverified_header(token) != _HEADER:
                raise Unauthorized
            return convert(self._signed(token), Claims)
        except (jwt.InvalidTokenError, UnreadableJson):
            raise Unauthorized from None

    def _signed(self, token: str) -> dict[str, object]:
        """The claims, if one of the keys has signed them. Times are checked by the caller."""
        options: jwt.types.Options = {
            "require": _REQUIRED,
            "strict_aud": True,
            "verify_exp": False,
            "verify_iat": False,
        }
        fault: jwt.InvalidTokenError = jwt.InvalidSignatureError()
        for key in self._keys:
            try:
                return jwt.decode(
                    token, key, algorithms=[_ALGORITHM], audience=self._audience, options=options
                )
            except jwt.InvalidSignatureError as mismatch:
                fault = mismatch
        raise fault
