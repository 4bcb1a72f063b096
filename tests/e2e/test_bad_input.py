"""Bad input over REST and the gateway: a clear error in the one shape, never a 500, no harm."""

from typing import Any

import msgspec
import pytest

from tests.support.gateway import Gateway, Op
from tests.support.people import Answer, Guild, Person, Town

Json = Any

# Bodies that are right, by route. `{guild}`, `{channel}` and `{message}` are filled in.
BODIES: dict[str, Json] = {
    "POST /auth/register": {"username": "new", "email": "new@example.org", "password": "12345678"},
    "POST /auth/login": {"email": "ada@example.org", "password": "12345678"},
    "POST /auth/refresh": {"refresh_token": "prt_x"},
    "POST /auth/password": {"password": "12345678", "new_password": "87654321"},
    "POST /auth/setup": {"secret": "x"},
    "PATCH /users/@me": {"username": "ada", "global_name": "Ada", "bio": "Hello"},
    "POST /users/@me/channels": {"recipient_id": "7"},
    "POST /guilds": {"name": "Room", "description": "Of mine"},
    "PATCH /guilds/{guild}": {"name": "Room", "description": "Of mine", "owner_id": "7"},
    "POST /channels": {"guild_id": "{guild}", "name": "hall", "topic": "Talk"},
    "PATCH /channels/{channel}": {"name": "hall", "topic": "Talk"},
    "POST /messages": {"channel_id": "{channel}", "content": "hello", "nonce": "n"},
    "PATCH /messages/{channel}/{message}": {"content": "hello"},
    "POST /messages/{channel}/bulk-delete": {"messages": ["{message}"]},
}
FIELDS = [(route, field) for route, body in BODIES.items() for field in body]

NO_JSON = {
    "nothing": b"",
    "half": b'{"name": "x"',
    "NaN": b'{"name": NaN, "content": NaN, "username": NaN}',
    "Infinity": b'{"name": Infinity, "content": -Infinity}',
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "no UTF-8": b'{"name": "\xff\xfe", "content": "\xff", "username": "\xff"}',
    "lone surrogate": b'{"name": "\\ud800", "content": "\\ud800", "username": "\\udfff"}',
    "two values": b"{}{}",
    "single quotes": b"{'name': 'x'}",
    "a form": b"name=x&content=y",
}
NO_OBJECT = {"null": b"null", "list": b"[]", "text": b'"x"', "number": b"7", "true": b"true"}


class Scene(msgspec.Struct):
    """Ada, with a guild and a message of hers."""

    ada: Person
    guild: Guild
    message_id: str

    def fill(self, template: Json) -> Json:
        text = msgspec.json.encode(template).decode()
        for name, value in (
            ("{guild}", self.guild.id),
            ("{channel}", self.guild.channel_id),
            ("{message}", self.message_id),
        ):
            text = text.replace(name, value)
        return msgspec.json.decode(text)

    async def send(self, route: str, content: bytes, **headers: str) -> Answer:
        method, path = self.fill(route).split(" ")
        sent = {"Content-Type": "application/json", **headers}
        return await self.ada.call(method, path, content=content, headers=sent)


@pytest.fixture
async def scene(town: Town, ada: Person) -> Scene:
    guild = await town.guild(ada)
    message = await ada.say(guild.channel_id, "as it was")
    return Scene(ada, guild, message["id"])


@pytest.fixture(autouse=True)
async def unharmed(scene: Scene) -> Any:
    """Whatever was sent, what there was is there still, and the server answers."""
    yield
    path = f"/messages/{scene.guild.channel_id}/{scene.message_id}"
    assert (await scene.ada.get(path))["content"] == "as it was"


def in_the_one_shape(answer: Answer, *statuses: int) -> Json:
    """An error as every error looks: a status, a stable code, a sentence, no traceback."""
    assert answer.status in statuses, (answer.status, answer.content[:300])
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert isinstance(body["code"], int)
    assert isinstance(body["message"], str)
    assert set(body) <= {"code", "message", "errors", "retry_after", "global"}
    assert b"Traceback" not in answer.content
    return body


def names_field(body: Json, field: str) -> None:
    assert body["code"] == 50035, body
    assert body["errors"][field], body


