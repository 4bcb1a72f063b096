"""A client of the gateway on the `websockets` library, as somebody else would write it."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

# These come by themselves, whenever somebody comes or goes: they are no part of any conversation.
UNASKED = frozenset({"PRESENCE_UPDATE"})

# Long enough for a loaded machine; a test that passes never waits for it.
PATIENCE_S = 10.0

Json = Any


class Op:
    """The opcodes of the gateway."""

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
    SEND = 100
    SENT = 101
    LOOK_AT_MEMBERS = 102


class Frame(msgspec.Struct, frozen=True):
    """One frame as it came: decoded, and its very bytes."""

    op: int
    d: Json = None
    s: int | None = None
    t: str | None = None
    raw: bytes = b""


class GatewayClosed(Exception):
    """The server ended the connection while something else was awaited."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"the gateway closed with {code}: {reason}")
        self.code = code


class Gateway:
    """One connection. Frames are kept in `frames`; `expect` reads on from the last one it took."""

    def __init__(self, socket: ClientConnection) -> None:
        self.frames: list[Frame] = []
        self.session_id = ""
        self._socket = socket
        self._next = 0
        self._news = asyncio.Condition()
        self._is_closed = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, *, headers: Mapping[str, str] | None = None) -> Self:
        """Connect without a word; the server speaks first."""
        socket = await connect(
            url,
            additional_headers=headers,
            compression=None,
            max_size=None,
            # No limit: a test reads everything at once or means to read nothing.
            max_queue=None,
            ping_interval=None,
            proxy=None,
        )
        return cls(socket)

    # What a client says

    async def send(self, op: int, d: Json = None, **more: Json) -> None:
        await self.send_text(msgspec.json.encode({"op": op, "d": d, **more}).decode())

    async def send_text(self, text: str) -> None:
        await self._socket.send(text)

    async def send_bytes(self, content: bytes) -> None:
        await self._socket.send(content)

    async def send_raw_text(self, content: bytes) -> None:
        """A text frame with any bytes, which need not be text."""
        await self._socket.send(content, text=True)

    async def ping(self) -> None:
        """A ping of the WebSocket itself, answered by a pong."""
        async with asyncio.timeout(PATIENCE_S):
            await (await self._socket.ping())

    async def heartbeat(self) -> None:
        """Op 1; returns once it was acknowledged."""
        await self.send(Op.HEARTBEAT, self.seq or None)
        await self.expect_op(Op.HEARTBEAT_ACK)

    async def identify(self, token: str, **more: Json) -> list[Frame]:
        """Op 2; returns READY and the guilds that follow it."""
        properties = {"os": "linux", "browser": "test", "device": "test"}
        payload = {"token": token, "intents": 53608447, "properties": properties, **more}
        await self.send(Op.IDENTIFY, payload)
        return await self.expect_ready()

    async def resume(self, token: str, session_id: str, seq: Json) -> None:
        """Op 6. What comes of it is for the caller to expect."""
        self.session_id = session_id
        await self.send(Op.RESUME, {"token": token, "session_id": session_id, "seq": seq})

    # What a client hears

    @property
    def seq(self) -> int:
        """The position to resume after: the last `s` that was told."""
        return next((f.s for f in reversed(self.frames) if f.s is not None), 0)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def mark(self) -> int:
        """How many frames `expect` has taken or passed over."""
        return self._next

    @property
    def dispatches(self) -> list[Frame]:
        """The events so far, but for those that come by themselves."""
        return [
            frame for frame in self.frames if frame.op == Op.DISPATCH and frame.t not in UNASKED
        ]

    def of_type(self, kind: str) -> list[Frame]:
        """All frames of an event type so far, also those that `expect` has passed."""
        return [frame for frame in self.frames if frame.t == kind]

    async def expect(self, kind: str, within: float = PATIENCE_S, **fields: Json) -> Json:
        """The payload of the next event of this type with these fields; others are passed over."""
        return (await self.expect_frame(kind, within, **fields)).d

    async def expect_frame(self, kind: str, within: float = PATIENCE_S, **fields: Json) -> Frame:
        def wanted(frame: Frame) -> bool:
            return frame.op == Op.DISPATCH and frame.t == kind and covers(fields, frame.d)

        return await self.find(wanted, f"{kind} {fields or ''}", within)

    async def expect_op(self, op: int, within: float = PATIENCE_S) -> Frame:
        return await self.find(lambda frame: frame.op == op, f"op {op}", within)

    async def expect_ready(self) -> list[Frame]:
        ready = await self.expect_frame("READY")
        self.session_id = ready.d["session_id"]
        guilds = [await self.expect_frame("GUILD_CREATE") for _ in ready.d["guilds"]]
        return [ready, *guilds]

    async def expect_close(self, *codes: int, within: float = PATIENCE_S) -> int:
        """Wait until the server ends the connection with one of these codes."""
        async with asyncio.timeout(within), self._news:
            await self._news.wait_for(lambda: self._is_closed)
        code = self._socket.close_code
        assert code in codes, f"closed with {code} {self._socket.close_reason!r}, not {codes}"
        return code

    async def find(
        self, wanted: Callable[[Frame], bool], name: str, within: float = PATIENCE_S
    ) -> Frame:
        """The next frame that is wanted. GatewayClosed if there can't be one any more."""
        start = self._next
        try:
            async with asyncio.timeout(within), self._news:
                while True:
                    while self._next < len(self.frames):
                        self._next += 1
                        if wanted(self.frames[self._next - 1]):
                            return self.frames[self._next - 1]
                    if self._is_closed:
                        raise GatewayClosed(self._socket.close_code, self._socket.close_reason)
                    await self._news.wait()
        except TimeoutError:
            seen = [(frame.op, frame.t, frame.s) for frame in self.frames[start:]]
            raise AssertionError(f"{name} did not come within {within} s, but {seen}") from None

    # How it ends

    async def close(self, code: int = 1000) -> None:
        with suppress(ConnectionClosed):
            await self._socket.close(code)
        await self._reader

    async def abort(self) -> None:
        """Break off, as a client whose network is gone: no closing handshake."""
        self._socket.transport.abort()
        await self._reader

    def stop_reading(self) -> None:
        """Let everything that comes pile up at the server, as a client that hangs."""
        self._socket.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Read again, what has piled up first."""
        self._socket.transport.resume_reading()

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for content in self._socket:
                raw = content.encode() if isinstance(content, str) else content
                frame = msgspec.structs.replace(msgspec.json.decode(raw, type=Frame), raw=raw)
                async with self._news:
                    self.frames.append(frame)
                    self._news.notify_all()
        async with self._news:
            self._is_closed = True
            self._news.notify_all()


def covers(wanted: Json, got: Json) -> bool:
    """Whether everything in `wanted` stands in `got` as well, which may hold more."""
    if isinstance(wanted, Mapping):
        return isinstance(got, Mapping) and all(
            key in got and covers(value, got[key]) for key, value in wanted.items()
        )
    return bool(wanted == got)
