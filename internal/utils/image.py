"""Pictures from outside: what their first bytes say they are, and whether they move."""

from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from typing import Final

# What a picture is, decided by its bytes alone: what it is called is anybody's claim.
_STARTS: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
GIF: Final = "image/gif"
_GIF_HEADER: Final = 13
_TRAILER, _EXTENSION, _FRAME = 0x3B, 0x21, 0x2C


def read_data_uri(text: str) -> bytes | None:
    """The bytes of a `data:` address; None if it is none, or not in base64."""
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    try:
        return b64decode(body, validate=True)
    except (Error, ValueError):
        return None


def media_type_of(picture: bytes) -> str | None:
    """PNG, JPEG, GIF or WebP; None for everything else."""
    if picture.startswith(b"RIFF") and picture[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _STARTS.items() if picture.startswith(start)), None)


def is_animated(picture: bytes) -> bool:
    """Whether a picture is a GIF of several frames."""
    if media_type_of(picture) != GIF:
        return False
    frames = _frames(picture)
    return next(frames, None) is not None and next(frames, None) is not None


def _frames(gif: bytes) -> Iterator[int]:
    """Where each frame of a GIF begins; nothing more where it breaks off."""
    try:
        at = _GIF_HEADER + _table_size(gif[10])
        while gif[at] != _TRAILER:
            if gif[at] == _EXTENSION:
                at = _past_blocks(gif, at + 2)
            elif gif[at] == _FRAME:
                yield at
                at = _past_blocks(gif, at + 11 + _table_size(gif[at + 9]))
            else:
                return
    except IndexError:
        return


def _table_size(flags: int) -> int:
    """How many bytes of colours follow."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _past_blocks(gif: bytes, at: int) -> int:
    while gif[at]:
        at += gif[at] + 1
    return at + 1