@pytest.mark.parametrize("route", sorted(BODIES))
async def test_what_is_no_json_is_refused(scene: Scene, route: str) -> None:
    for name, content in NO_JSON.items():
        body = in_the_one_shape(await scene.send(route, content), 400)
        assert body["code"] in {50109, 50035}, name


@pytest.mark.parametrize("route", sorted(BODIES))
async def test_what_is_no_object_is_refused(scene: Scene, route: str) -> None:
    for content in NO_OBJECT.values():
        body = in_the_one_shape(await scene.send(route, content), 400)
        assert body["code"] == 50035


@pytest.mark.parametrize(("route", "field"), FIELDS)
async def test_a_wrong_type_in_any_field_names_the_field(
    scene: Scene, route: str, field: str
) -> None:
    right = scene.fill(BODIES[route])
    for wrong in ({"$ne": None}, [["x"]], {}, 1.5, True):
        content = msgspec.json.encode({**right, field: wrong})
        names_field(in_the_one_shape(await scene.send(route, content), 400), field)


@pytest.mark.parametrize(("route", "field"), FIELDS)
async def test_extreme_values_in_any_field_are_answered(
    scene: Scene, route: str, field: str
) -> None:
    right = scene.fill(BODIES[route])
    numbers = (-1, 0, 2**63, 2**64, -(2**63), 10**400)
    texts = ("", " ", "\u200b", "x" * 5000, "a\r\nb", "\u202egnp.exe", "1_000", "\u0661", "' OR 1")
    for extreme in (*numbers, *texts, None):
        raw = str(extreme).encode() if isinstance(extreme, int) else msgspec.json.encode(extreme)
        rest = {name: value for name, value in right.items() if name != field}
        content = msgspec.json.encode({**rest, field: msgspec.Raw(raw)})
        answer = await scene.send(_harmless(route), content)
        if not 200 <= answer.status < 300:
            in_the_one_shape(answer, 400, 401, 403, 404, 409)


def _harmless(route: str) -> str:
    """The route, but for an edit: it would change what `unharmed` looks at."""
    return route.replace("{message}", "7") if route.startswith("PATCH /messages") else route


TEXTS = [(route, field) for route, field in FIELDS if field in {"name", "topic", "content", "bio"}]


@pytest.mark.parametrize(("route", "field"), TEXTS)
async def test_nul_in_a_text_is_refused(scene: Scene, route: str, field: str) -> None:
    """JSON can hold it, PostgreSQL can't."""
    content = msgspec.json.encode({**scene.fill(BODIES[route]), field: "a\x00b"})
    names_field(in_the_one_shape(await scene.send(route, content), 400), field)


@pytest.mark.parametrize(
    "path",
    [
        "/guilds/{}",
        "/guilds/{}/members",
        "/channels/{}",
        "/channels/guild/{}",
        "/messages/channel/{}",
        "/messages/7/{}",
        "/messages/{}/7",
        "/users/{}",
    ],
)
async def test_a_bad_id_in_the_path_is_refused(scene: Scene, path: str) -> None:
    ids = ("1_000", "+7", "-1", "%207", "7%20", "0x7", "7.0", "\u0661\u0662", "7%00", "''")
    for number in ids:
        in_the_one_shape(await scene.ada.call("GET", path.format(number)), 400, 404)
    for number in (str(2**63), str(2**64), "9" * 30):
        answer = await scene.ada.call("GET", path.format(number))
        in_the_one_shape(answer, 400)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "-1"},
        {"limit": "101"},
        {"limit": str(2**63)},
        {"limit": "9" * 5000},
        {"limit": "all"},
        {"limit": "1_0"},
        {"limit": " 7"},
        {"limit": "1.5"},
        {"limit": "\u0667"},
        {"limit": ""},
        {"before": str(2**63)},
        {"before": "x"},
        {"after": "-1"},
        {"around": "1_000"},
    ],
)
async def test_a_bad_query_is_refused(scene: Scene, query: dict[str, str]) -> None:
    path = f"/messages/channel/{scene.guild.channel_id}"
    answer = await scene.ada.call("GET", path, query=query)
    (field,) = query
    names_field(in_the_one_shape(answer, 400), field)


@pytest.mark.parametrize("path", ["/guilds", "/guilds/my", "/users/@me/channels"])
async def test_every_list_refuses_a_limit_of_0(scene: Scene, path: str) -> None:
    in_the_one_shape(await scene.ada.call("GET", path, query={"limit": "0"}), 400)


