"""One socket: bytes in and out, on the transport itself.

The hub writes to thousands of these in one loop tick, so a socket is a protocol object and
nothing more: no task, no queue object, no stream.
"""

import asyncio
from typing import Protocol, cast

import structlog
from typing_extensions import override

from internal.chat.ws import wire
from internal.chat.ws.events import CloseReason
from internal.chat.ws.session import Action, Close, Session, Show, State

_log = structlog.get_logger(__name__)
# A peer that ignores the closing handshake is cut off after this.
CLOSE_S = 10.0
_STANDARD = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011})
_PRIVATE = range(3000, 5000)
# What a client's own code counts as.
_FAREWELL = 1000


class Conversation(Protocol):
    """Who acts on what clients ask for."""

    def act(self, client: "Client", action: Action) -> None: ...
    def lagging(self, client: "Client") -> None: ...
    def gone(self, client: "Client", code: int | None) -> None: ...
    def closing(self, code: int) -> None: ...


class Flusher(Protocol):
    """Who writes what sockets have pending, at the end of the loop tick."""

    def dirty(self, client: "Client") -> None: ...


class Client(asyncio.Protocol):
    """A WebSocket after the handshake."""

    __slots__ = (
        "_conversation",
        "_drained",
        "_flusher",
        "_loop",
        "_reader",
        "address",
        "guilds",
        "is_live",
        "is_paused",
        "is_plain",
        "is_stranger",
        "key",
        "login_id",
        "pending",
        "session",
        "take",
        "transport",
        "user_id",
        "wish",
    )

    def __init__(
        self,
        session: Session,
        conversation: Conversation,
        flusher: Flusher,
        *,
        max_message: int,
        address: str,
    ) -> None:
        self.session = session
        self.address = address
        self.transport: asyncio.Transport | None = None
        # Who it is, once it is known; 0 before.
        self.user_id = 0
        self.login_id = 0
        self.key = 0
        # The name of its taking the session over from another socket, until that was logged; 0
        # when nothing is on its way to the log.
        self.take = 0
        # What it wants to show since before it was known who it is.
        self.wish: Show | None = None
        # With the roles in each.
        self.guilds: dict[int, tuple[int, ...]] = {}
        # In the hub's index, told every event as it comes.
        self.is_live = False
        # The peer reads too slowly: the transport's buffer is past its bound.
        self.is_paused = False
        # Identified by the URL: it answers pings and knows no opcodes.
        self.is_plain = False
        # It has not said who it is.
        self.is_stranger = True
        # What leaves at the end of this tick: nothing, one piece, or several.
        self.pending: bytes | list[bytes] | None = None
        self._conversation = conversation
        self._flusher = flusher
        self._reader = wire.FrameReader(max_message)
        self._loop = asyncio.get_running_loop()
        # Set while someone waits for a paused transport to drain.
        self._drained: asyncio.Future[None] | None = None

    def start(self, transport: asyncio.Transport, high_water: int, early: bytes) -> None:
        """Take over the transport of the HTTP connection, and what it read too far."""
        self.transport = transport
        transport.set_write_buffer_limits(high=high_water)
        transport.set_protocol(self)
        transport.resume_reading()
        if early:
            self._loop.call_soon(self.data_received, early)

    # What asyncio calls.

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_closed():
            return
        try:
            frames = self._reader.feed(data)
        except wire.WireFault as fault:
            self._end(fault.code, fault.reason)
            return
        for frame in frames:
            if self._is_closed():
                return
            self._receive(frame)

    @override
    def eof_received(self) -> bool:
        return False

    @override
    def pause_writing(self) -> None:
        self.is_paused = True
        self._conversation.lagging(self)

    @override
    def resume_writing(self) -> None:
        self.is_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.session.state = State.CLOSED
        self.transport = None
        self.pending = None
        self.resume_writing()
        self._conversation.gone(self, None)

    # What the server calls.

    @property
    def is_open(self) -> bool:
        """Whether anything may still be told."""
        return self.session.state is not State.CLOSED

    def pause_reading(self) -> None:
        """Let the peer wait: what it sends stays in the network."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def push(self, data: bytes) -> None:
        """Send at the end of this loop tick, behind what is pending."""
        pending = self.pending
        if pending is None:
            self.pending = data
            self._flusher.dirty(self)
        elif type(pending) is list:
            pending.append(data)
        else:
            self.pending = [cast("bytes", pending), data]

    def write_out(self) -> None:
        """Write what is pending now, without waiting for the flush of all."""
        pending, self.pending = self.pending, None
        if pending is not None and self.transport is not None:
            self.transport.write(pending if isinstance(pending, bytes) else b"".join(pending))

    async def drained(self, timeout_s: float) -> bool:
        """Wait until the peer has read on; False if it did not within the time."""
        if not self.is_paused:
            return True
        self._drained = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._drained
        except TimeoutError:
            return False
        finally:
            self._drained = None
        return True

    def close(self, reason: CloseReason) -> None:
        """Say why and close, once what is pending has left."""
        self._end(reason.code, reason.sentence)

    def ping(self) -> None:
        self.push(wire.encode(wire.PING, b""))

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _is_closed(self) -> bool:
        return not self.is_open

    def _receive(self, frame: wire.Frame) -> None:
        now = self._loop.time()
        match frame.opcode:
            case wire.TEXT | wire.BINARY:
                action = self.session.receive(frame.payload, now)
                if isinstance(action, Close):
                    self.close(action.reason)
                elif action is not None:
                    self._conversation.act(self, action)
            case wire.CLOSE:
                code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1000
                echo = code if _may_be_echoed(code) else wire.PROTOCOL_ERROR
                # Codes of their own are the clients' to choose: they are echoed, not counted.
                self._end(echo, "", counted=echo if echo in _STANDARD else _FAREWELL)
            case wire.PING:
                if not self.session.allow(now):
                    self.close(CloseReason.RATE_LIMITED)
                else:
                    self.push(wire.encode(wire.PONG, frame.payload))
            case _:
                if not self.session.allow(now):
                    self.close(CloseReason.RATE_LIMITED)
                elif self.is_plain:
                    self.session.alive(now)

    def _end(self, code: int, reason: str, *, counted: int | None = None) -> None:
        if self.session.state is State.CLOSED:
            return
        self.session.state = State.CLOSED
        self.session.deadline = self._loop.time() + CLOSE_S
        self._conversation.closing(code if counted is None else counted)
        # Out of the index at once: nothing may follow the closing frame.
        self._conversation.gone(self, code)
        self.push(wire.encode_close(code, reason))
        self._loop.call_soon(self._hang_up)

    def _hang_up(self) -> None:
        # The transport sends what is buffered, then closes.
        self.write_out()
        if self.transport is not None:
            self.transport.close()


def _may_be_echoed(code: int) -> bool:
    """Whether a peer may name this code: 1005 and its like never travel."""
    return code in _STANDARD or code in _PRIVATE
