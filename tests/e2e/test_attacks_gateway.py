"""Attacks on the gateway: foreign pages, lying frames, floods, and clients that never read."""

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from internal.app import App
from internal.chat.ws import client as ws_client
from internal.chat.ws import service as ws_service
from internal.chat.ws.client import Client
from tests.e2e.conftest import OpenTown
from tests.support.gateway import Gateway, Op
from tests.support.people import Answer, Guild, Person, Town
from tests.support.process import ServerProcess
from tests.support.raw import HANDSHAKE, Wires

MIB = 1 << 20
MASK = b"\x01\x02\x03\x04"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as a client sends it."""
    raw = Frame(Opcode(opcode), payload, fin=fin).serialize(mask=True)
    return bytes((raw[0] | 0x40 * rsv1,)) + raw[1:]


def claim(size: int, *, opcode: int = 1, fin: bool = True) -> bytes:
    """The head of a frame that says it has this many bytes, of which none follow."""
    return bytes((0x80 * fin | opcode, 0x80 | 127)) + size.to_bytes(8) + MASK


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    opened = Wires()
    yield opened
    await opened.close()


async def handshake(wires: Wires, url: str, more: str = "", path: str = "/gateway") -> Answer:
    """The answer to a handshake that is refused."""
    return await wires.ask(url, f"GET {path} HTTP/1.1\r\n{HANDSHAKE}{more}\r\n".encode())


@pytest.fixture
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent sockets are looked for all the time. Ask for it before the server is opened."""
    monkeypatch.setattr(ws_service, "_SWEEP_S", 0.02)


async def until(condition: Callable[[], bool], town: Town, what: str) -> None:
    """Wait for something inside the server, as long as it goes on answering."""
    try:
        async with asyncio.timeout(10):
            while not condition():
                await town.stranger.call("GET", "/live")
    except TimeoutError:
        raise AssertionError(f"not within 10 s: {what}") from None


def clients_of(app: App, person: Person) -> list[Client]:
    return [client for client in app.gateway.clients if client.user_id == int(person.id)]


# Pages of strangers.


@pytest.mark.parametrize(
    "origin",
    [
        "http://{host}.attacker.example",
        "http://attacker.example/{host}",
        "http://attacker.example#{host}",
        "http://attacker.example?{host}",
        "http://{host}@attacker.example",
        "http://attacker.example@{host}",
        "http://attacker.example\\@{host}",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "http://localhost",
        "https://chat.example.org.attacker.example",
        "https://chat.example.org:8443",
        "https://CHAT.example.org",
        "http://chat.example.org",
        "https://chat.example.org/",
        "https://sub.chat.example.org",
        "https://chat.example.org, http://{host}",
        "file://",
        "http://",
        "http://[::1",
        "http://[attacker]/",
        "http://\u2100.example",
        "",
        "*",
        "null",
    ],
)
async def test_the_origin_is_compared_whole(wires: Wires, open_town: OpenTown, origin: str) -> None:
    town = await open_town(CORS_ORIGINS="https://chat.example.org")
    host = town.url.removeprefix("http://")
    answer = await handshake(wires, town.url, f"Origin: {origin.format(host=host)}\r\n")
    assert answer.status == 403, answer
    assert answer.json()["code"] == 90001


async def test_a_listed_origin_opens_a_socket(open_town: OpenTown) -> None:
    town = await open_town(CORS_ORIGINS="https://chat.example.org")
    gateway = await town.open_gateway(headers={"Origin": "https://chat.example.org"})
    await gateway.expect_op(Op.HELLO)


async def test_nothing_that_a_browser_adds_by_itself_authenticates(town: Town, ada: Person) -> None:
    token = ada.access_token
    pairs = "; ".join(f"{name}={token}" for name in ("token", "access_token", "session", "jwt"))
    headers = {"Cookie": pairs, "Authorization": f"Bearer {token}", "Origin": town.url}
    gateway = await town.open_gateway(headers=headers)
    await gateway.expect_op(Op.HELLO)
    await gateway.send(Op.SEND, {"channel_id": "1", "content": "as whom?"})
    await gateway.expect_close(4003)
    assert gateway.of_type("READY") == []


