"""The gateway's conversation with one client as a state machine: messages in, actions out."""

from enum import Enum
from typing import Annotated, Final, NamedTuple

import msgspec

from internal.chat.ws.events import HEARTBEAT_ACK, CloseReason, Envelope, Op, message
from internal.chat.ws.model import LookAtMembers, RequestMembers
from internal.presence.model import Device, PresenceUpdate, device_of
from internal.utils.json import UnreadableJson, decoder

# 120 messages a minute, as clients know it from elsewhere. Sends have a limit of their own.
_BURST: Final = 120.0
_PER_S: Final = 2.0
# A client may miss one heartbeat and be late with the next.
_MISSED: Final = 2.0
# The members of larger guilds are not told unasked; a client may set this lower.
_MOST_CARRIED: Final = 250
_FEWEST_CARRIED: Final = 50
# How long the server may take to tell a client everything.
_OPENING_S: Final = 60.0


class IdentifyBody(msgspec.Struct):
    """What IDENTIFY needs. Libraries send much more, which is ignored."""

    token: str
    presence: PresenceUpdate | None = None
    # How many members a guild may have for GUILD_CREATE to carry them.
    large_threshold: int | None = None
    # Of these only `browser` is read, and only if it is text.
    properties: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


class Properties(msgspec.Struct):
    """What a client says of the program that it is."""

    browser: str = ""


class ResumeBody(msgspec.Struct):
    """What RESUME needs."""

    token: str
    session_id: Annotated[str, msgspec.Meta(max_length=4096)] | None
    seq: int | None


class Reply(NamedTuple):
    """Send these bytes."""

    frame: bytes


class Identify(NamedTuple):
    """Find out who it is, and tell everything from the start."""

    token: str
    presence: PresenceUpdate | None = None
    device: Device = "web"
    large_threshold: int = _MOST_CARRIED


class Resume(NamedTuple):
    """Go on behind `seq`."""

    token: str
    session_id: str
    seq: int


class Show(NamedTuple):
    """Show another presence."""

    presence: PresenceUpdate


class Send(NamedTuple):
    """A message to a channel, as JSON."""

    body: bytes


class AskMembers(NamedTuple):
    """Tell members of a guild."""

    wish: RequestMembers


class LookAt(NamedTuple):
    """Keep telling parts of a list of members."""

    wish: LookAtMembers


class Close(NamedTuple):
    """End the socket."""

    reason: CloseReason


Action = Reply | Identify | Resume | Show | Send | AskMembers | LookAt | Close


class State(Enum):
    """Where the conversation is."""

    # HELLO was said; IDENTIFY or RESUME is expected, heartbeats are welcome.
    GREETED = 1
    # Who it is, or what was missed, is being found out.
    OPENING = 2
    # Events flow.
    READY = 3
    CLOSED = 4


_read_envelope = decoder(Envelope)
_read_identify = decoder(IdentifyBody)
_read_resume = decoder(ResumeBody)
_read_properties = decoder(Properties)
_read_presence = decoder(PresenceUpdate)
_read_request = decoder(RequestMembers)
_read_look = decoder(LookAtMembers)