async def test_an_unknown_path_and_a_wrong_method_look_like_every_error(scene: Scene) -> None:
    in_the_one_shape(await scene.ada.call("GET", "/no/such/thing"), 404)
    answer = await scene.ada.call("PUT", "/messages")
    in_the_one_shape(answer, 405)
    assert answer.headers["Allow"] == "POST"


async def test_an_oversized_body_is_refused(scene: Scene) -> None:
    content = b'{"content": "' + b"x" * (2 << 20) + b'"}'
    in_the_one_shape(await scene.send("POST /messages", content), 413)


async def test_a_compressed_body_is_refused(scene: Scene) -> None:
    answer = await scene.send("POST /messages", b"\x1f\x8b\x08", **{"Content-Encoding": "gzip"})
    in_the_one_shape(answer, 400, 415)


async def test_unknown_keys_are_ignored(scene: Scene) -> None:
    more = {"tts": False, "embeds": [], "sticker_ids": [], "of_tomorrow": {"deep": [1]}}
    said = await scene.ada.say(scene.guild.channel_id, "hello", **more)
    assert said["content"] == "hello"


async def test_ids_are_read_as_text_and_as_numbers(scene: Scene) -> None:
    body = {"channel_id": int(scene.guild.channel_id), "content": "by number"}
    assert (await scene.ada.post("/messages", body))["content"] == "by number"


# The gateway


@pytest.fixture
async def gateway(scene: Scene) -> Gateway:
    await scene.ada.connect()
    return scene.ada.gateway


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{}",
        b'{"op":',
        b'{"op":"1"}',
        b'{"op":1.5}',
        b'{"op":null}',
        b'{"op":true}',
        b'{"op":NaN}',
        b'{"d":{}}',
        b"[" * 10_000,
        b'{"op":1,"d":' + b"[" * 10_000,
        b'{"op":1,"d":"\\ud800"}',
        b'{"op":99999999999999999999999999}',
        b"\x1f\x8b\x08\x00",
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("is_text", [True, False])
async def test_a_frame_that_can_not_be_decoded_closes(
    gateway: Gateway,
    content: bytes,
    is_text: bool,  # noqa: FBT001  # A parameter of the test, not of a call.
) -> None:
    if is_text and content in {b"\xff\xfe", b"\x1f\x8b\x08\x00"}:
        pytest.skip("can't be a text")
    await (gateway.send_text(content.decode()) if is_text else gateway.send_bytes(content))
    await gateway.expect_close(4001, 4002)


async def test_nesting_of_10_to_the_5_closes(gateway: Gateway) -> None:
    await gateway.send_bytes(b"[" * 60_000)
    await gateway.expect_close(4002)


@pytest.mark.parametrize("op", [-1, 0, 5, 7, 9, 10, 11, 12, 99, 103, 2**31, 2**63])
async def test_an_unknown_opcode_closes(gateway: Gateway, op: int) -> None:
    await gateway.send(op)
    await gateway.expect_close(4001)


@pytest.mark.parametrize(
    "d",
    [None, [], "x", 7, {}, {"token": None}, {"token": 7}, {"token": ["x"]}, {"tokens": "x"}],
)
@pytest.mark.parametrize("op", [Op.IDENTIFY, Op.RESUME])
async def test_a_bad_identify_or_resume_closes(town: Town, op: int, d: Json) -> None:
    gateway = await town.open_gateway()
    await gateway.send(op, d)
    await gateway.expect_close(4002)


async def test_an_oversized_frame_closes(gateway: Gateway) -> None:
    await gateway.send_bytes(b'{"op":1,"d":"' + b"x" * (1 << 20) + b'"}')
    await gateway.expect_close(1009)


async def test_invalid_utf_8_in_a_text_frame_closes(gateway: Gateway) -> None:
    await gateway.send_raw_text(b'{"op":1,"d":"\xff"}')
    await gateway.expect_close(1007, 4002)


async def test_one_who_errs_disturbs_nobody(scene: Scene, gateway: Gateway) -> None:
    bob = await scene.ada.town.person("bob")
    await bob.post(f"/guilds/{scene.guild.id}/join")
    await bob.connect()
    await gateway.send_text("nonsense")
    await gateway.expect_close(4002)
    said = await scene.ada.say(scene.guild.channel_id, "go on")
    await bob.gateway.expect("MESSAGE_CREATE", id=said["id"])