# Frames that lie.


@pytest.mark.parametrize("size", [64 * 1024 + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("opcode", [1, 2])
async def test_a_frame_is_refused_by_what_it_claims(
    wires: Wires, town: Town, size: int, opcode: int
) -> None:
    connection = await wires.upgraded(town.url)
    connection.send(claim(size, opcode=opcode))
    assert await connection.close_code() == 1009
    assert await connection.rest() == b""


async def test_the_longest_message_is_read_and_one_byte_more_is_not(
    wires: Wires, town: Town, app: App
) -> None:
    room = app.gateway.limits.message_bytes - len(b'{"op":1,"d":""}')
    connection = await wires.upgraded(town.url)
    connection.send(frame(1, b'{"op":1,"d":"%s"}' % (b"x" * room)))
    _, answer = await connection.frame()
    assert b'"op":11' in answer
    connection.send(frame(1, b'{"op":1,"d":"%s"}' % (b"x" * (room + 1))))
    assert await connection.close_code() == 1009


@pytest.mark.parametrize(
    "pieces",
    [
        # 100,000 fragments with nothing in them.
        frame(1, b'{"op":1', fin=False) + frame(0, fin=False) * 100_000,
        # An endless continuation: each frame is fine, the message is not.
        frame(1, b"x" * 1024, fin=False) + frame(0, b"x" * 1024, fin=False) * 100,
        # The last one claims what does not fit any more.
        frame(1, b"x" * 60_000, fin=False) + claim(60_000, opcode=0),
        frame(1, b"x" * 60_000, fin=False) + claim(2**63, opcode=0, fin=False),
    ],
)
async def test_a_message_in_pieces_is_bounded_as_a_whole(
    wires: Wires, town: Town, pieces: bytes
) -> None:
    connection = await wires.upgraded(town.url)
    connection.send(pieces)
    assert await connection.close_code() == 1009


async def test_control_frames_between_pieces_do_not_lift_the_bound(
    wires: Wires, town: Town
) -> None:
    connection = await wires.upgraded(town.url)
    connection.send(frame(1, b"x" * 40_000, fin=False) + frame(9) + frame(0, b"x" * 40_000))
    assert await connection.close_code() == 1009


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"\x81\x02{}", id="not masked"),
        pytest.param(b"\x89\xfe\x00\x7e" + MASK + b"x" * 126, id="a long ping"),
        pytest.param(b"\x09\x80" + MASK, id="a ping in pieces"),
        pytest.param(b"\x88\xff" + b"\xff" * 8 + MASK, id="a closing frame of 2^64 bytes"),
        pytest.param(frame(0, b"x"), id="a continuation of nothing"),
        pytest.param(frame(1, b"x", fin=False) + frame(1, b"x"), id="a message in a message"),
        pytest.param(b"\x83\x80" + MASK, id="a reserved opcode"),
        pytest.param(b"\x8b\x80" + MASK, id="a reserved control opcode"),
        pytest.param(b"\xa1\x80" + MASK, id="RSV2"),
        pytest.param(b"\x91\x80" + MASK, id="RSV3"),
    ],
)
async def test_what_breaks_the_protocol_closes(wires: Wires, town: Town, broken: bytes) -> None:
    connection = await wires.upgraded(town.url)
    connection.send(broken)
    assert await connection.close_code() == 1002


async def test_a_frame_byte_by_byte_is_a_frame(wires: Wires, town: Town) -> None:
    connection = await wires.upgraded(town.url)
    for byte in frame(1, b'{"op":1,"d":null}'):
        connection.send(bytes((byte,)))
        await connection.writer.drain()
    _, answer = await connection.frame()
    assert b'"op":11' in answer


