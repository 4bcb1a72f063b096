"""More requests than a server can take, by clients that wait for no answer before the next."""

import asyncio
import time
from collections import Counter, deque
from typing import cast

from typing_extensions import override


class Pipe(asyncio.Protocol):
    """A keep-alive connection with one request under way at a time."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        self._flood.answered(self, int(head[9:12]))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._flood.lost()


class Flood:
    """One request again and again, over many connections."""

    def __init__(self, url: str, path: str, token: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        self._pipes: list[Pipe] = []
        self._idle: deque[Pipe] = deque()
        self._answers: Counter[int] = Counter()
        self._goes_on = False
        self._is_over = False

    async def open(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, pipe = await loop.create_connection(lambda: Pipe(self), self._host, self._port)
            self._pipes.append(pipe)
        self._idle.extend(self._pipes)

    async def as_fast_as_answered(self, connections: int, seconds: float) -> float:
        """Ask the next when the last was answered; the answers per second."""
        self._answers.clear()
        self._goes_on = True
        for _ in range(connections):
            self._ask()
        began = time.monotonic()
        await asyncio.sleep(seconds)
        rate = self._answers.total() / (time.monotonic() - began)
        self._goes_on = False
        await self._all_answered()
        return rate

    async def at_pace(self, per_s: float, seconds: float) -> Counter[int]:
        """Ask at this pace, answered or not; how often each status came.

        When no connection is free, nobody asks: more could not wait at the server either.
        """
        self._answers.clear()
        began, asked = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            for _ in range(int(passed * per_s) - asked):
                asked += 1
                if self._idle:
                    self._ask()
            await asyncio.sleep(0.005)
        await self._all_answered()
        return self._answers

    def close(self) -> None:
        self._is_over = True
        for pipe in self._pipes:
            pipe.close()

    def answered(self, pipe: Pipe, status: int) -> None:
        self._answers[status] += 1
        self._idle.append(pipe)
        if self._goes_on:
            self._ask()

    def lost(self) -> None:
        # A connection that ends before its answer is as bad as a refusal.
        if not self._is_over:
            self._answers[0] += 1

    def _ask(self) -> None:
        self._idle.popleft().ask(self._request)

    async def _all_answered(self) -> None:
        async with asyncio.timeout(20):
            while len(self._idle) < len(self._pipes):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
