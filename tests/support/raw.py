"""A connection of plain bytes: what no client library would send, and what comes back."""

import asyncio
from typing import Self

from multidict import CIMultiDict, CIMultiDictProxy

from tests.support.people import Answer

PATIENCE_S = 10.0
HANDSHAKE = (
    "Host: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


class RawConnection:
    """One TCP connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        host, port = url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=1 << 24))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> Answer:
        """The next answer to a request."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            headers: CIMultiDict[str] = CIMultiDict()
            for line in lines:
                name, _, value = line.partition(": ")
                headers.add(name, value)
            body = await self._reader.readexactly(int(headers.get("Content-Length", "0")))
        return Answer(int(status.split(" ")[1]), CIMultiDictProxy(headers), body)

    async def frame(self) -> tuple[int, bytes]:
        """The opcode and the payload of the next frame of a WebSocket."""
        async with asyncio.timeout(PATIENCE_S):
            head, size = await self._reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
            return head & 0x0F, await self._reader.readexactly(size)

    async def close_code(self) -> int:
        """Read on to the closing frame; its code."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2])

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, which it must."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.transport.abort()
        # The loop's next round tells the protocol that it is over.
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


class Wires:
    """Opens connections, and breaks all of them off at the end."""

    def __init__(self) -> None:
        self._open: list[RawConnection] = []

    async def open(self, url: str, data: bytes = b"") -> RawConnection:
        """Connect, and say something at once."""
        connection = await RawConnection.open(url)
        self._open.append(connection)
        connection.send(data)
        return connection

    async def ask(self, url: str, data: bytes) -> Answer:
        """The answer to a request, whatever follows it."""
        return await (await self.open(url, data)).answer()

    async def upgraded(self, url: str, path: str = "/gateway", more: str = "") -> RawConnection:
        """A WebSocket after its handshake, with HELLO already read."""
        connection = await self.open(url, f"GET {path} HTTP/1.1\r\n{HANDSHAKE}{more}\r\n".encode())
        answer = await connection.answer()
        assert answer.status == 101, answer
        _, hello = await connection.frame()
        assert b"heartbeat_interval" in hello
        return connection

    async def close(self) -> None:
        for connection in self._open:
            await connection.close()