async def test_no_attack_on_memory_is_felt(wires: Wires, server: ServerProcess, city: Town) -> None:
    """On the real process: whoever claims or sends much costs it next to nothing."""
    ada = await city.person("ada")
    await ada.connect()
    process = psutil.Process(server.pid)
    attacks = [
        claim(2**40) + b"x" * MIB,
        frame(1, b"x", fin=False) + frame(0, fin=False) * 100_000,
        frame(1, b"x" * 60_000, fin=False) + claim(2**62, opcode=0) + b"x" * MIB,
        frame(2, zlib.compress(bytes(16 * MIB)), rsv1=True),
    ]
    before = 0
    for number in range(13):
        sockets = [await wires.upgraded(server.url) for _ in attacks]
        for connection, attack in zip(sockets, attacks, strict=True):
            connection.send(attack)
        for connection in sockets:
            assert await connection.close_code() in {1002, 1009}
        if number == 2:  # What the allocator takes once is no growth.
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 4 * MIB
    await ada.gateway.heartbeat()


# Compression.


@pytest.mark.parametrize("opcode", [1, 2])
async def test_compressed_frames_are_refused(wires: Wires, town: Town, opcode: int) -> None:
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(32 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
    connection = await wires.upgraded(
        town.url, more="Sec-WebSocket-Extensions: permessage-deflate\r\n"
    )
    connection.send(frame(opcode, bomb[:-4], rsv1=True))
    assert await connection.close_code() == 1002


async def test_an_offer_to_compress_is_declined(town: Town, ada: Person) -> None:
    url = town.url.replace("http", "ws") + f"/gateway?token={ada.access_token}"
    async with connect(url, compression="deflate", proxy=None) as libraries:
        assert libraries.response is not None
        assert "Sec-WebSocket-Extensions" not in libraries.response.headers
        await libraries.send('{"op":1,"d":null}')
        async with asyncio.timeout(10):
            while b'"op":11' not in await libraries.recv(decode=False):
                continue


@pytest.mark.parametrize("compress", ["zlib-stream", "zstd-stream", "x"])
async def test_compression_of_the_transport_is_refused_by_name(
    wires: Wires, town: Town, compress: str
) -> None:
    answer = await handshake(wires, town.url, path=f"/gateway?compress={compress}")
    assert answer.status == 400


# Who never says who he is.


@pytest.mark.usefixtures("quick_sweeps")
async def test_who_does_not_identify_is_closed(town: Town, app: App) -> None:
    app.gateway.limits = replace(app.gateway.limits, identify_s=0.1)
    silent = await town.open_gateway()
    await silent.expect_close(4009)
    assert not app.gateway.clients


@pytest.mark.usefixtures("quick_sweeps")
async def test_heartbeats_buy_a_stranger_no_time(wires: Wires, town: Town, app: App) -> None:
    assert app.gateway.limits.identify_s <= 10
    app.gateway.limits = replace(app.gateway.limits, identify_s=0.3)
    connection = await wires.upgraded(town.url)
    (client,) = app.gateway.clients
    deadline = client.session.deadline
    connection.send(frame(1, b'{"op":1,"d":null}') * 20 + frame(9) * 20 + frame(10) * 20)
    assert await connection.close_code() == 4009
    assert asyncio.get_running_loop().time() < deadline + 2


async def test_strangers_of_one_address_are_counted(wires: Wires, open_town: OpenTown) -> None:
    town = await open_town(GATEWAY_SOCKETS_PER_ADDRESS="3")
    assert town.app is not None
    app, ada = town.app, await town.person("ada")
    strangers = [await town.open_gateway() for _ in range(3)]
    answer = await handshake(wires, town.url)
    assert answer.status == 503
    assert answer.headers["Retry-After"]
    # Whoever says who it is makes room, and so does whoever goes, in whatever way.
    await strangers[0].identify(ada.access_token)
    strangers.append(await town.open_gateway())
    assert (await handshake(wires, town.url)).status == 503
    await strangers[1].abort()
    await strangers[2].send_text("nonsense")
    await strangers[2].expect_close(4002)
    await until(lambda: len(app.gateway.clients) == 2, town, "the two are gone")
    strangers += [await town.open_gateway(), await town.open_gateway()]
    assert (await handshake(wires, town.url)).status == 503
    for gateway in strangers:
        await gateway.close()
    await until(lambda: not app.gateway.clients, town, "all are gone")
    assert not app.gateway._strangers


async def test_addresses_are_counted_apart(wires: Wires, open_town: OpenTown) -> None:
    town = await open_town(GATEWAY_SOCKETS_PER_ADDRESS="1", TRUSTED_PROXIES="127.0.0.1")
    one = "X-Forwarded-For: 203.0.113.7\r\n"
    await wires.upgraded(town.url, more=one)
    assert (await handshake(wires, town.url, one)).status == 503
    await wires.upgraded(town.url, more="X-Forwarded-For: 203.0.113.8\r\n")


def from_net(number: int) -> str:
    return f"X-Forwarded-For: 203.0.113.{number}\r\n"


async def test_a_crowd_of_strangers_keeps_nobody_out(wires: Wires, open_town: OpenTown) -> None:
    town = await open_town(GATEWAY_MAX_SOCKETS="8", TRUSTED_PROXIES="127.0.0.1")
    assert town.app is not None
    ada = await town.person("ada")
    # All places of strangers, which are a quarter.
    crowd = [await wires.upgraded(town.url, more=from_net(7)) for _ in range(2)]
    assert (await handshake(wires, town.url, from_net(7))).status == 503
    mine = await wires.upgraded(town.url, more=from_net(8))
    assert await crowd[0].close_code() == 4009
    # Now each has one: whoever comes again has as many as anybody.
    assert (await handshake(wires, town.url, from_net(7))).status == 503
    # Among equals the first has had the longest time.
    other = await wires.upgraded(town.url, more=from_net(9))
    assert await crowd[1].close_code() == 4009
    body = b'{"op":2,"d":{"token":"%b"}}' % ada.access_token.encode()
    mine.send(frame(1, body))
    assert b'"t":"READY"' in (await mine.frame())[1]
    await other.close()
    await until(lambda: len(clients_of(town.app, ada)) == 1, town, "one is left")  # type: ignore[arg-type]
    await until(lambda: not town.app.gateway._strangers, town, "no stranger is left")  # type: ignore[union-attr]


async def test_strangers_do_not_fill_the_last_places(wires: Wires, open_town: OpenTown) -> None:
    town = await open_town(GATEWAY_MAX_SOCKETS="4", TRUSTED_PROXIES="127.0.0.1")
    for name in ("ada", "bob", "eve"):
        await (await town.person(name)).connect()
    stranger = await wires.upgraded(town.url, more=from_net(7))
    await wires.upgraded(town.url, more=from_net(8))
    assert await stranger.close_code() == 4009


async def test_all_sockets_together_are_bounded(wires: Wires, open_town: OpenTown) -> None:
    town = await open_town(GATEWAY_MAX_SOCKETS="2")
    for name in ("ada", "bob"):
        await (await town.person(name)).connect()
    assert (await handshake(wires, town.url)).status == 503


# Floods.


FLOODS = {
    "heartbeats": frame(1, b'{"op":1,"d":null}'),
    "pings": frame(9, b"x"),
    "pongs": frame(10, b"x"),
}


@pytest.mark.parametrize("kind", sorted(FLOODS))
@pytest.mark.parametrize("is_known", [True, False])
async def test_a_flood_of_anything_closes(
    wires: Wires,
    town: Town,
    ada: Person,
    kind: str,
    is_known: bool,  # noqa: FBT001  # A parameter of the test.
) -> None:
    path = f"/gateway?token={ada.access_token}" if is_known else "/gateway"
    await ada.connect()
    connection = await wires.upgraded(town.url, path)
    connection.send(FLOODS[kind] * 130)
    assert await connection.close_code() == 4008
    assert await connection.rest() == b"", "nothing may follow the closing frame"
    # One who floods costs the others of the account nothing.
    await ada.gateway.heartbeat()


async def test_a_hundred_at_once_are_no_flood(wires: Wires, town: Town) -> None:
    connection = await wires.upgraded(town.url)
    connection.send(FLOODS["heartbeats"] * 100)
    for _ in range(100):
        assert b'"op":11' in (await connection.frame())[1]


async def test_resumes_that_are_refused_are_counted_as_well(
    wires: Wires, town: Town, ada: Person
) -> None:
    connection = await wires.upgraded(town.url)
    token = ada.access_token.encode()
    wish = b'{"op":6,"d":{"token":"%s","session_id":"x","seq":1}}' % token
    for _ in range(200):
        connection.send(frame(1, wish))
        opcode, payload = await connection.frame()
        if opcode == 8:
            assert payload[:2] == (4008).to_bytes(2)
            break
        assert b'"op":9' in payload
    else:
        pytest.fail("200 refused resumes were not too many")


async def test_sends_over_a_socket_have_the_limit_of_sends(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    ada = await town.person("ada")
    guild = await town.guild(ada)
    await ada.connect()
    for number in range(40):
        body = {"channel_id": guild.channel_id, "content": str(number), "nonce": number}
        await ada.gateway.send(Op.SEND, body)
    answers = [(await ada.gateway.expect_op(Op.SENT)).d for _ in range(40)]
    refused = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert len(refused) >= 15
    assert set(refused) == {20028}
    assert sorted(answer["nonce"] for answer in answers) == list(range(40))


# Identifying.


async def test_identifying_over_and_over_has_a_budget_of_its_own(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    ada, bob = await town.person("ada"), await town.person("bob")
    for _ in range(20):
        await ada.connect()
    last = ada.gateway
    more = await town.open_gateway()
    await more.send(Op.IDENTIFY, {"token": ada.access_token, "properties": {}})
    await more.expect_close(4008)
    # Neither the budget of somebody else nor a resume is touched by it.
    await bob.connect()
    await last.abort()
    await (await ada.resume(last.session_id, last.seq)).expect("RESUMED")


async def test_a_stolen_session_gets_nothing_and_takes_nothing(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    seq = bob.gateway.seq
    await ada.say(guild.channel_id, "for members")
    await bob.gateway.expect("MESSAGE_CREATE")
    stolen = await eve.resume(bob.gateway.session_id, seq)
    await stolen.expect_op(Op.INVALID_SESSION)
    ready, *guilds = await stolen.identify(eve.access_token)
    assert ready.d["session_id"] != bob.gateway.session_id
    assert guilds == []
    assert all(b"for members" not in frame.raw for frame in stolen.frames)
    await bob.gateway.heartbeat()


async def test_of_two_who_resume_at_once_one_stays(bob: Person) -> None:
    await bob.connect()
    before = bob.gateway
    await before.abort()
    seq = before.seq
    both: list[Gateway] = [await bob.resume(before.session_id, seq) for _ in range(2)]
    await both[1].expect("RESUMED")
    await both[0].expect_close(4902)
    await both[1].heartbeat()


# A handshake and more.


NEXT = b"GET /users/@me HTTP/1.1\r\nHost: here\r\n\r\n"


async def test_a_body_behind_a_handshake_is_no_second_request(wires: Wires, town: Town) -> None:
    connection = await wires.open(town.url)
    head = f"GET /gateway HTTP/1.1\r\n{HANDSHAKE}Content-Length: {len(NEXT)}\r\n\r\n"
    connection.send(head.encode() + NEXT + b"GET /live HTTP/1.1\r\nHost: here\r\n\r\n")
    assert (await connection.answer()).status == 400
    assert b'"live"' in (await connection.answer()).content, "the body is answered by nobody"


async def test_a_chunked_handshake_is_refused_and_its_frames_are_not_read(
    wires: Wires, town: Town
) -> None:
    connection = await wires.open(town.url)
    hidden = frame(1, b'{"op":1,"d":null}')
    head = f"GET /gateway HTTP/1.1\r\n{HANDSHAKE}Transfer-Encoding: chunked\r\n\r\n"
    connection.send(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden))
    connection.send(b"GET /live HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    assert (await connection.answer()).status == 400
    assert b'"live"' in (await connection.answer()).content
    assert await connection.rest() == b""


async def test_a_request_behind_an_upgrade_is_taken_for_frames(
    wires: Wires, town: Town, ada: Person
) -> None:
    """What a proxy takes for a second request must never be answered as one."""
    authorized = NEXT.replace(b"\r\n\r\n", b"\r\nAuthorization: %b\r\n\r\n")
    connection = await wires.open(town.url)
    connection.send(f"GET /gateway HTTP/1.1\r\n{HANDSHAKE}\r\n".encode())
    connection.send(authorized % ada.headers["Authorization"].encode())
    assert (await connection.answer()).status == 101
    rest = await connection.rest()
    assert b"HTTP/1.1" not in rest
    assert b"\x03\xea" in rest, "closed with 1002"


@pytest.mark.parametrize("target", ["GET /live", "POST /auth/login"])
async def test_an_upgrade_elsewhere_is_an_ordinary_request(
    wires: Wires, town: Town, target: str
) -> None:
    connection = await wires.open(town.url)
    body = b'{"password":"guess"}'
    head = f"{target} HTTP/1.1\r\n{HANDSHAKE}Content-Length: {len(body)}\r\n\r\n"
    connection.send(head.encode() + body + NEXT)
    assert (await connection.answer()).status in {200, 400}
    assert (await connection.answer()).status == 401


@pytest.mark.parametrize(
    "head",
    [
        f"GET /gateway HTTP/1.0\r\n{HANDSHAKE}",
        f"POST /gateway HTTP/1.1\r\n{HANDSHAKE}",
        f"GET /gateway HTTP/1.1\r\n{HANDSHAKE.replace('websocket', 'h2c')}",
        f"GET /gateway HTTP/1.1\r\n{HANDSHAKE.replace(': Upgrade', ': keep-alive')}",
    ],
)
async def test_nothing_else_is_upgraded(wires: Wires, town: Town, head: str) -> None:
    connection = await wires.open(town.url)
    connection.send(f"{head}\r\n".encode())
    assert (await connection.answer()).status in {400, 405, 426}


# Who does not read.


LONG = "\N{TEACUP WITHOUT HANDLE}" * 1900
ROOM = 64 * 1024


class Table(tuple[Person, Person, Person]):
    """Ada speaks; Bob will stop reading; Carol reads on."""

    __slots__ = ()


@pytest.fixture
async def table(open_town: OpenTown) -> tuple[Town, Table, Guild]:
    town = await open_town(SLOW_READER_BYTES="64KiB")
    ada, bob, carol = [await town.person(name) for name in ("ada", "bob", "carol")]
    guild = await town.guild(ada, bob, carol)
    for person in (bob, carol):
        await person.connect()
    return town, Table((ada, bob, carol)), guild


def tighten(client: Client) -> None:
    """Give a socket a small buffer in the system, so that the server feels it soon."""
    assert client.transport is not None
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def talk_until(
    app: App, town: Town, ada: Person, channel_id: str, condition: Callable[[], bool]
) -> list[str]:
    """Ada says long things until something has happened; what she said, in order."""
    said: list[str] = []
    while not condition():
        assert len(said) < 6000, "the server never felt it"
        answers = [await ada.say(channel_id, f"{len(said) + n} {LONG}") for n in range(20)]
        said += [answer["id"] for answer in answers]
        await until(lambda: app.tailer.pos <= app.gateway.hub.pos, town, "it was told")
    return said


async def test_a_slow_reader_costs_a_bound_and_misses_nothing(
    table: tuple[Town, Table, Guild],
) -> None:
    town, (ada, bob, carol), guild = table
    assert town.app is not None
    app = town.app
    (client,) = clients_of(app, bob)
    tighten(client)
    bob.gateway.stop_reading()
    said = await talk_until(app, town, ada, guild.channel_id, lambda: not client.is_live)
    for number in range(60):
        message = await ada.say(guild.channel_id, f"more {number} {LONG}")
        said.append(message["id"])
    assert client.transport is not None
    buffered = client.transport.get_write_buffer_size()
    assert buffered <= ROOM + ws_service._CHUNK_BYTES + 2 * len(LONG.encode())
    assert not client.pending
    await carol.gateway.expect("MESSAGE_CREATE", id=said[-1])
    assert heard(carol, guild) == said

    bob.gateway._socket.transport.resume_reading()
    await bob.gateway.expect("MESSAGE_CREATE", id=said[-1])
    await until(lambda: client.is_live, town, "Bob is live again")
    last = await ada.say(guild.channel_id, "live again")
    await bob.gateway.expect("MESSAGE_CREATE", id=last["id"])
    assert heard(bob, guild) == [*said, last["id"]]


def heard(person: Person, guild: Guild) -> list[str]:
    events = person.gateway.of_type("MESSAGE_CREATE")
    return [event.d["id"] for event in events if event.d["channel_id"] == guild.channel_id]


@pytest.mark.usefixtures("quick_sweeps")
async def test_who_never_reads_is_closed_and_cut_off(
    table: tuple[Town, Table, Guild], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its closing frame can't leave either: the socket is not kept for that."""
    assert ws_client.CLOSE_S <= 10
    monkeypatch.setattr(ws_client, "CLOSE_S", 0.2)
    town, (ada, bob, carol), guild = table
    assert town.app is not None
    app = town.app
    app.gateway.limits = replace(app.gateway.limits, lag_s=0.2)
    (client,) = clients_of(app, bob)
    tighten(client)
    bob.gateway.stop_reading()
    # The system's buffers may take some more in between: she talks on until he is gone.
    said = await talk_until(app, town, ada, guild.channel_id, lambda: not clients_of(app, bob))
    assert client.transport is None
    await until(lambda: not app.gateway._tasks, town, "nobody waits for him any more")
    await carol.gateway.expect("MESSAGE_CREATE", id=said[-1])
    assert heard(carol, guild) == said
    # What he has missed, he may still ask for.
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    bob.gateway._socket.transport.resume_reading()
    again = await bob.resume(session_id, seq)
    await again.expect("RESUMED")


async def test_a_farewell_is_not_waited_for(wires: Wires, town: Town, app: App) -> None:
    """A client that goes on as if it had heard no closing frame is cut off."""
    connection = await wires.upgraded(town.url)
    connection.send(frame(1, b'{"op":99}'))
    assert await connection.close_code() == 4001
    connection.send(frame(1, b'{"op":1,"d":null}') * 50)
    assert await connection.rest() == b""
    await until(lambda: not app.gateway.clients, town, "it is gone")


async def test_the_code_of_a_farewell_is_echoed_only_if_it_may_travel(
    wires: Wires, town: Town
) -> None:
    for sent, echoed in (
        (b"", 1000),
        (b"\x03", 1002),
        ((1005).to_bytes(2), 1002),
        ((1006).to_bytes(2), 1002),
        ((999).to_bytes(2), 1002),
        ((65535).to_bytes(2), 1002),
        ((4999).to_bytes(2) + b"\xff\xfe", 4999),
    ):
        connection = await wires.upgraded(town.url)
        connection.send(frame(8, sent))
        assert await connection.close_code() == echoed
        assert await connection.rest() == b""
