"""Clients that keep the server waiting, and clients that come in crowds.

Time is told by a connection that says nothing: when the server has closed it, the limit for heads
has passed. Limits that a test is not about are far away.
"""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import NamedTuple

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from structlog.testing import capture_logs

from internal.middleware.connections import Connections, Limits
from internal.middleware.errors import errors
from internal.middleware.runner import Connection, Runner, Server
from tests.support.raw import Wires

FAR = 1000.0
SOON = 0.1
BIG = 16 << 20
HEAD = b"Host: here\r\n\r\n"
GET = b"GET /quick HTTP/1.1\r\n" + HEAD
LAST = b"GET /quick HTTP/1.1\r\nConnection: close\r\n" + HEAD


class Site(NamedTuple):
    """A server, its connections, and the gate that holds requests to /gate."""

    url: str
    open: Connections
    arrived: asyncio.Event
    gate: asyncio.Event


OpenSite = Callable[..., Awaitable[Site]]


async def quick(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="here you are")


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read())


async def big(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"x" * BIG)


def application(arrived: asyncio.Event, gate: asyncio.Event) -> web.Application:
    async def wait(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await gate.wait()
        return web.Response(text="at last")

    app = web.Application(middlewares=[errors()])
    app.router.add_get("/gate", wait)
    app.router.add_get("/big", big)
    app.router.add_get("/quick", quick)
    app.router.add_get("/live", quick)
    app.router.add_post("/quick", quick)
    app.router.add_post("/echo", echo)
    return app


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    opened = Wires()
    yield opened
    await opened.close()


@pytest.fixture
async def open_site(wires: Wires) -> AsyncIterator[OpenSite]:
    """Serve with limits of one's own: `open_site(head_s=SOON)`."""
    async with AsyncExitStack() as stack:

        async def open_one(**near: object) -> Site:
            far = {"head_s": FAR, "idle_s": FAR, "body_s": FAR, "unread_s": FAR, "sweep_s": 0.01}
            limits = Limits(**{**far, **near})  # type: ignore[arg-type]  # Each test has its own.
            arrived, gate = asyncio.Event(), asyncio.Event()
            runner = Runner(application(arrived, gate), limits=limits)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            assert isinstance(runner.server, Server)
            return Site(f"http://{host}:{port}", runner.server.open, arrived, gate)

        yield open_one
        # A server that stops waits for those who are connected.
        await wires.close()


async def head_limit_passes(wires: Wires, site: Site) -> None:
    assert await (await wires.open(site.url)).rest() == b""


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\nX"])
async def test_half_a_head_is_cut_off(open_site: OpenSite, wires: Wires, begun: bytes) -> None:
    site = await open_site(head_s=SOON)
    connection = await wires.open(site.url, begun)
    assert await connection.rest() == b""
    assert len(site.open) == 0


async def test_a_head_that_trickles_in_gains_no_time(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(head_s=SOON)
    connection = await wires.open(site.url, b"GET / HTTP/1.1\r\nX: ")
    ending = asyncio.create_task(connection.rest())
    async with asyncio.timeout(5):
        while not ending.done():
            connection.send(b"x")
            await asyncio.wait([ending], timeout=SOON / 5)
    assert ending.result() == b""


async def test_between_requests_there_is_time(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(head_s=SOON)
    connection = await wires.open(site.url, GET)
    assert (await connection.answer()).status == 200
    await head_limit_passes(wires, site)
    connection.send(GET)
    assert (await connection.answer()).status == 200
    await head_limit_passes(wires, site)
    connection.send(LAST)
    assert (await connection.answer()).status == 200


async def test_but_not_for_ever(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(idle_s=SOON)
    connection = await wires.open(site.url, GET + GET)
    assert (await connection.answer()).status == 200
    assert (await connection.answer()).status == 200
    assert await connection.rest() == b""


async def test_half_a_head_of_a_later_request_is_cut_off(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(head_s=SOON)
    connection = await wires.open(site.url, GET)
    assert (await connection.answer()).status == 200
    connection.send(b"GET /qui")
    assert await connection.rest() == b""


async def test_half_a_head_behind_a_request_under_way(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(head_s=SOON)
    connection = await wires.open(site.url, b"GET /gate HTTP/1.1\r\n" + HEAD)
    await site.arrived.wait()
    connection.send(b"GET /qui")
    await head_limit_passes(wires, site)
    site.gate.set()
    assert (await connection.answer()).content == b"at last"
    assert await connection.rest() == b""


async def test_the_server_itself_may_take_its_time(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(head_s=SOON, idle_s=SOON, body_s=0.0, unread_s=SOON)
    connection = await wires.open(site.url, b"GET /gate HTTP/1.1\r\n" + HEAD)
    await site.arrived.wait()
    await head_limit_passes(wires, site)
    site.gate.set()
    assert (await connection.answer()).content == b"at last"


POST = b"POST /echo HTTP/1.1\r\nHost: here\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        POST + b"Content-Length: 100\r\n\r\n{",
        POST + b"Content-Length: 100\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        GET + POST + b"Content-Length: 2\r\n\r\n{",
    ],
)
async def test_half_a_body_is_told_so(open_site: OpenSite, wires: Wires, begun: bytes) -> None:
    site = await open_site(body_s=SOON, max_body_size=0)
    connection = await wires.open(site.url, begun)
    if begun.startswith(GET):
        assert (await connection.answer()).status == 200
    answer = await connection.answer()
    assert answer.status == 408
    assert answer.json() == {"code": 90003, "message": "The body came too slowly"}
    assert answer.headers["Connection"] == "close"
    assert await connection.rest() == b""


async def test_a_body_that_trickles_in_gains_no_time(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(body_s=SOON, max_body_size=0)
    connection = await wires.open(site.url, POST + b"Content-Length: 1000\r\n\r\n")
    ending = asyncio.create_task(connection.answer())
    async with asyncio.timeout(5):
        while not ending.done():
            connection.send(b"x")
            await asyncio.wait([ending], timeout=SOON / 5)
    assert ending.result().status == 408


@pytest.mark.parametrize(
    "length", [b"Content-Length: 10\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["told", "chunks"]
)
async def test_a_longer_body_has_longer(open_site: OpenSite, wires: Wires, length: bytes) -> None:
    site = await open_site(head_s=SOON, body_s=0.0, body_bytes_per_s=0.01, max_body_size=10)
    is_chunked = b"chunked" in length
    connection = await wires.open(site.url, POST + length + b"\r\n")
    await head_limit_passes(wires, site)
    connection.send(b"a\r\n0123456789\r\n0\r\n\r\n" if is_chunked else b"0123456789")
    assert (await connection.answer()).content == b"0123456789"
    connection.send(GET)
    assert (await connection.answer()).status == 200


async def test_what_came_in_time_is_over(open_site: OpenSite, wires: Wires) -> None:
    """Once a body is there, and an answer read, their limits concern nobody any more."""
    site = await open_site(head_s=6 * SOON, body_s=5 * SOON, unread_s=5 * SOON, max_body_size=0)
    connection = await wires.open(
        site.url, POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    assert (await connection.answer()).status == 100
    connection.send(b"{}")
    assert (await connection.answer()).content == b"{}"
    await head_limit_passes(wires, site)
    connection.send(b"GET /big HTTP/1.1\r\n" + HEAD)
    assert len((await connection.answer()).content) == BIG
    await head_limit_passes(wires, site)
    connection.send(GET)
    assert (await connection.answer()).status == 200


async def test_a_body_that_nobody_reads_is_not_waited_for(
    open_site: OpenSite, wires: Wires
) -> None:
    site = await open_site(body_s=SOON, max_body_size=0)
    connection = await wires.open(
        site.url, b"POST /quick HTTP/1.1\r\nContent-Length: 9\r\n" + HEAD + b"{"
    )
    assert (await connection.answer()).status == 200
    assert await connection.rest() == b""


async def test_a_client_that_stops_listening_is_told_no_more_but_cut(
    open_site: OpenSite, wires: Wires
) -> None:
    site = await open_site(head_s=SOON)
    connection = await wires.open(site.url, b"GET /gate HTTP/1.1\r\n" + HEAD)
    await site.arrived.wait()
    await connection.close()
    site.gate.set()
    async with asyncio.timeout(5):
        while len(site.open):
            await head_limit_passes(wires, site)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_is_not_read_is_cut_off(
    open_site: OpenSite, wires: Wires, version: bytes
) -> None:
    site = await open_site(head_s=SOON, unread_s=SOON)
    host, port = site.url.removeprefix("http://").split(":")
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)  # noqa: FBT003  # It takes no keyword.
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, (host, int(port)))
        await loop.sock_sendall(peer, b"GET /big HTTP/" + version + b"\r\n" + HEAD)
        assert await loop.sock_recv(peer, 12) == b"HTTP/" + version + b" 200"
        async with asyncio.timeout(5):
            while len(site.open):
                await head_limit_passes(wires, site)


async def test_who_is_sent_away_has_to_go(open_site: OpenSite, wires: Wires) -> None:
    """Closing a connection waits for its reader, and so it has a limit as well."""
    site = await open_site()
    await wires.open(site.url, b"GET /gate HTTP/1.1\r\n" + HEAD)
    await site.arrived.wait()
    (held,) = site.open._open
    assert isinstance(held, Connection)
    assert held.deadline == math.inf
    held.force_close()
    assert held.deadline < math.inf
    site.gate.set()


# Crowds.


async def test_no_more_connections_than_there_may_be(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(connections=2, trusted_proxies=[ip_network("127.0.0.0/8")])
    first = await wires.open(site.url, GET)
    second = await wires.open(site.url, GET)
    assert (await first.answer()).status == (await second.answer()).status == 200
    with capture_logs() as lines:
        third = await wires.open(site.url, GET)
        refusal = await third.answer()
        assert refusal.status == 503
        assert refusal.json()["code"] == 90004
        assert 1 <= int(refusal.headers["Retry-After"]) <= 5
        assert await third.rest() == b""
        first.send(LAST)
        assert (await first.answer()).status == 200
        await first.rest()
        fourth = await wires.open(site.url, GET)
        assert (await fourth.answer()).status == 200
        async with asyncio.timeout(5):
            while not lines:
                second.send(GET)
                await second.answer()
    assert lines[0]["event"] == "connections_refused"
    assert lines[0]["count"] == 1


PROBE = b"GET /live HTTP/1.1\r\n" + HEAD


async def fill(open_site: OpenSite, wires: Wires, **near: object) -> Site:
    """A site whose only place is taken by half a head."""
    site = await open_site(connections=1, **near)
    await wires.open(site.url, b"POST /echo HTTP/1.1\r\nHost: here\r\n")
    async with asyncio.timeout(5):
        while not len(site.open):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0)
    return site


async def test_a_full_server_answers_probes_and_nothing_else(
    open_site: OpenSite, wires: Wires
) -> None:
    site = await fill(open_site, wires)
    for _ in range(3):
        probe = await wires.open(site.url, PROBE + GET)
        answer = await probe.answer()
        assert answer.status == 200
        assert answer.headers["Connection"] == "close"
        # Whoever comes in by a probe gets nothing else.
        assert await probe.rest() == b""
        for other in (GET, b"GET /live2 HTTP/1.1\r\n", b"POST /live HTTP/1.1\r\n", b"x" * 5_000):
            assert (await wires.ask(site.url, other)).status == 503
    assert (await wires.ask(site.url, b"GET /live?from=here HTTP/1.1\r\n" + HEAD)).status == 200


async def test_a_probe_may_come_in_pieces(open_site: OpenSite, wires: Wires) -> None:
    site = await fill(open_site, wires)
    probe = await wires.open(site.url)
    for byte in PROBE:
        probe.send(bytes((byte,)))
        await probe.writer.drain()
        await asyncio.sleep(0)
    assert (await probe.answer()).status == 200


async def test_the_silent_do_not_keep_probes_out(open_site: OpenSite, wires: Wires) -> None:
    site = await fill(open_site, wires, reserve=2)
    silent = [await wires.open(site.url, b"GET /live HTTP/1.1\r\n") for _ in range(5)]
    for connection in silent[:3]:
        assert (await connection.answer()).status == 503
        assert await connection.rest() == b""
    assert (await wires.ask(site.url, PROBE)).status == 200
    assert (await silent[3].answer()).status == 503
    # The newest kept its place.
    silent[4].send(HEAD)
    assert (await silent[4].answer()).status == 200


async def test_who_is_silent_beyond_the_limit_is_refused_soon(
    open_site: OpenSite, wires: Wires
) -> None:
    site = await fill(open_site, wires, reserve_head_s=SOON)
    silent = await wires.open(site.url)
    assert (await silent.answer()).status == 503
    assert await silent.rest() == b""
    half = await wires.open(site.url, b"GET /live HTTP/1.1\r\nHost: he")
    assert (await half.answer()).status == 503
    assert len(site.open) == 1


async def test_no_more_of_one_address(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(per_address=1)
    first = await wires.open(site.url, GET)
    assert (await first.answer()).status == 200
    assert (await (await wires.open(site.url)).answer()).status == 503
    first.send(LAST)
    await first.rest()
    assert (await wires.ask(site.url, GET)).status == 200


async def test_a_trusted_proxy_may_have_any_number(open_site: OpenSite, wires: Wires) -> None:
    site = await open_site(per_address=1, trusted_proxies=[ip_network("127.0.0.0/8")])
    for _ in range(5):
        assert (await wires.ask(site.url, GET)).status == 200
    assert len(site.open) == 5


class Peer:
    """As much of a connection as counts."""

    deadline = read_by = FAR * FAR
    is_at_rest = True

    def force_close(self) -> None:
        raise AssertionError("nothing stops")

    def expire(self, now: float) -> None:
        raise AssertionError(f"nothing is due at {now}")

    def refuse(self) -> None:
        raise AssertionError("there is room")


async def test_neighbours_count_as_one() -> None:
    opened = Connections(Limits(per_address=2))
    near = [Peer(), Peer(), Peer()]
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8::3"]
    entered = [
        opened.enter(peer, (address, 4711, 0, 0))
        for peer, address in zip(near, addresses, strict=True)
    ]
    assert entered == [True, True, False]
    assert opened.enter(Peer(), ("2001:db8:0:1::1", 4711, 0, 0))
    opened.leave(near[0])
    opened.leave(near[0])
    assert opened.enter(near[2], (addresses[2], 4711, 0, 0))
    assert not opened.enter(near[0], (addresses[0], 4711, 0, 0))


def test_the_parts_of_aiohttp_that_are_touched_are_there() -> None:
    """A new version that changes them must fail here."""
    slots = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    assert {"_loop", "_messages", "_request_count", "transport"} <= slots
    for name in ("data_received", "pause_writing", "resume_writing", "force_close"):
        assert callable(getattr(RequestHandler, name))
    assert asyncio.iscoroutinefunction(RequestHandler.finish_response)
