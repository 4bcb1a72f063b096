"""Thousands of gateway clients in one process, which count what they hear and come back alone.

Each is a protocol object on the transport itself: it cuts frames, keeps the position, and checks
that the numbers of each guild's messages follow one another.
"""

import asyncio
import base64
import os
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, cast

import msgspec
from typing_extensions import override

from tests.support.settlers import Settler

# A message of a stream: its guild and its number there.
MARK: Final = re.compile(rb"~(\d+):(\d+)~")
_POSITION: Final = re.compile(rb'^\{"op":0,"t":"(\w+)","s":(\d+)')
_OPENED: Final = re.compile(rb'"session_id":"([\w-]+)"')
_GUILDS: Final = re.compile(rb'"unavailable":true')
_CLOSE: Final = 0x8
_FIRST_BACKOFF_S: Final = 1.0
_LONGEST_BACKOFF_S: Final = 60.0
_HEARTBEAT_S: Final = 30.0


class Listener(asyncio.Protocol):
    """One person's client, over all its connections."""

    def __init__(self, swarm: "Swarm", settler: Settler, number: int) -> None:
        self.settler = settler
        self.transport: asyncio.Transport | None = None
        self.session_id = ""
        self.seq = 0
        # When the newest connection had told everything; 0 until then.
        self.level_at = 0.0
        # The newest number of each guild; absent before the first.
        self.heard: dict[int, int] = {}
        self._swarm = swarm
        # Whoever stands behind a proxy that tells addresses has one of their own.
        self._address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self._buffer = b""
        self._is_open = False
        self._guilds_left = 0
        self._attempt = 0

    # What asyncio calls.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._buffer, self._is_open = b"", False
        self.transport.write(_handshake(self._swarm.port, self._address))

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            self._buffer = rest
            if not self._take_head(head):
                return
        for opcode, payload in self._frames():
            if opcode == _CLOSE:
                self._swarm.closes[int.from_bytes(payload[:2], "big")] += 1
            else:
                self._hear(payload)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.level_at = 0.0
        self._swarm.lost(self)

    # What the swarm calls.

    def reset(self) -> None:
        """Break the connection off as a network does: by RST, without a word."""
        if self.transport is not None:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def forget(self) -> None:
        """Come back as somebody new."""
        self.session_id, self.seq = "", 0
        self.heard.clear()

    def backoff_s(self) -> float:
        """Full jitter, as the protocol asks for."""
        longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**self._attempt)
        self._attempt += 1
        return random.uniform(0, longest)  # noqa: S311

    def beat(self) -> None:
        if self._is_open and self.transport is not None:
            self.transport.write(_masked(b'{"op":1,"d":%d}' % self.seq))

    def _take_head(self, head: bytes) -> bool:
        """Whether the handshake was answered as hoped; else it is tried again later."""
        status = head[9:12].decode()
        self._swarm.statuses[status] += 1
        if status == "101":
            self._is_open = True
            return True
        found = re.search(rb"retry-after: *(\d+)", head, re.IGNORECASE)
        self._swarm.hints[self] = float(found[1]) if found else 0.0
        if self.transport is not None:
            self.transport.abort()
        return False

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        buffer, start = self._buffer, 0
        while len(buffer) >= start + 2:
            size, at = buffer[start + 1], start + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if len(buffer) < at + width:
                    break
                size = int.from_bytes(buffer[at : at + width], "big")
                at += width
            if len(buffer) < at + size:
                break
            yield buffer[start] & 0x0F, buffer[at : at + size]
            start = at + size
        self._buffer = buffer[start:]

    def _hear(self, frame: bytes) -> None:
        found = _POSITION.match(frame)
        if found is None:
            self._answer(frame)
            return
        kind = found[1]
        if kind == b"MESSAGE_CREATE":
            self._count(frame)
        elif kind == b"RESUMED":
            self._level()
        elif kind == b"READY":
            opened = _OPENED.search(frame)
            self.session_id = opened[1].decode() if opened else ""
            self._guilds_left = len(_GUILDS.findall(frame))
            if not self._guilds_left:
                self._level()
        elif kind == b"GUILD_CREATE" and self._guilds_left:
            self._guilds_left -= 1
            if not self._guilds_left:
                self._level()
        self.seq = int(found[2]) or self.seq

    def _answer(self, frame: bytes) -> None:
        if frame.startswith(b'{"op":10'):
            self._open()
        elif frame.startswith(b'{"op":9'):
            self._swarm.refused += 1
            self.forget()
            self._open()

    def _open(self) -> None:
        d: dict[str, object] = {"token": self.settler.token}
        if self.session_id:
            d |= {"session_id": self.session_id, "seq": self.seq}
        body = msgspec.json.encode({"op": 6 if self.session_id else 2, "d": d})
        if self.transport is not None:
            self.transport.write(_masked(body))

    def _count(self, frame: bytes) -> None:
        found = MARK.search(frame)
        if found is None:
            return
        guild, number = int(found[1]), int(found[2])
        before = self.heard.get(guild)
        if before is not None and number <= before:
            self._swarm.duplicated += 1
            return
        if before is not None:
            self._swarm.lost_messages += number - before - 1
        self.heard[guild] = number
        self._swarm.delivered += 1

    def _level(self) -> None:
        self._attempt = 0
        self.level_at = time.perf_counter()
        self._swarm.is_level(self)


