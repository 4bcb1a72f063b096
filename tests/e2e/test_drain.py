"""A stop: everybody is sent elsewhere in good order, and nobody can hold the server up."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.e2e.conftest import OpenTown, StartServer
from tests.support.gateway import Op
from tests.support.people import Api, Person, Town
from tests.support.process import ServerProcess
from tests.support.raw import HANDSHAKE, RawConnection, Wires

GET = "GET {} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {}\r\n\r\n"


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    opened = Wires()
    yield opened
    await opened.close()


def asks(wire: RawConnection, path: str, person: Person) -> None:
    wire.send(GET.format(path, person.access_token).encode())


async def stopping(server: ServerProcess) -> "asyncio.Task[int]":
    """Ask the server to stop, and wait until it has understood; its exit code is to come."""
    ending = asyncio.create_task(server.stop())
    await server.says('"stopping"')
    return ending


async def refuses_connections(wires: Wires, server: ServerProcess) -> None:
    """Wait until nobody is let in any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                wire = await wires.open(server.url)
            except ConnectionError:
                return
            await wire.close()


async def test_it_goes_on_serving_until_a_balancer_has_noticed(
    start_server: StartServer, http: aiohttp.ClientSession, wires: Wires
) -> None:
    server = await start_server(DRAIN_DELAY="2")
    town = Town(http, lambda: server.url)
    ada = await town.person("ada")
    guild = await town.guild(ada)
    await ada.connect()
    old = await wires.open(server.url)
    asks(old, "/users/@me", ada)
    assert "Connection" not in (await old.answer()).headers
    ending = await stopping(server)

    ready = await town.stranger.call("GET", "/ready")
    assert (ready.status, ready.headers.get("Connection")) == (503, "close")
    assert (await town.stranger.call("GET", "/live")).status == 200
    # Who is connected stays so for now, and who is not goes elsewhere at once.
    said = await ada.say(guild.channel_id, "still here")
    await ada.gateway.expect("MESSAGE_CREATE", id=said["id"])
    newcomer = await wires.open(server.url)
    newcomer.send(f"GET /gateway HTTP/1.1\r\n{HANDSHAKE}\r\n".encode())
    refusal = await newcomer.answer()
    assert refusal.status == 503
    assert int(refusal.headers["Retry-After"]) >= 1
    asks(old, "/users/@me", ada)
    answer = await old.answer()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert await old.rest() == b""

    await ada.gateway.expect_op(Op.RECONNECT)
    await ada.gateway.expect_close(4900)
    assert await ending == 0
    await town.close()


async def test_a_request_on_an_open_connection_is_served_while_nobody_is_let_in(
    server: ServerProcess, city: Town, wires: Wires
) -> None:
    ada = await city.person("ada")
    wire = await wires.open(server.url)
    asks(wire, "/users/@me", ada)
    assert (await wire.answer()).status == 200
    ending = await stopping(server)
    await refuses_connections(wires, server)
    asks(wire, "/users/@me", ada)
    answer = await wire.answer()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert await wire.rest() == b""
    assert await ending == 0


async def test_a_request_that_has_begun_is_finished(
    server: ServerProcess, city: Town, wires: Wires
) -> None:
    ada = await city.person("ada")
    guild = await city.guild(ada)
    body = b'{"channel_id":"%b","content":"the end of it"}' % guild.channel_id.encode()
    wire = await wires.open(server.url)
    head = (
        f"POST /messages HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {ada.access_token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    wire.send(head.encode() + body[:10])
    ending = await stopping(server)
    await refuses_connections(wires, server)
    wire.send(body[10:])
    answer = await wire.answer()
    assert (answer.status, answer.headers["Connection"]) == (201, "close")
    assert await ending == 0


async def test_nobody_can_hold_it_up(
    start_server: StartServer, http: aiohttp.ClientSession, wires: Wires
) -> None:
    """Half a request, an idle connection, a head that never ends, a socket that is not read."""
    server = await start_server(SHUTDOWN_TIMEOUT="1", SLOW_READER_BYTES="16KiB")
    town = Town(http, lambda: server.url)
    ada = await town.person("ada")
    guild = await town.guild(ada)
    await ada.connect()
    deaf = await ada.watch()
    deaf.stop_reading()
    for _ in range(300):
        await ada.say(guild.channel_id, "x" * 2000)
    for beginning in (b"", b"GET / HTTP/1.1\r\n", b"POST /auth/login HTTP/1.1\r\n"):
        (await wires.open(server.url)).send(beginning)
    half = await wires.open(server.url)
    half.send(b"POST /auth/login HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
    began = time.monotonic()
    assert await server.stop() == 0
    # A second for idle connections, one for the rest, one for the last frames; and a busy machine.
    assert time.monotonic() - began < 8
    await deaf.abort()
    await town.close()


async def test_idle_connections_do_not_hold_it_up(
    start_server: StartServer, http: aiohttp.ClientSession, wires: Wires
) -> None:
    server = await start_server(SHUTDOWN_TIMEOUT="10")
    town = Town(http, lambda: server.url)
    ada = await town.person("ada")
    idle = await wires.open(server.url)
    asks(idle, "/users/@me", ada)
    assert (await idle.answer()).status == 200
    await wires.open(server.url)
    scraper = await wires.open(server.metrics_url.removesuffix("/metrics"))
    scraper.send(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
    assert (await scraper.answer()).status == 200
    began = time.monotonic()
    assert await server.stop() == 0
    # A second to linger, and a busy machine.
    assert time.monotonic() - began < 6
    assert await idle.rest() == b""
    await town.close()


async def test_what_was_acknowledged_during_the_drain_is_there_afterwards(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server(DRAIN_DELAY="1")
    town = Town(http, lambda: server.url)
    ada = await town.person("ada")
    guild = await town.guild(ada)
    acknowledged: list[str] = []
    ended = asyncio.Event()

    async def write(writer: int) -> None:
        number = 0
        while not ended.is_set():
            number += 1
            try:
                sent = await ada.say(guild.channel_id, f"{writer}:{number}")
            except aiohttp.ClientError:
                return
            acknowledged.append(sent["id"])

    writing = [asyncio.create_task(write(writer)) for writer in range(4)]
    ending = await stopping(server)
    before = len(acknowledged)
    assert await ending == 0
    ended.set()
    await asyncio.gather(*writing)
    assert len(acknowledged) > before

    await server.start()
    stored = await history(ada, guild.channel_id)
    assert set(acknowledged) <= stored
    await town.close()


async def test_farewells_are_spread_in_no_order_of_coming(open_town: OpenTown) -> None:
    town = await open_town(DRAIN_WINDOW="30")
    gateways = [await town.open_gateway() for _ in range(100)]
    told: list[int] = []

    async def wait(number: int) -> float:
        await gateways[number].expect_op(Op.RECONNECT)
        told.append(number)
        moment = time.monotonic()
        await gateways[number].expect_close(4900)
        return moment

    waiting = [asyncio.create_task(wait(number)) for number in range(len(gateways))]
    await town.stop_server()
    times = await asyncio.gather(*waiting)
    # Two milliseconds each, though the window is longer.
    assert 0.15 < max(times) - min(times) < 5
    assert told != sorted(told)


async def history(reader: Api, channel_id: str) -> set[str]:
    """The ids of all messages of a channel."""
    ids: list[str] = []
    while True:
        query = {"before": ids[-1]} if ids else {}
        page = await reader.get(f"/messages/channel/{channel_id}", limit=100, **query)
        ids += [message["id"] for message in page]
        if not page:
            return set(ids)
