"""What the gateway relies on in aiohttp: a new version that changes it must fail here."""

import asyncio
import gc
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from internal import serve
from internal.app import open_app
from internal.config.config import Config
from internal.middleware.connections import Limits
from internal.middleware.runner import Runner
from tests.support.people import Person, Town
from tests.support.raw import Wires


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    opened = Wires()
    yield opened
    await opened.close()


def test_the_parts_that_are_touched_are_there() -> None:
    slots = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    assert "_message_tail" in slots
    assert "transport" in slots
    assert callable(RequestHandler.connection_lost)
    assert callable(web.Response.prepare)


async def test_what_arrives_with_the_handshake_is_read(town: Town, ada: Person) -> None:
    """A client that does not wait for the 101 loses nothing."""
    host, port = town.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"op":2,"d":{"token":"%s"}}' % ada.access_token.encode()
    writer.write(
        b"GET /gateway HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        + Frame(Opcode.TEXT, body).serialize(mask=True)
    )
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        await reader.readuntil(b'"t":"READY"')
    writer.close()
    await writer.wait_closed()


async def test_aiohttp_lets_go_of_a_connection_that_was_taken_over(town: Town, ada: Person) -> None:
    """Neither its protocol object nor its task lives on beside ours."""
    assert town.app is not None
    gateway = town.app.gateway
    url = f"{town.url.replace('http', 'ws')}/gateway?token={ada.access_token}"
    async with connect(url) as socket:
        async with asyncio.timeout(5):
            while b'"READY"' not in await socket.recv(decode=False):
                continue
        gc.collect()
        held = [thing for thing in gc.get_objects() if isinstance(thing, RequestHandler)]
        transports = {client.transport for client in gateway.clients}
        assert not [h for h in held if h.transport in transports]
    async with asyncio.timeout(5), aiohttp.ClientSession() as http:
        while gateway.clients:
            await http.get(f"{town.url}/live")


async def test_the_limits_of_http_do_not_reach_a_socket(config: Config, wires: Wires) -> None:
    """It neither counts as a connection nor has to send a request in time."""
    limits = Limits(head_s=0.1, idle_s=0.1, body_s=0.1, unread_s=0.1, sweep_s=0.01, connections=1)
    async with (
        open_app(config) as app,
        serve.listen(Runner(app.web, limits=limits), "127.0.0.1", 0, "PORT") as port,
    ):
        url = f"http://127.0.0.1:{port}"
        ada = await wires.upgraded(url)
        bob = await wires.upgraded(url)
        silent = await wires.open(url)
        assert await silent.rest() == b""
        for socket in (ada, bob):
            socket.send(Frame(Opcode.PING, b"still here").serialize(mask=True))
            assert await socket.frame() == (Opcode.PONG, b"still here")