class Swarm:
    """All clients, and what they found."""

    def __init__(self, port: int, settlers: Sequence[Settler]) -> None:
        self.port = port
        self.listeners = [Listener(self, who, number) for number, who in enumerate(settlers)]
        self.statuses: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.hints: dict[Listener, float] = {}
        self.refused = self.duplicated = self.lost_messages = self.delivered = 0
        self._is_over = False
        self._missing: set[Listener] = set(self.listeners)
        self._all_level = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def open(self, at_once: int = 64) -> None:
        """Open all of them for the first time, a few at once."""
        room = asyncio.Semaphore(at_once)

        async def open_one(listener: Listener) -> None:
            async with room:
                await self._connect(listener)
                while listener.level_at == 0.0:  # noqa: ASYNC110  # once, before any measurement
                    await asyncio.sleep(0.005)

        await asyncio.gather(*map(open_one, self.listeners))
        self._spawn(self._beat())

    def cut(self, listeners: Sequence[Listener]) -> float:
        """Reset these at once; the moment. Each comes back by itself."""
        self.statuses.clear()
        self.closes.clear()
        self._missing = set(listeners)
        self._all_level.clear()
        moment = time.perf_counter()
        for listener in listeners:
            listener.reset()
        return moment

    def expect_all(self) -> float:
        """As `cut`, for connections that somebody else is about to end."""
        self.statuses.clear()
        self.closes.clear()
        self._missing = set(self.listeners)
        self._all_level.clear()
        return time.perf_counter()

    async def all_level(self, within_s: float) -> int:
        """Wait until all are level again; how many are not."""
        try:
            async with asyncio.timeout(within_s):
                await self._all_level.wait()
        except TimeoutError:
            return len(self._missing)
        return 0

    async def close(self) -> None:
        self._is_over = True
        for task in self._tasks:
            task.cancel()
        for listener in self.listeners:
            listener.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What listeners tell.

    def is_level(self, listener: Listener) -> None:
        self._missing.discard(listener)
        if not self._missing:
            self._all_level.set()

    def lost(self, listener: Listener) -> None:
        if not self._is_over:
            self._spawn(self._come_back(listener))

    async def _come_back(self, listener: Listener) -> None:
        hint_s = self.hints.pop(listener, 0.0)
        jitter_s = random.uniform(0, hint_s)  # noqa: S311
        wait_s = hint_s + jitter_s if hint_s else listener.backoff_s()
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self._connect(listener)
            except OSError as fault:
                self.statuses[type(fault).__name__] += 1
                wait_s = listener.backoff_s()
            else:
                return

    async def _connect(self, listener: Listener) -> None:
        await self._loop.create_connection(lambda: listener, "127.0.0.1", self.port)

    async def _beat(self) -> None:
        """Heartbeats, spread evenly."""
        while True:
            for listener in self.listeners:
                listener.beat()
                await asyncio.sleep(_HEARTBEAT_S / len(self.listeners))

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _handshake(port: int, address: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /gateway?v=10&encoding=json HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"X-Forwarded-For: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def _masked(payload: bytes) -> bytes:
    """A text frame of a client, under a mask of zeros: the server unmasks it all the same."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + bytes(4) + payload
