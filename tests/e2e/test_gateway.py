"""The gateway: greeting, identifying, events in one order, sending over the socket, endings."""

import asyncio
from typing import Any

import msgspec
import pytest

from tests.e2e.conftest import OpenTown
from tests.support.gateway import Frame, Gateway, Op
from tests.support.people import Guild, Person, Town


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    """Ada's guild, with Bob in it."""
    return await town.guild(ada, bob)


async def greeted(town: Town, path: str = "/gateway?v=10&encoding=json") -> Gateway:
    gateway = await town.open_gateway(path)
    await gateway.expect_op(Op.HELLO)
    return gateway


# Greeting and identifying


async def test_hello_comes_first_and_names_the_interval(open_town: OpenTown) -> None:
    town = await open_town(HEARTBEAT_INTERVAL="30")
    gateway = await town.open_gateway()
    hello = await gateway.expect_op(Op.HELLO)
    assert gateway.frames[0] is hello
    assert hello.d == {"heartbeat_interval": 30000}
    assert hello.s is None


@pytest.mark.parametrize(
    "path",
    [
        "/gateway",
        "/gateway/",
        "/gateway?v=10&encoding=json",
        "/gateway/?v=10&encoding=json",
        "/gateway?encoding=json&v=10",
    ],
)
async def test_the_address_is_taken_as_clients_write_it(town: Town, ada: Person, path: str) -> None:
    gateway = await greeted(town, path)
    frames = await gateway.identify(ada.access_token)
    assert frames[0].d["user"]["id"] == ada.id


async def test_ready_holds_what_client_libraries_insist_on(ada: Person, guild: Guild) -> None:
    ready, tea_house = await ada.connect()
    assert ready.d["v"] == 10
    assert ready.d["session_id"]
    assert ready.d["resume_gateway_url"].startswith("ws://")
    assert ready.d["guilds"] == [{"id": guild.id, "unavailable": True}]
    assert isinstance(ready.d["application"]["id"], str)
    assert isinstance(ready.d["application"]["flags"], int)
    assert ready.d["user"]["username"] == "ada"
    assert ready.d["user"]["email"] == ada.email
    assert tea_house.d["id"] == guild.id
    assert tea_house.d["unavailable"] is False
    assert [channel["id"] for channel in tea_house.d["channels"]] == [guild.channel_id]
    members = {member["user"]["username"] for member in tea_house.d["members"]}
    assert members == {"ada", "bob"}


async def test_only_the_last_frame_of_the_opening_carries_a_position(
    town: Town, ada: Person
) -> None:
    """A cut in between then leads to a fresh IDENTIFY, never to a hole."""
    for name in ("first", "second", "third"):
        await town.guild(ada, name=name)
    frames = await ada.connect()
    assert [frame.t for frame in frames] == ["READY", *["GUILD_CREATE"] * 3]
    assert [frame.s for frame in frames[:-1]] == [0, 0, 0]
    assert (frames[-1].s or 0) > 0


@pytest.mark.usefixtures("guild")
async def test_ready_itself_carries_the_position_where_there_is_no_guild(eve: Person) -> None:
    frames = await eve.connect()
    assert len(frames) == 1
    assert (frames[0].s or 0) > 0


