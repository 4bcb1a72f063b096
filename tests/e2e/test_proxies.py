"""Two nodes behind HAProxy and behind nginx, with the configurations of deploy/."""

import asyncio
import itertools
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from yarl import URL

from tests.support.gateway import Frame, Gateway, GatewayClosed, Op
from tests.support.people import Guild, Person, Refused, Town
from tests.support.process import ServerProcess, free_port, is_running
from tests.support.proxies import Proxy, certificate, open_proxy
from tests.support.proxies import settings as proxy_settings

# The address that clients have; the proxy has another one of this machine.
CLIENT = "127.0.0.5"
TIMEOUT_S = 1
READERS = 6
WRITERS = 3
THE_END = "the end"
# For clients, while a node goes and comes.
PATIENCE_S = 40.0
# Longer than HAProxy's checks take to notice: one, and another one 500 ms later.
CHECK_INTERVAL = "200ms"
DRAIN_DELAY = "1500ms"
# So many connections of one address, where that is what is tried.
PER_ADDRESS = 2


class Site(NamedTuple):
    """A proxy, the nodes behind it, and everybody in front."""

    kind: str
    proxy: Proxy
    nodes: list[ServerProcess]
    town: Town


OpenSite = Callable[..., Awaitable[Site]]


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=["haproxy", "nginx"])
def kind(request: pytest.FixtureRequest) -> str:
    found = str(request.param)
    if shutil.which(found) is None and not Path("/usr/sbin", found).exists():
        pytest.skip(f"{found} is not installed")
    return found


def client_of(pem: Path) -> aiohttp.ClientSession:
    """Requests of a client that trusts the proxy."""
    context = ssl.create_default_context(cafile=str(pem))
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context, local_addr=(CLIENT, 0)),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def replace_all(changes: Mapping[str, str], text: str) -> str:
    """A configuration with other words, each of which it has."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
async def lonely(kind: str, pem: Path, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A proxy whose nodes are all gone."""
    environ = proxy_settings(tmp_path, pem, [], [free_port(), free_port()])
    async with open_proxy(kind, tmp_path, environ) as proxy:
        yield proxy


@pytest.fixture
async def open_site(
    kind: str,
    pem: Path,
    settings: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[OpenSite]:
    """Open two nodes on one database behind a proxy, with settings of the proxy's own."""
    # For the client of the gateway, which trusts what the system trusts.
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))

    async with AsyncExitStack() as stack:

        async def open_one(*, drain_delay: str = "0", **more: str) -> Site:
            ports = [free_port(), free_port()]
            public = {
                "PUBLIC_URL": f"https://127.0.0.1:{ports[0]}",
                "TRUSTED_PROXIES": "127.0.0.1",
                "DRAIN_DELAY": drain_delay,
                "DRAIN_WINDOW": "1",
                "SHUTDOWN_TIMEOUT": "5",
            }
            nodes = [
                ServerProcess(tmp_path / f"var{number}", {**settings, **public, **own})
                for number in range(2)
                for own in [{"DATA_DIR": str(tmp_path / f"var{number}")}]
            ]
            await asyncio.gather(*(stack.enter_async_context(node) for node in nodes))
            addresses = [node.url.removeprefix("http://") for node in nodes]
            environ = proxy_settings(tmp_path, pem, addresses, ports, **more)
            proxy = await stack.enter_async_context(open_proxy(kind, tmp_path, environ))
            http = await stack.enter_async_context(client_of(pem))
            town = Town(http, lambda: proxy.url)
            stack.push_async_callback(town.close)
            return Site(kind, proxy, nodes, town)

        yield open_one


async def test_rest_and_the_gateway_work_over_tls(open_site: OpenSite) -> None:
    site = await open_site()
    ada, bob = await site.town.person("ada"), await site.town.person("bob")
    guild = await site.town.guild(ada, bob)

    ready = (await bob.connect())[0]
    said = await ada.say(guild.channel_id, "hello")

    assert site.proxy.url.startswith("https://")
    assert ready.d["resume_gateway_url"].startswith(site.proxy.url.replace("https", "wss", 1))
    await bob.gateway.expect("MESSAGE_CREATE", id=said["id"])
    answer = await ada.call("GET", "/users/@me")
    assert "Strict-Transport-Security" in answer.headers


async def test_plain_http_is_sent_to_https(lonely: Proxy, pem: Path) -> None:
    plain = f"{lonely.plain_url}/guilds?limit=3"
    async with client_of(pem) as http, http.get(plain, allow_redirects=False) as answer:
        assert answer.status == 308
        assert answer.headers["Location"].startswith("https://127.0.0.1")
        assert answer.headers["Location"].endswith("/guilds?limit=3")


