"""WebSocket frames (RFC 6455) as a server needs them: bytes in, messages out, no I/O."""

from typing import Final, NamedTuple

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MAX_CONTROL: Final = 125
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
# A message in more pieces than this is an attack on memory, not a message.
_MAX_FRAGMENTS: Final = 64

PROTOCOL_ERROR: Final = 1002
BAD_TEXT: Final = 1007
TOO_BIG: Final = 1009


class WireFault(Exception):
    """The peer broke the protocol; the connection is closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    """A whole message (TEXT or BINARY) or a control frame, unmasked."""

    opcode: int
    payload: bytes


def encode(opcode: int, payload: bytes) -> bytes:
    """A frame from the server: final and unmasked."""
    size = len(payload)
    head = _FIN | opcode
    if size < _LENGTH_16:
        return bytes((head, size)) + payload
    if size < 1 << 16:
        return bytes((head, _LENGTH_16)) + size.to_bytes(2, "big") + payload
    return bytes((head, _LENGTH_64)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str) -> bytes:
    """A closing frame; a reason beyond the 123 bytes that fit is cut."""
    text = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore").encode()
    return encode(CLOSE, code.to_bytes(2, "big") + text)


class FrameReader:
    """Cuts the bytes of a client into messages. Keeps nothing while it waits for the next one."""

    __slots__ = ("_buffer", "_fragments", "_max_message", "_opcode", "_size")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        # What has arrived of a frame that is not yet complete.
        self._buffer: bytes = b""
        # The earlier frames of a message in pieces; None between messages.
        self._fragments: list[bytes] | None = None
        self._opcode = 0
        self._size = 0

    def feed(self, arrived: bytes) -> list[Frame]:
        """The frames that are complete now; WireFault for what no client may send."""
        data = self._buffer + arrived if self._buffer else arrived
        frames: list[Frame] = []
        start = 0
        while (end := self._next(data, start, frames)) is not None:
            start = end
        self._buffer = data[start:]
        return frames

    def _next(self, data: bytes, start: int, frames: list[Frame]) -> int | None:
        """Read one frame at `start`; where it ends, or None if it is not all there."""
        if len(data) < start + 2:
            return None
        head, second = data[start], data[start + 1]
        if head & _RESERVED:
            raise WireFault(PROTOCOL_ERROR, "no extension was negotiated")
        if not second & _MASKED:
            raise WireFault(PROTOCOL_ERROR, "frames from clients are masked")
        opcode, at = head & 0x0F, start + 2
        size = second & 0x7F
        if opcode >= CLOSE:
            if size > _MAX_CONTROL or not head & _FIN:
                raise WireFault(PROTOCOL_ERROR, "control frames are short and whole")
        elif size >= _LENGTH_16:
            width = 2 if size == _LENGTH_16 else 8
            if len(data) < at + width:
                return None
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        # Refused by what it claims, before a byte of it is kept.
        if opcode < CLOSE and self._size + size > self._max_message:
            raise WireFault(TOO_BIG, f"a message has at most {self._max_message} bytes")
        end = at + 4 + size
        if len(data) < end:
            return None
        payload = _unmask(data[at : at + 4], data[at + 4 : end])
        self._accept(opcode, payload, frames, final=bool(head & _FIN))
        return end

    def _accept(self, opcode: int, payload: bytes, frames: list[Frame], *, final: bool) -> None:
        if opcode in {CLOSE, PING, PONG}:
            frames.append(Frame(opcode, payload))
        elif opcode in {TEXT, BINARY} and self._fragments is None:
            if final:
                frames.append(_message(opcode, payload))
            else:
                self._fragments, self._opcode, self._size = [payload], opcode, len(payload)
        elif opcode == CONTINUATION and self._fragments is not None:
            self._fragments.append(payload)
            self._size += len(payload)
            if final:
                frames.append(_message(self._opcode, b"".join(self._fragments)))
                self._fragments, self._size = None, 0
            elif len(self._fragments) >= _MAX_FRAGMENTS:
                raise WireFault(TOO_BIG, f"a message has at most {_MAX_FRAGMENTS} fragments")
        else:
            raise WireFault(PROTOCOL_ERROR, "unexpected opcode")


def _message(opcode: int, payload: bytes) -> Frame:
    """A whole message. The JSON reader would pass over bad bytes in a key that it ignores."""
    if opcode == TEXT and not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise WireFault(BAD_TEXT, "a text is UTF-8") from None
    return Frame(opcode, payload)


def _unmask(mask: bytes, payload: bytes) -> bytes:
    """XOR with the repeated mask, as one operation on long integers."""
    size = len(payload)
    if not size:
        return payload
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")
