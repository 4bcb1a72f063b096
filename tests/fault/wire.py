"""A line between two programs, which can be cut, refuse, or swallow what is put into it."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias, cast

from typing_extensions import override

# How many turns of the loop it takes to hand an accepted connection to its protocol.
_HAND_OVER = 4
# Where a line leads to: a host with a port, or a Unix socket.
Address: TypeAlias = tuple[str, int] | Path
State: TypeAlias = Literal["open", "shut", "black"]


def close_server(server: asyncio.Server) -> asyncio.Task[None]:
    """Let nobody in from now on, and lose nobody who was just let in; the task ends with that.

    asyncio's own close() forgets a connection that was accepted and has no protocol yet: an
    assertion about the server fails within, and the socket stays open without an owner (CPython
    3.11). So the listening ends at once, and the server when all have been handed over.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
    return asyncio.create_task(_close_when_handed_over(server))


async def _close_when_handed_over(server: asyncio.Server) -> None:
    for _ in range(_HAND_OVER):
        await asyncio.sleep(0)
    server.close()


class Wire:
    """A TCP proxy whose port stays.

    *Shut*, it refuses connections and has cut those that there were. *Black*, it swallows every
    byte, the end of a connection included: neither side is told anything. A connection that lost a
    byte that way stays dead for both sides when the line is open again, as one does whose state a
    firewall has forgotten; one that nobody used meanwhile goes on.
    """

    def __init__(self, leads_to: Callable[[], Address]) -> None:
        self.state: State = "open"
        # Bytes that came from those who connect here; that were swallowed, from both sides.
        self.sent = 0
        self.swallowed = 0
        self.port = 0
        self.is_over = False
        self.pairs: set[Pair] = set()
        self._leads_to = leads_to
        self._server: asyncio.Server | None = None
        self._closing: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self.open()

    async def stop(self) -> None:
        """End it for good, with everything that still hangs on to it."""
        self.is_over = True
        self._close()
        if self._closing is not None:
            await self._closing
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for pair in list(self.pairs):
            pair.abort()

    async def open(self) -> None:
        """Carry again, at the same port."""
        self.state = "open"
        if self._closing is not None:
            await self._closing
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Pair(self).near, "127.0.0.1", self.port, backlog=1024
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> int:
        """Refuse, and cut what is there; the number of connections that this hit."""
        self.state = "shut"
        self._close()
        hit = [pair for pair in self.pairs if not pair.is_dead]
        for pair in hit:
            pair.abort()
        return len(hit)

    def blacken(self) -> int:
        """Swallow from now on; the number of connections that there are."""
        self.state = "black"
        return len(self.pairs)

    def join(self, pair: "Pair") -> None:
        """Connect the other end of a new pair."""
        self.pairs.add(pair)
        task = asyncio.create_task(self._join(pair))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _join(self, pair: "Pair") -> None:
        loop, address = asyncio.get_running_loop(), self._leads_to()
        try:
            if isinstance(address, Path):
                await loop.create_unix_connection(lambda: pair.far, str(address))
            else:
                await loop.create_connection(lambda: pair.far, *address)
        except OSError:
            # Nobody is there at the other end.
            pair.abort()

    def _close(self) -> None:
        if self._server is not None:
            self._closing = close_server(self._server)
            self._server = None


class Pair:
    """A connection through a line: the near end is whoever connected, the far one is reached."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.near = End(self)
        self.far = End(self)
        self.is_dead = False
        # What came before the far end was reached.
        self.early: list[bytes] = []

    def other(self, end: "End") -> "End":
        return self.far if end is self.near else self.near

    @property
    def swallows(self) -> bool:
        """Whether what comes now is lost; from the first time on, all is."""
        self.is_dead = self.is_dead or self.wire.state == "black"
        return self.is_dead

    def abort(self) -> None:
        for end in (self.near, self.far):
            if end.transport is not None:
                end.transport.abort()
        self.forget()

    def forget(self) -> None:
        self.wire.pairs.discard(self)


class End(asyncio.Protocol):
    """One end of a connection through a line."""

    def __init__(self, pair: Pair) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_over = False
        self._pair = pair

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none by their class.
        self.transport = transport = cast("asyncio.Transport", transport)
        pair = self._pair
        if self is pair.far:
            if pair.near.is_over and not pair.is_dead:
                transport.abort()
            for data in pair.early:
                transport.write(data)
            pair.early.clear()
        elif pair.wire.is_over:
            # Somebody was let in just before the end.
            transport.abort()
        elif not pair.swallows:
            pair.wire.join(pair)
        else:
            # Somebody answers the handshake and nothing after it.
            pair.wire.pairs.add(pair)

    @override
    def data_received(self, data: bytes) -> None:
        pair = self._pair
        if self is pair.near:
            pair.wire.sent += len(data)
        if pair.swallows:
            pair.wire.swallowed += len(data)
            return
        target = pair.other(self).transport
        if target is not None:
            target.write(data)
        else:
            pair.early.append(data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True
        pair = self._pair
        other = pair.other(self)
        if not pair.swallows and other.transport is not None:
            other.transport.close()
        if other.is_over or other.transport is None:
            pair.forget()

    @override
    def pause_writing(self) -> None:
        self._reading(lambda source: source.pause_reading())

    @override
    def resume_writing(self) -> None:
        self._reading(lambda source: source.resume_reading())

    def _reading(self, change: Callable[[asyncio.Transport], None]) -> None:
        source = self._pair.other(self).transport
        if source is not None and not source.is_closing():
            with suppress(RuntimeError):
                change(source)
