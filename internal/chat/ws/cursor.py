"""The `session_id` of the gateway: a signed cursor, so that any node can resume any session."""

import base64
import hmac
import secrets
from typing import Annotated, Final

import msgspec

from internal.presence.model import Device, Status

_MAC: Final = 16


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """What a RESUME needs to know beside the position."""

    user_id: int
    login_id: int
    epoch: int
    # Tells sockets of one gateway session apart from those of another of the same login.
    key: int
    expires_at: int
    # Outbox ids whose effects READY showed though they had no position yet.
    suppressed: Annotated[list[int], msgspec.Meta(max_length=64)] = []
    # What the session showed when it began. Not read any more, as it may have changed since; the
    # place is kept for the sake of what follows.
    status: Status = "online"
    device: Device = "web"


_decode = msgspec.msgpack.Decoder(Cursor).decode


def new_key() -> int:
    return secrets.randbits(63)


class CursorSigner:
    """Makes and reads cursors. Every key verifies; the first one signs."""

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = keys

    def sign(self, cursor: Cursor) -> str:
        body = msgspec.msgpack.encode(cursor)
        return base64.urlsafe_b64encode(body + _mac(self._keys[0], body)).rstrip(b"=").decode()

    def read(self, text: str, now: float) -> Cursor | None:
        """The cursor; None when it was not made here or is too old."""
        try:
            raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except ValueError:
            return None
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if not any(hmac.compare_digest(_mac(key, body), mac) for key in self._keys):
            return None
        cursor = _decode(body)
        return cursor if now < cursor.expires_at else None


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"gateway-cursor" + body, "sha256")[:_MAC]
