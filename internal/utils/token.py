"""Opaque tokens and codes: derived from the secret of the server or random, kept as hashes."""

import hmac
import secrets as random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Final

import msgspec

from internal.utils.snowflake import Snowflake

_PREFIX: Final = "prt_"
_ID_BYTES: Final = 8
_GENERATION_BYTES: Final = 4
_HEAD_BYTES: Final = _ID_BYTES + _GENERATION_BYTES
_LENGTH: Final = _HEAD_BYTES + 32


class RefreshToken(msgspec.Struct, frozen=True):
    """What a refresh token stands for."""

    session_id: Snowflake
    generation: int


class RefreshTokens:
    """Derives the refresh token of each generation of a login session.

    Because it is derived, an answer that was lost can be given again although only a hash is
    stored; because it is bound to the installation, another one's tokens mean nothing here.
    """

    def __init__(self, secrets: Sequence[str], *, audience: str, lifetime: timedelta) -> None:
        """The first secret makes tokens; all of them are recognized.

        `lifetime` is how long a session lives without a refresh.
        """
        self.lifetime = lifetime
        self._keys = [derive(secret, "refresh", audience) for secret in secrets]

    def make(self, token: RefreshToken) -> str:
        return _make(self._keys[0], token)

    def read(self, text: str) -> RefreshToken | None:
        """What a token stands for; None if none of our keys has made it."""
        token = _parse(text)
        if token is None:
            return None
        # The whole text is compared, so there is one spelling of each token.
        ours = [hmac.compare_digest(_make(key, token), text) for key in self._keys]
        return token if any(ours) else None

    def find(self, token: RefreshToken, token_hash: bytes) -> str | None:
        """The token that has this hash, whichever of our keys has made it."""
        for key in self._keys:
            text = _make(key, token)
            if hmac.compare_digest(hash_of(text), token_hash):
                return text
        return None


def hash_of(token: str) -> bytes:
    """What is stored of a token that has at least 128 bits of its own: no salt, no stretching."""
    return sha256(token.encode()).digest()


def derive(secret: str, purpose: str, *context: str) -> bytes:
    """A key or token of its own for each purpose, out of one secret."""
    message = "\0".join((purpose, *context)).encode()
    return hmac.digest(secret.encode(), message, "sha256")


def readable(token: bytes) -> str:
    """Bytes as text that stands in a URL as it is."""
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def random_code() -> str:
    """A code that nobody guesses: 144 bits."""
    return random.token_urlsafe(18)


def _make(key: bytes, token: RefreshToken) -> str:
    head = token.session_id.to_bytes(_ID_BYTES) + token.generation.to_bytes(_GENERATION_BYTES)
    return _PREFIX + readable(head + hmac.digest(key, head, "sha256"))


def _parse(text: str) -> RefreshToken | None:
    if not text.startswith(_PREFIX) or not text.isascii():
        return None
    body = text.removeprefix(_PREFIX)
    try:
        raw = urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        return None
    if len(raw) != _LENGTH:
        return None
    return RefreshToken(
        session_id=Snowflake(int.from_bytes(raw[:_ID_BYTES])),
        generation=int.from_bytes(raw[_ID_BYTES:_HEAD_BYTES]),
    )
