"""A bad line between a client and a node: it stalls, and breaks off in the midst of a frame."""

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from tests.fault.wire import close_server

_PIECE = 4096
_SEGMENT = 536
# Out of so many pieces one is held back, on an average for so long.
_STALLS = 0.004
_STALL_S = 2.0
_MANY = 1 << 60


class FlakyLine:
    """A TCP proxy. Each connection through it lives for a number of bytes that chance decides."""

    def __init__(self, node: Callable[[], str], chance: random.Random, *, mean: int | None) -> None:
        """`mean` is the number of bytes from the node after which a connection breaks off.

        Without it the line is a good one, but for what `slow_down` makes of it.
        """
        self.cuts = 0
        # Once it is set, the line is a good one.
        self.calm = asyncio.Event()
        # Bytes a second that a connection carries to a client; None for as many as come.
        self._pace: int | None = None
        self._quicker = asyncio.Event()
        self._node = node
        self._chance = chance
        self._mean = mean
        if mean is None:
            self.calm.set()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        await close_server(self._server)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def slow_down(self, bytes_per_s: int) -> None:
        """Carry no more than this to each client; 0 is nothing at all, without an end."""
        self._pace = bytes_per_s
        self._quicker.clear()

    def speed_up(self) -> None:
        self._pace = None
        self._quicker.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError):
                await self._join(reader, writer)
        finally:
            self._serving.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._node())
        line = socket.socket()
        # Little room on the way, so that a reader who stalls is felt by the node: what a kernel
        # keeps for a sender grows with the size of the segments, which is huge on one machine.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        line.setblocking(False)  # noqa: FBT003
        try:
            await asyncio.get_running_loop().sock_connect(line, (parts.hostname, parts.port))
        except OSError:
            line.close()
            raise
        upstream, up = await asyncio.open_connection(sock=line, limit=_PIECE)
        bytes_left = int(self._chance.expovariate(1 / self._mean)) if self._mean else _MANY
        ways = [
            asyncio.create_task(self._carry(reader, up, None)),
            asyncio.create_task(self._carry(upstream, writer, bytes_left)),
        ]
        # Whichever end is lost, the other one is let go.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        up.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: int | None
    ) -> None:
        """Hand on what comes, up to `left` bytes: the last piece is cut where that ends."""
        while data := await source.read(_PIECE):
            if left is not None and not self.calm.is_set():
                data = data[:left]
                left -= len(data)
                if self._chance.random() < _STALLS:
                    await self._stall()
            if left is not None and self._pace is not None:
                await self._dawdle(len(data))
            target.write(data)
            await target.drain()
            if left == 0:
                self.cuts += 1
                return

    async def _dawdle(self, size: int) -> None:
        """Wait for as long as so many bytes take at this pace."""
        patience = size / self._pace if self._pace else None
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._quicker.wait()

    async def _stall(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._chance.expovariate(1 / _STALL_S)):
                await self.calm.wait()