async def test_the_address_of_the_client_arrives_and_a_made_up_one_does_not(
    open_site: OpenSite,
) -> None:
    site = await open_site()
    ada = Person(site.town, "ada")
    ada.headers["X-Forwarded-For"] = "203.0.113.7"
    ada.headers["Forwarded"] = "for=203.0.113.7"
    await ada.register()

    assert [session["address"] for session in await ada.get("/auth/sessions")] == [CLIENT]


async def test_a_socket_outlives_the_timeouts_of_http(open_site: OpenSite, pem: Path) -> None:
    site = await open_site(PROXY_TIMEOUT=f"{TIMEOUT_S}s")
    # Past the proxy, whose patience is for the socket alone here.
    inside = Town(site.town.http, lambda: site.nodes[0].url)
    ada, bob = await inside.people(2)
    guild = await inside.guild(ada, bob)
    bob.town = site.town
    await bob.connect()

    # The measure: connections that rest as long as HTTP may, one after the other.
    context = ssl.create_default_context(cafile=str(pem))
    for _ in range(2):
        await rest_until_closed(site.proxy.port, context)

    said = await ada.say(guild.channel_id, "still there?")
    await bob.gateway.expect("MESSAGE_CREATE", id=said["id"])
    await bob.gateway.heartbeat()