async def test_a_token_in_the_address_identifies_at_once(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    gateway = await town.open_gateway(f"/gateway?token={ada.access_token}")
    await gateway.expect_op(Op.HELLO)
    await gateway.expect_ready()
    said = await bob.say(guild.channel_id, "hello, plain client")
    await gateway.expect("MESSAGE_CREATE", id=said["id"])
    await gateway.ping()


async def test_a_token_may_come_with_its_scheme(town: Town, ada: Person) -> None:
    gateway = await greeted(town)
    frames = await gateway.identify(f"Bearer {ada.access_token}")
    assert frames[0].d["user"]["id"] == ada.id


async def test_what_libraries_send_beyond_the_token_is_ignored(town: Town, ada: Person) -> None:
    gateway = await greeted(town)
    frames = await gateway.identify(
        ada.access_token,
        compress=True,
        large_threshold=250,
        capabilities=16383,
        shard=[0, 1],
        presence={"activities": None, "status": "offline", "afk": False, "since": None},
        intents=2**40,
        of_tomorrow={"deep": [1, 2]},
    )
    assert frames[0].t == "READY"


async def test_binary_frames_with_json_are_read(town: Town, ada: Person) -> None:
    gateway = await greeted(town)
    body = {"op": 2, "d": {"token": ada.access_token, "intents": 0, "properties": {}}}
    await gateway.send_bytes(msgspec.json.encode(body))
    await gateway.expect_ready()
    await gateway.send_bytes(b'{"op":1,"d":null}')
    await gateway.expect_op(Op.HEARTBEAT_ACK)


async def test_a_heartbeat_is_acknowledged_before_and_after_identifying(
    town: Town, ada: Person
) -> None:
    gateway = await greeted(town)
    await gateway.heartbeat()
    await gateway.identify(ada.access_token)
    await gateway.heartbeat()


# Events


async def test_everybody_hears_the_same_bytes_in_the_same_order(
    ada: Person, bob: Person, guild: Guild
) -> None:
    await ada.connect()
    await bob.connect()
    said = await asyncio.gather(
        *(ada.say(guild.channel_id, f"ada {n}") for n in range(20)),
        *(bob.say(guild.channel_id, f"bob {n}") for n in range(20)),
    )
    await ada.fence()
    await bob.fence()
    heard_by_ada = _messages_of(ada.gateway, guild)
    heard_by_bob = _messages_of(bob.gateway, guild)
    assert [frame.raw for frame in heard_by_ada] == [frame.raw for frame in heard_by_bob]
    assert sorted(frame.d["id"] for frame in heard_by_ada) == sorted(m["id"] for m in said)
    positions = [frame.s for frame in ada.gateway.dispatches if frame.s]
    assert positions == sorted(set(positions))


def _messages_of(gateway: Gateway, guild: Guild) -> list[Frame]:
    return [f for f in gateway.of_type("MESSAGE_CREATE") if f.d["channel_id"] == guild.channel_id]


async def test_a_later_send_has_the_higher_position(ada: Person, bob: Person, guild: Guild) -> None:
    await bob.connect()
    for number in range(10):
        speaker = (ada, bob)[number % 2]
        await speaker.say(guild.channel_id, str(number))
    await bob.fence()
    heard = [frame.d["content"] for frame in _messages_of(bob.gateway, guild)]
    assert heard == [str(number) for number in range(10)]


async def test_a_stranger_hears_nothing(ada: Person, eve: Person, guild: Guild) -> None:
    await eve.connect()
    await ada.say(guild.channel_id, "among ourselves")
    await ada.post(f"/channels/{guild.channel_id}/typing")
    await ada.patch(f"/guilds/{guild.id}", {"name": "Ours"})
    await eve.heard_nothing()


async def test_who_leaves_hears_of_it_and_then_nothing(
    ada: Person, bob: Person, guild: Guild
) -> None:
    await bob.connect()
    await bob.post(f"/guilds/{guild.id}/leave")
    gone = await bob.gateway.expect("GUILD_DELETE")
    assert gone["id"] == guild.id
    assert not gone.get("unavailable")
    await ada.say(guild.channel_id, "is he gone?")
    await bob.heard_nothing()


async def test_who_joins_hears_everything_from_then_on(
    ada: Person, eve: Person, guild: Guild
) -> None:
    await eve.connect()
    await ada.say(guild.channel_id, "before")
    await eve.post(f"/guilds/{guild.id}/join")
    told = await eve.gateway.expect("GUILD_CREATE", id=guild.id)
    assert told["member_count"] == 3
    said = await ada.say(guild.channel_id, "after")
    heard = await eve.gateway.expect("MESSAGE_CREATE")
    assert heard["id"] == said["id"]


async def test_typing_is_told_and_takes_no_position(ada: Person, bob: Person, guild: Guild) -> None:
    await bob.connect()
    # READY may have shown what got its position only afterwards.
    await bob.fence()
    before = bob.gateway.seq
    await ada.post(f"/channels/{guild.channel_id}/typing")
    typing = await bob.gateway.expect_frame("TYPING_START")
    assert typing.d["user_id"] == ada.id
    assert typing.d["channel_id"] == guild.channel_id
    assert typing.d["guild_id"] == guild.id
    assert typing.d["member"]["user"]["username"] == "ada"
    assert typing.s == before


async def test_every_connection_of_a_person_hears(ada: Person, bob: Person, guild: Guild) -> None:
    desk, phone = await bob.watch(), await bob.watch()
    said = await ada.say(guild.channel_id, "to all your devices")
    for gateway in (desk, phone):
        await gateway.expect("MESSAGE_CREATE", id=said["id"])


# Sending over the socket


async def test_a_send_over_the_socket_is_answered_with_the_message(
    ada: Person, bob: Person, guild: Guild
) -> None:
    await ada.connect()
    await bob.connect()
    body = {"channel_id": guild.channel_id, "content": "quick", "nonce": "n-1"}
    await ada.gateway.send(Op.SEND, body)
    answer = (await ada.gateway.expect_op(Op.SENT)).d
    assert answer["nonce"] == "n-1"
    assert answer["message"]["content"] == "quick"
    heard = await bob.gateway.expect("MESSAGE_CREATE", content="quick")
    assert heard["id"] == answer["message"]["id"]


async def test_a_repeated_send_over_the_socket_gets_the_first_answer(
    ada: Person, guild: Guild
) -> None:
    await ada.connect()
    body = {"channel_id": guild.channel_id, "content": "once", "nonce": "n-2"}
    answers = []
    for _ in range(3):
        await ada.gateway.send(Op.SEND, body)
        answers.append((await ada.gateway.expect_op(Op.SENT)).d["message"]["id"])
    assert len(set(answers)) == 1
    assert len(await ada.get(f"/messages/channel/{guild.channel_id}")) == 1


async def test_sends_over_the_socket_keep_their_order(ada: Person, guild: Guild) -> None:
    await ada.connect()
    for number in range(20):
        body = {"channel_id": guild.channel_id, "content": str(number), "nonce": f"o-{number}"}
        await ada.gateway.send(Op.SEND, body)
    for number in range(20):
        answer = (await ada.gateway.expect_op(Op.SENT)).d
        assert answer["nonce"] == f"o-{number}"
    newest_first = await ada.get(f"/messages/channel/{guild.channel_id}")
    assert [m["content"] for m in newest_first] == [str(n) for n in reversed(range(20))]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"channel_id": "1"}, 10003),
        ({"channel_id": "x"}, 50035),
        ({"channel_id": None}, 50035),
        ({"content": ""}, 50006),
        ({"content": "x" * 2001}, 50035),
        ({"content": 7}, 50035),
        ({"content": "a\x00b"}, 50035),
    ],
)
async def test_a_bad_send_over_the_socket_gets_its_error_and_the_socket_lives(
    ada: Person, guild: Guild, changes: dict[str, Any], code: int
) -> None:
    await ada.connect()
    body = {"channel_id": guild.channel_id, "content": "fine", "nonce": "bad", **changes}
    await ada.gateway.send(Op.SEND, body)
    answer = (await ada.gateway.expect_op(Op.SENT)).d
    assert answer["error"]["code"] == code
    assert answer["nonce"] == "bad"
    await ada.gateway.heartbeat()


