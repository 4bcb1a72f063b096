"""The line between two programs does what a bad network does."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.fault.wire import Wire


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A line to a server that says everything back."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    made = Wire(lambda: (host, port))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        server.close()
        await server.wait_closed()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


class Caller:
    """Somebody at the near end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def says(self, words: bytes, *, within: float = 5) -> bytes:
        """Say something; the answer, and nothing at all when the connection has ended."""
        self._writer.write(words)
        async with asyncio.timeout(within):
            return await self._reader.read(1000)

    async def is_cut_off(self) -> bool:
        try:
            return not await self.says(b"still there?")
        except ConnectionError:
            return True

    async def hears_nothing(self, words: bytes) -> bool:
        try:
            await self.says(words, within=0.1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def calling(wire: Wire) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


async def test_an_open_line_carries_both_ways(wire: Wire) -> None:
    async with calling(wire) as caller:
        assert await caller.says(b"hello") == b"hello"
        assert await caller.says(b"again") == b"again"
    assert wire.sent == 10


async def test_a_shut_line_cuts_and_refuses_until_it_is_open_again(wire: Wire) -> None:
    port = wire.port
    async with calling(wire) as caller:
        await caller.says(b"hello")
        assert wire.shut() == 1
        assert await caller.is_cut_off()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await wire.open()
    assert wire.port == port
    async with calling(wire) as caller:
        assert await caller.says(b"hello") == b"hello"


async def test_what_a_black_line_swallowed_never_comes_and_its_connection_stays_dead(
    wire: Wire,
) -> None:
    async with calling(wire) as used, calling(wire) as unused:
        await used.says(b"hello")
        await unused.says(b"hello")
        wire.blacken()
        assert await used.hears_nothing(b"lost")
        async with calling(wire) as newcomer:
            assert await newcomer.hears_nothing(b"hello?")
        await wire.open()
        assert await used.hears_nothing(b"anybody?")
        assert await unused.says(b"here") == b"here"
        async with calling(wire) as newcomer:
            assert await newcomer.says(b"hello") == b"hello"
    assert wire.swallowed == len(b"lost" + b"hello?" + b"anybody?")


async def test_neither_side_of_a_black_line_hears_of_the_others_end(wire: Wire) -> None:
    async with calling(wire) as caller:
        await caller.says(b"hello")
        (pair,) = wire.pairs
        wire.blacken()
        await caller.hears_nothing(b"lost")
    # The far end is still connected, though nobody is at the near one.
    assert pair.far.transport is not None
    assert not pair.far.transport.is_closing()
    assert wire.pairs == {pair}


async def test_whoever_is_let_in_while_a_line_is_shut_keeps_no_socket_open(wire: Wire) -> None:
    # What is left open is found by the collector: the suite makes errors of such warnings.
    for turns in range(5):
        caller = socket.create_connection(("127.0.0.1", wire.port))
        for _ in range(turns):
            await asyncio.sleep(0)
        wire.shut()
        await wire.open()
        await asyncio.to_thread(caller.close)
    gc.collect()