class Allowance:
    """A token bucket of one socket."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is within the limit."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Session:
    """One socket's conversation. It does no I/O and reads no clock: `now` is passed in."""

    __slots__ = ("_frames", "_sends", "deadline", "interval_s", "state")

    def __init__(
        self, *, interval_s: float, identify_s: float, now: float, sends: Allowance | None = None
    ) -> None:
        self.interval_s = interval_s
        self.state = State.GREETED
        # When the socket is closed unless something is heard before.
        self.deadline = now + identify_s
        self._frames = Allowance(_BURST, _PER_S, now)
        self._sends = sends or Allowance(_BURST, _PER_S, now)

    def hello(self) -> bytes:
        return message(Op.HELLO, {"heartbeat_interval": round(self.interval_s * 1000)})

    def begin(self, now: float) -> None:
        """It is being found out who this is, or what was missed."""
        self.state = State.OPENING
        self.deadline = now + _OPENING_S

    def opened(self, now: float) -> None:
        """The client was told everything it missed; from here on it must show that it lives."""
        if self.state is State.OPENING:
            self.state = State.READY
            self.deadline = now
            self.alive(now)

    def reopened(self, now: float, identify_s: float) -> None:
        """A RESUME was refused: the client may IDENTIFY on the same socket."""
        if self.state is State.OPENING:
            self.state = State.GREETED
            self.deadline = now + identify_s

    def alive(self, now: float) -> None:
        self.deadline = max(self.deadline, now + _MISSED * self.interval_s)

    def receive(self, raw: bytes, now: float) -> Action | None:
        """What one message of the client asks for."""
        if self.state is State.CLOSED:
            return None
        try:
            envelope = _read_envelope(raw)
            budget = self._sends if envelope.op == Op.SEND else self._frames
            if not budget.take(now):
                return Close(CloseReason.RATE_LIMITED)
            return self._act(envelope, now)
        except UnreadableJson:
            return Close(CloseReason.DECODE_ERROR)

    def _act(self, envelope: Envelope, now: float) -> Action | None:
        match envelope.op:
            case Op.HEARTBEAT:
                if self.state is not State.GREETED:
                    self.alive(now)
                return Reply(HEARTBEAT_ACK)
            case Op.IDENTIFY | Op.RESUME:
                return self._open(envelope, now)
            case Op.UPDATE_PRESENCE if self.state is not State.GREETED:
                return Show(_read_presence(envelope.d))
            case Op.SEND | Op.REQUEST_GUILD_MEMBERS | Op.LOOK_AT_MEMBERS if (
                self.state is State.READY
            ):
                return _wish(envelope)
            case Op.UPDATE_PRESENCE | Op.SEND | Op.REQUEST_GUILD_MEMBERS | Op.LOOK_AT_MEMBERS:
                return Close(CloseReason.NOT_AUTHENTICATED)
            case _:
                return Close(CloseReason.UNKNOWN_OPCODE)

    def _open(self, envelope: Envelope, now: float) -> Action:
        if self.state is not State.GREETED:
            return Close(CloseReason.ALREADY_AUTHENTICATED)
        if envelope.op == Op.IDENTIFY:
            wish = _read_identify(envelope.d)
            action: Action = Identify(
                _bare(wish.token),
                wish.presence,
                _device(wish.properties),
                _threshold(wish.large_threshold),
            )
        else:
            body = _read_resume(envelope.d)
            # Libraries send null before they have seen any event; nothing can follow that.
            seq = 0 if body.seq is None else body.seq
            if seq < 0:
                return Close(CloseReason.INVALID_SEQ)
            action = Resume(_bare(body.token), body.session_id or "", seq)
        self.begin(now)
        return action

    def allow(self, now: float) -> bool:
        """Whether one more control frame is within the limit."""
        return self._frames.take(now)


def _wish(envelope: Envelope) -> Action:
    """What only who has identified may ask for."""
    if envelope.op == Op.SEND:
        return Send(bytes(envelope.d))
    if envelope.op == Op.REQUEST_GUILD_MEMBERS:
        return AskMembers(_read_request(envelope.d))
    return LookAt(_read_look(envelope.d))


def _device(properties: msgspec.Raw) -> Device:
    """The kind of device that a client is on. What can't be read says nothing."""
    try:
        return device_of(_read_properties(properties).browser)
    except UnreadableJson:
        return "web"


def _threshold(wish: int | None) -> int:
    """How many members a guild may have and not be large; within the documented bounds."""
    return _MOST_CARRIED if wish is None else min(max(wish, _FEWEST_CARRIED), _MOST_CARRIED)


def _bare(token: str) -> str:
    """The token alone: some libraries send what they put into the header of a request."""
    return token.removeprefix("Bot ")