async def test_a_stranger_can_not_send_over_the_socket(eve: Person, guild: Guild) -> None:
    await eve.connect()
    await eve.gateway.send(Op.SEND, {"channel_id": guild.channel_id, "content": "let me in"})
    answer = (await eve.gateway.expect_op(Op.SENT)).d
    assert answer["error"]["code"] == 10003


# Endings


async def test_a_second_identify_is_refused(ada: Person) -> None:
    await ada.connect()
    await ada.gateway.send(Op.IDENTIFY, {"token": ada.access_token, "properties": {}})
    await ada.gateway.expect_close(4005)


@pytest.mark.parametrize("token", ["", "nonsense", "Bearer ", "Bot 1.2.3", "a.b.c"])
async def test_a_bad_token_is_refused(town: Town, token: str) -> None:
    gateway = await greeted(town)
    await gateway.send(Op.IDENTIFY, {"token": token, "intents": 0, "properties": {}})
    await gateway.expect_close(4004)


async def test_a_bad_token_in_the_address_is_refused(town: Town) -> None:
    gateway = await town.open_gateway("/gateway?token=nonsense")
    await gateway.expect_close(4004)


async def test_a_refresh_token_opens_no_gateway(town: Town, ada: Person) -> None:
    gateway = await greeted(town)
    await gateway.send(Op.IDENTIFY, {"token": ada.refresh_token, "properties": {}})
    await gateway.expect_close(4004)