async def rest_until_closed(port: int, context: ssl.SSLContext) -> None:
    """Ask once, say nothing more, and see the proxy hang up."""
    async with asyncio.timeout(TIMEOUT_S * 10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_token_in_an_address_is_not_logged(open_site: OpenSite) -> None:
    site = await open_site()
    ada = await site.town.person("ada")
    gateway = await site.town.open_gateway(f"/gateway?token={ada.access_token}")
    await gateway.expect("READY")
    await gateway.close()
    for node in site.nodes:
        await node.kill()
    with pytest.raises(InvalidHandshake):
        await site.town.open_gateway(f"/gateway?token={ada.access_token}")

    await site.proxy.says(" 503 ")
    assert "/gateway" in site.proxy.output
    assert ada.access_token not in site.proxy.output


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_nodes_the_answer_has_the_one_shape_of_errors(
    lonely: Proxy, pem: Path, method: str
) -> None:
    async with client_of(pem) as http, http.request(method, f"{lonely.url}/live") as answer:
        assert answer.status == 503
        assert await answer.json() == {
            "code": 90004,
            "message": "The server can't do this now; try again",
            "retry_after": 1.0,
        }
        assert answer.headers["Retry-After"] == "1"


# What each asks for, and how often nodes are asked that hang up.
ATTEMPTS = [
    ("POST", "/messages", {1}),
    ("PATCH", "/users/@me", {1}),
    ("PUT", "/admin/users/1/role?why=%2F", {1}),
    ("DELETE", "/messages/1?why=%2F", {1}),
    ("GET", "/gateway", {3, 4}),
]


async def test_what_may_have_been_done_is_not_asked_for_again(
    kind: str, pem: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a request, and hang up where a node would answer."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET /ready"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            asked.append(head.split(" HTTP/")[0])
        writer.close()
        await writer.wait_closed()

    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(3):
            node = await stack.enter_async_context(await asyncio.start_server(answer, CLIENT, 0))
            nodes.append(f"{CLIENT}:{node.sockets[0].getsockname()[1]}")
        environ = proxy_settings(tmp_path, pem, nodes, [free_port(), free_port()])
        # What hung up is asked again at once, so that each request finds all of them.
        edit = partial(
            replace_all, {"max_fails=1 fail_timeout=2s": "max_fails=0"} if kind == "nginx" else {}
        )
        proxy = await stack.enter_async_context(open_proxy(kind, tmp_path, environ, edit=edit))
        for method, path, times in ATTEMPTS:
            asked.clear()
            body = b"{}" if method in {"POST", "PATCH", "PUT"} else None
            url = URL(proxy.url + path, encoded=True)
            # Each by a connection of its own: on a used one HAProxy hangs up, as the node did.
            async with client_of(pem) as http, http.request(method, url, data=body) as refusal:
                assert refusal.status == 503
            assert set(asked) == {f"{method} {path}"}
            assert len(asked) in times, (method, asked)


# The proxy's own limit. Clients come from anywhere here: a line in front of TLS says from where.

FROM_ANYWHERE = {
    "haproxy": {
        " alpn h2,http/1.1": " accept-proxy alpn h2,http/1.1",
        # The same rules one step later, when that line has been read.
        "tcp-request connection ": "tcp-request session ",
    },
    "nginx": {
        " ssl http2 backlog": " ssl http2 proxy_protocol backlog",
        "    limit_conn_zone ": (
            "    set_real_ip_from 127.0.0.1;\n    real_ip_header proxy_protocol;\n"
            "    limit_conn_zone "
        ),
    },
}


class Entrance:
    """A proxy before a node that never answers, and connections that stay open."""

    def __init__(self, port: int, context: ssl.SSLContext, reached: asyncio.Queue[str]) -> None:
        self._port = port
        self._context = context
        self._reached = reached
        self._numbers = itertools.count()
        self._writers: list[asyncio.StreamWriter] = []

    async def admits(self, address: str) -> bool:
        """Whether one more request from there reaches the node."""
        family, own = ("TCP6", "::1") if ":" in address else ("TCP4", "127.0.0.1")
        path = f"/{next(self._numbers)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        writer.write(f"PROXY {family} {address} {own} 5000 443\r\n".encode())
        try:
            await writer.start_tls(self._context, server_hostname="127.0.0.1")
        except (OSError, ssl.SSLError):
            return False
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        reached = asyncio.create_task(self._reached.get())
        refused = asyncio.create_task(reader.read(1))
        await asyncio.wait({reached, refused}, return_when=asyncio.FIRST_COMPLETED)
        refused.cancel()
        if not reached.done():
            reached.cancel()
            return False
        assert reached.result() == path
        return True

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def entrance(kind: str, pem: Path, tmp_path: Path) -> AsyncIterator[Entrance]:
    reached: asyncio.Queue[str] = asyncio.Queue()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET /ready"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            reached.put_nowait(head.split()[1])
            await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as node:
        address = f"127.0.0.1:{node.sockets[0].getsockname()[1]}"
        environ = proxy_settings(
            tmp_path,
            pem,
            [address] * 3,
            [free_port(), free_port()],
            PROXY_CONNECTIONS_PER_ADDRESS=str(PER_ADDRESS),
        )
        edit = partial(replace_all, FROM_ANYWHERE[kind])
        async with open_proxy(kind, tmp_path, environ, edit=edit) as proxy:
            found = Entrance(proxy.port, ssl.create_default_context(cafile=str(pem)), reached)
            yield found
            await found.close()


@pytest.mark.parametrize(
    ("same", "another"),
    [
        (["203.0.113.7"] * 3, "203.0.113.8"),
        (["::ffff:203.0.113.7"] * 3, "::ffff:203.0.113.8"),
        (["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::1"], "2001:db8:0:2::1"),
    ],
    ids=["IPv4", "IPv4 as IPv6", "IPv6"],
)
async def test_one_network_has_so_many_connections_and_no_more(
    entrance: Entrance, same: list[str], another: str
) -> None:
    assert [await entrance.admits(address) for address in same] == [True, True, False]
    assert await entrance.admits(another)


# Nodes that go.


class Writer:
    """Sends line after line, and each until it is acknowledged, as the protocol says."""

    def __init__(self, person: Person, guild: Guild) -> None:
        self.acknowledged: list[str] = []
        self.retries: list[str] = []
        self._person = person
        self._guild = guild
        self._news = asyncio.Event()
        self._is_done = False
        self._task = asyncio.create_task(self._run())

    async def finish(self) -> list[str]:
        """The ids of everything that was acknowledged."""
        self._is_done = True
        await self._task
        return self.acknowledged

    async def more(self, count: int) -> None:
        """Wait until so many more lines were acknowledged."""
        goal = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < goal:
                self._news.clear()
                await self._news.wait()

    async def say(self, line: str) -> str:
        while True:
            try:
                sent = await self._person.say(
                    self._guild.channel_id, line, nonce=line, enforce_nonce=True
                )
            except Refused as refusal:
                if refusal.status not in {429, 500, 503}:
                    raise
                self.retries.append(str(refusal))
            except aiohttp.ClientError as fault:
                self.retries.append(repr(fault))
            else:
                return str(sent["id"])

    async def _run(self) -> None:
        while not self._is_done:
            line = f"{self._person.username} {len(self.acknowledged)}"
            self.acknowledged.append(await self.say(line))
            self._news.set()


class Reader:
    """Follows a guild until its last line, over as many sockets as it takes."""

    def __init__(self, person: Person, gateway: Gateway) -> None:
        self.person = person
        self.sockets = [gateway]
        self.task = asyncio.create_task(self._run())

    @property
    def heard(self) -> list[Frame]:
        return [frame for socket in self.sockets for frame in socket.of_type("MESSAGE_CREATE")]

    async def _run(self) -> None:
        while True:
            try:
                await self.sockets[-1].expect("MESSAGE_CREATE", within=PATIENCE_S, content=THE_END)
            except GatewayClosed:
                await self._resume()
            else:
                return

    async def _resume(self) -> None:
        session_id = self.sockets[0].session_id
        while True:
            seq = next(socket.seq for socket in reversed(self.sockets) if socket.seq)
            try:
                gateway = await self.person.resume(session_id, seq)
            except (OSError, InvalidHandshake, ConnectionClosed, GatewayClosed):
                continue
            self.sockets.append(gateway)
            return


class Crowd(NamedTuple):
    """Those who write in a guild, and those who read."""

    writers: list[Writer]
    readers: list[Reader]

    async def settle(self, count: int) -> None:
        """Let everybody go on for so many lines."""
        await asyncio.gather(*(writer.more(count) for writer in self.writers))

    async def check(self) -> None:
        """Everything that was acknowledged was heard by everybody, once, in one order."""
        acknowledged = [id_ for writer in self.writers for id_ in await writer.finish()]
        last = await self.writers[0].say(THE_END)
        await asyncio.gather(*(reader.task for reader in self.readers))
        for reader in self.readers:
            positions = [frame.s or 0 for frame in reader.heard]
            assert positions == sorted(set(positions))
            heard = [frame.d["id"] for frame in reader.heard]
            assert sorted(heard) == sorted([*acknowledged, last])
            # Resumed, and not begun anew.
            assert [len(socket.of_type("READY")) for socket in reader.sockets[1:]].count(0) == len(
                reader.sockets[1:]
            )


async def gather_crowd(town: Town) -> Crowd:
    ada, *others = await town.people(1 + READERS)
    guild = await town.guild(ada, *others)
    for other in others:
        await other.connect()
    readers = [Reader(other, other.gateway) for other in others]
    writers = [Writer(person, guild) for person in [ada, *others][:WRITERS]]
    return Crowd(writers, readers)


async def sockets_of(node: ServerProcess, http: aiohttp.ClientSession) -> int:
    """How many sockets a node says that it has."""
    async with http.get(node.metrics_url) as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith("parley_gateway_sockets "):
                return int(float(line.split()[1]))
    raise AssertionError("the metric is gone")


async def test_a_node_that_stops_sends_everybody_to_the_other(open_site: OpenSite) -> None:
    site = await open_site(drain_delay=DRAIN_DELAY, PROXY_CHECK_INTERVAL=CHECK_INTERVAL)
    crowd = await gather_crowd(site.town)
    leaving, staying = site.nodes
    assert await sockets_of(leaving, site.town.http) == READERS // 2
    await crowd.settle(10)
    if site.kind == "haproxy":
        # The one that there is not. Two that refuse at once are more than it has attempts for.
        await site.proxy.says("nodes/node3 is DOWN")

    leaving.signal(signal.SIGTERM)
    await leaving.says("stopping")
    # It refuses newcomers, and the proxy finds them another node. So many that it has the fewest.
    newcomers = [await site.town.open_gateway() for _ in range(READERS)]
    for newcomer in newcomers:
        await newcomer.expect_op(Op.HELLO)
        await newcomer.close()
    if site.kind == "haproxy":
        # It still accepts, so nobody is refused; but nobody new is sent there any more.
        await site.proxy.says("nodes/node1 is DOWN")
        await crowd.settle(5)
        since = len(site.proxy.lines)
        await crowd.settle(10)
        assert is_running(leaving.pid)
        sends = [line for line in site.proxy.lines[since:] if " POST /messages" in line]
        assert [line for line in sends if " nodes/node2 " not in line] == []
        assert sends
    assert await leaving.ended() == 0
    await crowd.settle(10)

    assert await sockets_of(staying, site.town.http) == READERS
    await leaving.start()
    await crowd.settle(10)
    await crowd.check()
    assert all(len(reader.sockets) <= 2 for reader in crowd.readers)
    if site.kind == "haproxy":
        assert [writer.retries for writer in crowd.writers] == [[]] * WRITERS
    # Both at once, as each takes its DRAIN_DELAY.
    await asyncio.gather(*(node.stop() for node in site.nodes))


async def test_a_node_that_is_killed_loses_nothing(open_site: OpenSite) -> None:
    site = await open_site()
    crowd = await gather_crowd(site.town)
    killed, staying = site.nodes
    await crowd.settle(10)

    await killed.kill()
    await crowd.settle(30)
    await killed.start()
    await crowd.settle(30)
    await crowd.check()

    assert await sockets_of(staying, site.town.http) == READERS
