"""The gateway's vocabulary: opcodes, reasons for closing, and frames."""

from enum import Enum, IntEnum

import msgspec

from internal.chat.ws import wire
from internal.eventlog.model import Entry
from internal.utils.json import encode


class Op(IntEnum):
    """What a gateway message is about."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    UPDATE_PRESENCE = 3
    RESUME = 6
    RECONNECT = 7
    REQUEST_GUILD_MEMBERS = 8
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11
    # Ours: a message sent over the socket, and its outcome.
    SEND = 100
    SENT = 101
    # Ours: the members of a channel that a client looks at.
    LOOK_AT_MEMBERS = 102


class CloseReason(Enum):
    """Why a socket is closed: the code, one sentence, and whether RESUME may follow."""

    UNKNOWN_ERROR = 4000, "Something went wrong here; reconnect and resume.", True
    UNKNOWN_OPCODE = 4001, "This opcode is not known.", False
    DECODE_ERROR = 4002, "That was no gateway message.", False
    NOT_AUTHENTICATED = 4003, "Identify before anything else.", False
    AUTHENTICATION_FAILED = 4004, "The token is not valid, or the login session has ended.", False
    ALREADY_AUTHENTICATED = 4005, "This socket has identified before.", False
    INVALID_SEQ = 4007, "The sequence number to resume from is not one.", False
    RATE_LIMITED = 4008, "Too many messages to the gateway.", True
    SESSION_TIMED_OUT = 4009, "No heartbeat, or no IDENTIFY, in time.", True
    RESTARTING = 4900, "The server restarts; reconnect and resume.", True
    SLOW_READER = 4901, "This socket reads too slowly; reconnect and resume.", True
    REPLACED = 4902, "Another socket has resumed this session.", False

    def __init__(self, code: int, sentence: str, resumable: bool) -> None:  # noqa: FBT001
        self.code = code
        self.sentence = sentence
        self.resumable = resumable


class Envelope(msgspec.Struct):
    """What every message of a client looks like. `d` is read once `op` is known."""

    op: int
    d: msgspec.Raw = msgspec.Raw(b"null")


def message(op: Op, d: object) -> bytes:
    """A frame that is no dispatch."""
    return wire.encode(wire.TEXT, b'{"op":%d,"s":null,"t":null,"d":%b}' % (op, encode(d)))


def dispatch(kind: str, seq: int, payload: bytes) -> bytes:
    """The frame of an event. Made once; the same bytes go to everyone who hears of it."""
    return wire.encode(
        wire.TEXT, b'{"op":0,"t":"%b","s":%d,"d":%b}' % (kind.encode(), seq, payload)
    )


def frame_of(entry: Entry) -> bytes | None:
    """The frame of a logged event; None when its content was taken back."""
    if entry.frame is None and entry.payload is not None:
        entry.frame = dispatch(entry.type, entry.pos, entry.payload)
    return entry.frame


HEARTBEAT_ACK = message(Op.HEARTBEAT_ACK, None)
RECONNECT = message(Op.RECONNECT, None)
INVALID_SESSION = message(Op.INVALID_SESSION, False)  # noqa: FBT003