async def test_sending_before_identifying_is_refused(town: Town, ada: Person) -> None:
    gateway = await greeted(town)
    await gateway.send(Op.SEND, {"channel_id": ada.id, "content": "hello"})
    await gateway.expect_close(4003)


async def test_who_does_not_beat_is_closed(open_town: OpenTown) -> None:
    town = await open_town(HEARTBEAT_INTERVAL="100ms")
    ada = await town.person("ada")
    await ada.connect()
    await ada.gateway.expect_close(4009)


async def test_a_plain_client_lives_by_its_pongs(open_town: OpenTown) -> None:
    """The library answers the server's pings; nobody else ever says a word."""
    town = await open_town(HEARTBEAT_INTERVAL="2")
    ada, bob = await town.person("ada"), await town.person("bob")
    guild = await town.guild(ada, bob)
    plain = await town.open_gateway(f"/gateway?token={ada.access_token}")
    await plain.expect_ready()
    # Silent for as long as it takes until somebody who does not beat is closed: twice the interval.
    await bob.connect()
    await bob.gateway.expect_close(4009)
    said = await bob.say(guild.channel_id, "still there?")
    await plain.expect("MESSAGE_CREATE", id=said["id"])


async def test_a_flood_is_closed(ada: Person) -> None:
    await ada.connect()
    for _ in range(200):
        await ada.gateway.send(Op.HEARTBEAT)
        if ada.gateway.is_closed:
            break
    await ada.gateway.expect_close(4008)


async def test_logout_closes_the_sockets_of_that_login_alone(town: Town, ada: Person) -> None:
    await ada.connect()
    first, token = ada.gateway, ada.access_token
    await ada.login()
    await ada.connect()
    stranger = town.stranger
    stranger.headers["Authorization"] = f"Bearer {token}"
    await stranger.post("/auth/logout")
    await first.expect_close(4004, within=2)
    await ada.gateway.heartbeat()


async def test_a_revoked_session_closes_within_two_seconds(ada: Person) -> None:
    await ada.connect()
    lost, session = ada.gateway, ada.session_id
    await ada.login()
    await ada.delete(f"/auth/sessions/{session}")
    await lost.expect_close(4004, within=2)


async def test_a_new_password_closes_the_other_sessions(ada: Person) -> None:
    await ada.connect()
    other = ada.gateway
    await ada.login()
    await ada.post("/auth/password", {"password": ada.password, "new_password": "another one!"})
    await other.expect_close(4004, within=2)


async def test_a_stopping_server_says_so_with_a_resumable_code(town: Town, ada: Person) -> None:
    await ada.connect()
    await town.stop_server()
    await ada.gateway.expect_op(Op.RECONNECT)
    await ada.gateway.expect_close(4000, 4900, 1012)


# The handshake


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost.evil"],
)
async def test_a_page_of_a_stranger_opens_no_socket(town: Town, origin: str) -> None:
    status, _ = await _handshake(town, Origin=origin)
    assert status == 403


async def test_the_servers_own_page_opens_a_socket(town: Town, ada: Person) -> None:
    gateway = await town.open_gateway(headers={"Origin": town.url})
    await gateway.expect_op(Op.HELLO)
    await gateway.identify(ada.access_token)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Upgrade": ""}, 426),
        ({"Sec-WebSocket-Version": "8"}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
        ({"Content-Length": "5"}, 400),
    ],
)
async def test_what_is_no_handshake_is_refused(
    town: Town, changes: dict[str, str], status: int
) -> None:
    refused, body = await _handshake(town, **changes)
    assert refused == status
    assert body["code"]


@pytest.mark.parametrize("query", ["v=9", "v=x", "encoding=etf"])
async def test_another_version_or_encoding_is_refused(town: Town, query: str) -> None:
    status, _ = await _handshake(town, path=f"/gateway?{query}")
    assert status == 400


async def _handshake(town: Town, path: str = "/gateway", **changes: str) -> tuple[int, Any]:
    """A handshake byte by byte, as a broken or hostile client writes it; status and body."""
    headers = {
        "Host": town.url.partition("//")[2],
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **changes,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    host, _, port = headers["Host"].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    has_body = {"Transfer-Encoding", "Content-Length"} & set(changes)
    writer.write("\r\n".join([*lines, "", "0\r\n\r\n" if has_body else ""]).encode())
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = msgspec.json.decode(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body
