"""Attacks on HTTP: smuggling, forged hosts, bad ids and types, and what answers give away."""

import gzip
import re
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from internal import serve
from internal.app import App, open_app
from internal.config.config import bound_to, load
from internal.routes.catalogue import routes
from internal.routes.openapi import describe
from internal.user.service import UserService
from tests.e2e.conftest import OpenTown
from tests.support.gateway import Op
from tests.support.people import Answer, Api, Person, Town
from tests.support.raw import Wires

Json = Any

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NEXT = b"GET /live HTTP/1.1\r\nHost: here\r\n\r\n"
# What an answer must not say about the inside of the server.
INSIDE = re.compile(rb"(?i)traceback|aiohttp|asyncpg|msgspec|python/|\.py\b|postgres|line \d+")
HARDENED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    opened = Wires()
    yield opened
    await opened.close()


@pytest.fixture
async def open_town(
    settings: dict[str, str], http: aiohttp.ClientSession
) -> AsyncIterator[OpenTown]:
    """As elsewhere, but on the listener that the server has in production."""
    async with AsyncExitStack() as stack:

        async def open_one(**more: str) -> Town:
            config = load({**settings, **more}, None)
            app = await stack.enter_async_context(open_app(config))
            listener = serve.listen(serve._runner(config, app), "127.0.0.1", 0, "PORT")
            port = await stack.enter_async_context(listener)
            app.address.config = bound_to(config, port)
            town = Town(http, lambda: f"http://127.0.0.1:{port}", app=app)
            stack.push_async_callback(town.close)
            return town

        yield open_one


def says_nothing_inside(answer: Answer) -> None:
    head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
    assert not INSIDE.search(head.encode()), head
    if answer.headers.get("Content-Type") == "application/json" and answer.status >= 400:
        assert not INSIDE.search(answer.content), answer.content


def is_hardened(answer: Answer) -> None:
    for name, value in HARDENED.items():
        assert answer.headers[name] == value, answer
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


# Smuggling: whoever is in front must never see another end of a request than the server.

POST = b"POST /auth/login HTTP/1.1\r\nHost: here\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "CL and TE": CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "TE and CL": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two TE": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE twice the same": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE that ends otherwise": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "TE unknown": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "TE with a space": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n",
    "two CL": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "two CL alike": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of CL": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "CL +2": POST + b"Content-Length: +2\r\n\r\n{}",
    "CL -2": POST + b"Content-Length: -2\r\n\r\n{}",
    "CL 0_2": POST + b"Content-Length: 0_2\r\n\r\n{}",
    "CL 0x2": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "CL in other digits": POST + b"Content-Length: \xd9\xa2\r\n\r\n{}",
    "CL beyond 2^64": POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "CL of nothing": POST + b"Content-Length: \r\n\r\n{}",
    "chunk zz": CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunk -2": CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunk +2": CHUNKED + b"\r\n+2\r\n{}\r\n0\r\n\r\n",
    "chunk 0x2": CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk 0_2": CHUNKED + b"\r\n0_2\r\n{}\r\n0\r\n\r\n",
    "chunk beyond 2^64": CHUNKED + b"\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "chunk with bare LF": CHUNKED + b"\r\n2\n{}\n0\n\n",
    "chunk longer than told": CHUNKED + b"\r\n2\r\n{}XX0\r\n\r\n",
    "chunk extension with LF": CHUNKED + b"\r\n2;a\nb\r\n{}\r\n0\r\n\r\n",
    "bare LF": b"GET /live HTTP/1.1\nHost: here\n\n",
    "bare LF in a header": b"GET /live HTTP/1.1\r\nHost: here\nX-A: b\r\n\r\n",
    "bare CR in a header": b"GET /live HTTP/1.1\r\nHost: here\rX-A: b\r\n\r\n",
    "folded header": b"GET /live HTTP/1.1\r\nHost: here\r\nX-A: b\r\n c\r\n\r\n",
    "first header folded": b"GET /live HTTP/1.1\r\n Host: here\r\n\r\n",
    "NUL in a header": b"GET /live HTTP/1.1\r\nHost: here\r\nX-A: b\0c\r\n\r\n",
    "header without a colon": b"GET /live HTTP/1.1\r\nHost: here\r\nX-A\r\n\r\n",
    "header without a name": b"GET /live HTTP/1.1\r\nHost: here\r\n: b\r\n\r\n",
    "no host": b"GET /live HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /live HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n",
    "HTTP/0.9": b"GET /live\r\n\r\n",
    "HTTP/3.0": b"GET /live HTTP/3.0\r\nHost: here\r\n\r\n",
    "no path": b"GET live HTTP/1.1\r\nHost: here\r\n\r\n",
    "a broken address": b"GET http://[::1/live HTTP/1.1\r\nHost: here\r\n\r\n",
    "a port beyond": b"GET http://x:99999999/live HTTP/1.1\r\nHost: here\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: here\r\n\r\n",
    "5,000 headers": b"GET /live HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
}


@pytest.mark.parametrize("name", sorted(AMBIGUOUS))
async def test_what_two_could_read_differently_is_refused(
    wires: Wires, town: Town, name: str
) -> None:
    connection = await wires.open(town.url, AMBIGUOUS[name] + NEXT)
    answer = await connection.answer()
    assert answer.status == 400, answer
    assert answer.json()["code"] == 90003
    is_hardened(answer)
    says_nothing_inside(answer)
    assert await connection.rest() == b"", "what follows is not read, let alone answered"


@pytest.mark.parametrize(
    "first",
    [
        CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"\r\n2;ext=1\r\n{}\r\n0\r\n\r\n",
        # A trailer is no header: it makes nobody of an address.
        CHUNKED + b"\r\n2\r\n{}\r\n0\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n",
        POST + b"Content-Length: 2\r\n\r\n{}",
    ],
)
async def test_requests_in_one_packet_end_where_they_say(
    wires: Wires, town: Town, first: bytes
) -> None:
    connection = await wires.open(town.url, first + NEXT)
    refusal = await connection.answer()
    assert (refusal.status, refusal.json()["code"]) == (400, 50035)
    assert b'"live"' in (await connection.answer()).content


# Who the server is, is for its settings to say.


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/start.js", "/openapi.json", "/live", "/no"])
async def test_a_forged_host_is_told_to_nobody(town: Town, path: str) -> None:
    forged = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "evil",
        "X-Host": "evil.example",
        "X-Original-URL": "/evil.example",
        "X-Rewrite-URL": "/evil.example",
        "Forwarded": "host=evil.example;proto=evil",
        "Referer": "http://evil.example",
        "X-HTTP-Method-Override": "DELETE",
    }
    async with town.http.get(town.url + path, headers=forged, allow_redirects=False) as answer:
        assert b"evil" not in await answer.read()
        assert "evil" not in str(answer.headers)
        assert answer.headers.get("Location", "/docs") == "/docs"


async def test_a_forged_host_is_not_where_to_resume(town: Town, app: App, ada: Person) -> None:
    forged = {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    gateway = await town.open_gateway(headers=forged)
    await gateway.expect_op(Op.HELLO)
    ready, *_ = await gateway.identify(ada.access_token)
    assert ready.d["resume_gateway_url"] == app.address.gateway()


@pytest.mark.parametrize("end", ["%0d%0a", "%0a", "%0d", "%e5%98%8a%e5%98%8d", "%00"])
async def test_no_line_of_ones_own_comes_into_a_head(town: Town, end: str) -> None:
    for path in (f"/x{end}Set-Cookie:a=b", f"/docs/{end}Set-Cookie:a=b", f"/?x={end}Set-Cookie:a"):
        answer = await raw_path(town, path, **{"X-Request-Id": f"{end}Set-Cookie:a"})
        assert "Set-Cookie" not in str(answer.headers)


async def raw_path(town: Town, path: str, **headers: str) -> Answer:
    """A request whose path is sent as it is written."""
    opened = Wires()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    try:
        return await opened.ask(
            town.url, f"GET {path} HTTP/1.1\r\nHost: here\r\n{lines}\r\n".encode()
        )
    finally:
        await opened.close()


# Ids.

BAD_IDS = [
    *(str(number) for number in (2**63, 2**64, 10**19, 10**400)),
    *("-1", "+7", "1_000", "%207", "7%20", "7%0a", "%097", "0x7", "7.0", "7e0", "1,000"),
    *("%D9%A1%D9%A2", "%EF%BC%97", "%C2%B2", "%E2%85%A6", "7%00", "%00", "null", "NaN", "'", "*"),
    *("..", "%2e%2e", "7%2f..", "7;8", "@me%20", "{guild_id}", "%25", "%ff"),
]
# A row's paths lead to one handler behind one guard, so the first of them is attacked; that each of
# the others leads there, the matrix shows.
FIRST_PATHS = {f"{row.method} {row.paths[0]}" for row in routes()}
IDS = {
    operation: len(PLACEHOLDER.findall(operation)) for operation in FIRST_PATHS if "{" in operation
}


@pytest.mark.parametrize("operation", sorted(IDS))
async def test_a_bad_id_in_any_place_is_refused(ada: Person, operation: str) -> None:
    method, path = operation.split(" ")
    for bad in BAD_IDS:
        for place in range(IDS[operation]):
            filled = path
            for number in range(IDS[operation]):
                filled = PLACEHOLDER.sub(bad if number == place else "7", filled, count=1)
            answer = await ada_asks(ada, method, filled)
            assert answer.status in {400, 403, 404, 405}, (method, filled, answer)
            known = {10000, 50013, 50035, 50109, 90002, 90003}
            # A code of an invite is any text, so an odd one is one that leads nowhere.
            known |= {10006} if "{code}" in path else set()
            assert answer.json()["code"] in known, answer
            says_nothing_inside(answer)


async def ada_asks(ada: Person, method: str, path: str) -> Answer:
    """A call whose path is encoded already. The client must not mend it."""
    target = URL(ada.town.url + path, encoded=True)
    async with ada.town.http.request(method, target, headers=ada.headers) as answer:
        return Answer(answer.status, answer.headers, await answer.read())


# Packed bodies.


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(bytes(8 << 20), mtime=0)),
        ("deflate", zlib.compress(bytes(8 << 20))),
        ("br", b"\x5b\xff\xff\x3f"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("GZip", gzip.compress(b"{}", mtime=0)),
        ("identity, gzip", gzip.compress(b"{}", mtime=0)),
        ("x-gzip", gzip.compress(b"{}", mtime=0)),
    ],
)
async def test_nothing_is_unpacked(ada: Person, encoding: str, packed: bytes) -> None:
    for method, path in (("POST", "/messages"), ("POST", "/auth/login"), ("GET", "/users/@me")):
        headers = {"Content-Encoding": encoding}
        answer = await ada.call(method, path, content=packed, headers=headers)
        assert (answer.status, answer.json()["code"]) == (415, 90011)


async def test_a_body_that_was_packed_for_the_way_is_not_unpacked(wires: Wires, town: Town) -> None:
    packed = gzip.compress(bytes(1 << 20), mtime=0)
    head = POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
    answer = await wires.ask(town.url, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed))
    assert answer.status == 400
    assert answer.json()["code"] == 50109


# Pages of others.


@pytest.mark.parametrize(
    "origin",
    [
        "https://web.example.org.evil.example",
        "https://evil.example?https://web.example.org",
        "https://web.example.org:443",
        "https://web.example.org/",
        "https://WEB.example.org",
        "https://sub.web.example.org",
        "https://webXexample.org",
        "http://web.example.org",
        "web.example.org",
        "null",
        "*",
        "",
    ],
)
async def test_an_origin_is_listed_or_it_is_not(open_town: OpenTown, origin: str) -> None:
    town = await open_town(CORS_ORIGINS="https://web.example.org,https://other.example.org")
    ask = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
    for method in ("OPTIONS", "GET", "POST"):
        for path in ("/users/@me", "/auth/login", "/no/such/path"):
            answer = await town.stranger.call(method, path, headers=ask)
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
            assert answer.status >= 400


async def test_a_listed_origin_is_named_alone_and_errors_are_readable(open_town: OpenTown) -> None:
    town = await open_town(CORS_ORIGINS="https://web.example.org,https://other.example.org")
    for origin in ("https://web.example.org", "https://other.example.org"):
        for method, path in (("GET", "/no"), ("DELETE", "/live"), ("POST", "/auth/login")):
            answer = await town.stranger.call(method, path, headers={"Origin": origin})
            assert answer.status >= 400
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert "Origin" in answer.headers["Vary"]


async def test_without_a_list_no_page_of_another_origin_may_read(town: Town) -> None:
    ask = {"Origin": "https://web.example.org", "Access-Control-Request-Method": "GET"}
    for method in ("GET", "OPTIONS"):
        answer = await town.stranger.call(method, "/live", headers=ask)
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


async def test_no_cookie_is_set_and_none_is_read(town: Town, ada: Person) -> None:
    cookie = {"Cookie": f"token={ada.access_token}; access_token={ada.access_token}"}
    assert (await town.stranger.call("GET", "/users/@me", headers=cookie)).status == 401
    pair = await ada.call(
        "POST", "/auth/refresh", content=msgspec.json.encode({"refresh_token": ada.refresh_token})
    )
    assert pair.status == 200
    assert "Set-Cookie" not in pair.headers


# What every answer says, and does not say.


async def test_every_status_is_hardened_and_says_nothing_inside(
    open_town: OpenTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("asyncpg at /srv/parley/internal/user/service.py line 7: hunter2")

    monkeypatch.setattr(UserService, "find", fail)
    town = await open_town(CORS_ORIGINS="https://web.example.org", MAX_BODY_SIZE="16KiB")
    ada = await town.person("ada")
    listed = {"Origin": "https://web.example.org", "Access-Control-Request-Method": "GET"}
    asked: list[tuple[int, Api, str, str, dict[str, Any]]] = [
        (200, ada, "GET", "/users/@me", {}),
        (201, ada, "POST", "/guilds", {"content": b'{"name":"x"}'}),
        (204, ada, "OPTIONS", "/guilds", {"headers": listed}),
        (400, ada, "POST", "/guilds", {"content": b"{"}),
        (401, town.stranger, "GET", "/users/@me", {}),
        (403, ada, "GET", "/auth/invites", {}),
        (404, ada, "GET", "/guilds/7", {}),
        (404, ada, "GET", "/nowhere", {}),
        (405, ada, "PUT", "/guilds", {}),
        (405, ada, "PROPFIND", "/guilds", {}),
        (413, ada, "POST", "/guilds", {"content": b" " * 20_000}),
        (415, ada, "POST", "/guilds", {"content": b"", "headers": {"Content-Encoding": "br"}}),
        (426, ada, "GET", "/gateway", {}),
        (500, ada, "GET", f"/users/{ada.id}", {}),
        (200, town.stranger, "GET", "/openapi.json", {}),
        (200, town.stranger, "GET", "/ready", {}),
    ]
    for status, who, method, path, rest in asked:
        answer = await who.call(method, path, **rest)
        assert answer.status == status, (method, path, answer)
        is_hardened(answer)
        says_nothing_inside(answer)
        assert "Server" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Request-Id"]
        if status >= 400:
            assert set(answer.json()) <= {"code", "message", "errors", "retry_after", "global"}
            assert b"hunter2" not in answer.content


async def test_the_page_of_the_documentation_is_hardened(town: Town) -> None:
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"):
        answer = await town.stranger.call("GET", path)
        assert answer.status == 200
        is_hardened(answer)
        assert "script-src 'unsafe" not in answer.headers["Content-Security-Policy"]
    for name in ("../docs.py", "..%2fdocs.py", "index.html", "oauth2-redirect.html", "%00", "."):
        answer = await raw_path(town, f"/docs/{name}")
        assert answer.status in {200, 404}, name
        assert b"DocsHandler" not in answer.content


# Lists.

DESCRIPTION = describe(routes(), server="/", version="0")
# Lists without pages, and what bounds each of them.
BOUNDED = {
    "GET /auth/sessions": "50 sessions of an account",
    "GET /channels/guild/{guild_id}": "500 channels of a guild",
    "GET /api/v10/guilds/{guild_id}/channels": "500 channels of a guild",
    "GET /guilds/{guild_id}/roles": "250 roles of a guild",
    "GET /api/v10/guilds/{guild_id}/roles": "250 roles of a guild",
    "PATCH /guilds/{guild_id}/roles": "250 roles of a guild",
    "PATCH /api/v10/guilds/{guild_id}/roles": "250 roles of a guild",
    "GET /guilds/{guild_id}/auto-moderation/rules": "8 rules: 6, 1 and 1 of the three kinds",
    "GET /api/v10/guilds/{guild_id}/auto-moderation/rules": "8 rules: 6, 1 and 1 of the kinds",
}


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, methods in DESCRIPTION["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolved(schema: Json) -> Json:
    """A schema with its references followed, one level deep."""
    while "$ref" in schema:
        schema = DESCRIPTION["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def is_list(operation: Json) -> bool:
    content = operation["responses"].get("200", {}).get("content", {})
    return any(resolved(kind["schema"]).get("type") == "array" for kind in content.values())


LISTS = [
    (method, path, operation) for method, path, operation in operations() if is_list(operation)
]


def test_every_list_has_a_bound() -> None:
    assert len(LISTS) >= 10
    for method, path, operation in LISTS:
        limits = [p for p in operation.get("parameters", ()) if p["name"] == "limit"]
        if f"{method} {path}" in BOUNDED:
            assert not limits, path
            continue
        assert limits, f"{path} has no limit"
        assert limits[0]["schema"]["minimum"] == 1
        assert limits[0]["schema"]["maximum"] <= 1000


READ_LISTS = {path: operation for method, path, operation in LISTS if method == "GET"}


@pytest.mark.parametrize("path", sorted(READ_LISTS))
async def test_a_list_keeps_its_bound_whatever_is_asked(
    ada: Person, scene: dict[str, str], path: str
) -> None:
    ids = scene
    if path.endswith("/thread-members"):
        ids = {**scene, "channel_id": scene["thread_id"]}
    filled = PLACEHOLDER.sub(lambda found: ids[found[1]], path)
    is_paged = f"GET {path}" not in BOUNDED
    asked = {
        part["name"]: "a"
        for part in READ_LISTS[path].get("parameters", ())
        if part["in"] == "query" and part["required"]
    }
    # Only admins read the invitations of the server, and ada is none.
    answer = await ada.call("GET", filled, query=asked)
    assert answer.status == (403 if path == "/auth/invites" else 200), answer
    for limit in ("0", "-1", "1001", str(2**31), str(2**63), "all", "1e2", "1_0", "0x1", "", " 1"):
        answer = await ada.call("GET", filled, query={**asked, "limit": limit})
        assert answer.status in ({400} if is_paged else {200, 400}), answer
    for cursor in ("before", "after", "around"):
        for value in ("0", "1", str(2**63 - 1)):
            answer = await ada.call("GET", filled, query={**asked, cursor: value, "limit": "1"})
            assert answer.status in {200, 403}, answer
            if answer.status == 200 and is_paged:
                assert len(answer.json()) <= 1
        for value in ("-1", str(2**63), "x", "1_0", "\u0661", "' OR 1=1 --", "1;SELECT 1"):
            answer = await ada.call("GET", filled, query={**asked, cursor: value})
            assert answer.status < 500, answer


# Wrong types, in every field that the description knows of.

WRONG: list[Json] = [
    None,
    True,
    -1,
    1.5,
    2**63,
    -(2**63) - 1,
    10**300,
    "",
    "x" * 70_000,
    "\x00",
    "1_000",
    "\u202e",
    [],
    [[]],
    [None] * 2000,
    {},
    {"$gt": ""},
    {"toString": "x"},
]


def is_list_of_objects(schema: Json) -> bool:
    return bool(resolved(schema).get("type") == "array")


def object_of(schema: Json) -> Json:
    """What a body is, or the first kind of it that has fields, or one of the list that it is."""
    schema = resolved(schema)
    if is_list_of_objects(schema):
        schema = resolved(schema["items"])
    kinds = [resolved(kind) for kind in schema.get("anyOf", [schema])]
    return next(kind for kind in kinds if "properties" in kind)


BODIES = {
    f"{method} {path}": operation["requestBody"]["content"]["application/json"]["schema"]
    for method, path, operation in operations()
    if "requestBody" in operation and f"{method} {path}" in FIRST_PATHS
}


@pytest.fixture
async def scene(town: Town, ada: Person) -> dict[str, str]:
    """Ada's own things, by the names that ids have in paths and bodies."""
    bob = await town.person("bob")
    guild = await town.guild(ada, bob)
    message = await ada.say(guild.channel_id, "hello")
    channel, rules = f"/channels/{guild.channel_id}", f"/guilds/{guild.id}/auto-moderation/rules"
    thread = await ada.post(f"{channel}/threads", {"name": "aside", "type": 11})
    invite = await ada.post(f"{channel}/invites", {})
    role = await ada.post(f"/guilds/{guild.id}/roles", {"name": "keeper"})
    rule = {"name": "manners", "event_type": 1, "trigger_type": 3, "actions": [{"type": 1}]}
    said = await bob.say(guild.channel_id, "buy my pills")
    report = await ada.post(f"{channel}/messages/{said['id']}/report", {"reason": "spam"})
    category = await ada.post("/channels", {"guild_id": guild.id, "name": "rooms", "type": 4})
    return {
        "guild_id": guild.id,
        "channel_id": guild.channel_id,
        "thread_id": thread["id"],
        "message_id": message["id"],
        "user_id": ada.id,
        "session_id": ada.session_id,
        "invite_id": "7",
        "code": invite["code"],
        "role_id": role["id"],
        "target_id": role["id"],
        "rule_id": (await ada.post(rules, rule))["id"],
        "report_id": report["id"],
        "parent_id": category["id"],
        "recipient_id": bob.id,
    }


def plausible(name: str, schema: Json, ids: dict[str, str]) -> Json:
    """A value that a field takes, so that the next field is looked at."""
    if name in ids:
        return ids[name]
    schema = resolved(resolved(schema).get("anyOf", [schema])[0])
    value: Json
    match schema:
        case {"enum": [first, *_]}:
            value = first
        case {"type": "integer"}:
            value = max(schema.get("minimum", 0), 0)
        case {"type": "boolean"}:
            value = False
        case {"type": "array", "items": items}:
            value = [plausible(name, items, ids)]
        case {"type": "object"}:
            value = filled_in(schema, schema["required"], ids)
        case {"format": "date-time"}:
            value = "2126-01-01T00:00:00+00:00"
        case {"type": "string"}:
            kind = next((kind for kind in ("role", "channel", "user") if kind in name), "message")
            likely = ("plausible", ids[f"{kind}_id"], "plausible@example.org")
            pattern = schema.get("pattern", "")
            value = next(text for text in likely if re.match(pattern, text))
        case _:
            value = None
    return value


def filled_in(schema: Json, names: Iterable[str], ids: dict[str, str]) -> Json:
    """An object with these fields, each of which has something plausible."""
    return {name: plausible(name, schema["properties"][name], ids) for name in names}


def admits(schema: Json, value: Json) -> bool:
    """Whether null, a list or an object is described as a value of a field."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return any(admits(kind, value) for kind in schema["anyOf"])
    match value, schema:
        case None, {"type": "null"}:
            return True
        case list(), {"type": "array", "items": items}:
            bounds = range(schema.get("minItems", 0), schema.get("maxItems", len(value)) + 1)
            return len(value) in bounds and all(admits(items, one) for one in value)
        case dict(), {"type": "object"}:
            # Fields that nobody knows of are passed over.
            return not set(schema.get("required", ())) - value.keys()
        case _:
            return False


@pytest.mark.parametrize("operation", sorted(BODIES))
async def test_a_wrong_value_in_any_field_is_answered(
    ada: Person, scene: dict[str, str], operation: str
) -> None:
    method, path = operation.split(" ")
    filled = PLACEHOLDER.sub(lambda found: scene[found[1]], path)
    schema = object_of(BODIES[operation])
    # What is moved in a list goes by its bare id.
    scene = {**scene, "id": scene["role_id" if path.endswith("/roles") else "channel_id"]}
    # Where a thing is to be is said in the body when it is not said in the path.
    places = {"guild_id", "channel_id", "recipient_id"} & set(schema["properties"])
    # Beside the wrong value stands all that is known, or no more than there must be.
    bodies = [
        filled_in(schema, schema["properties"], scene),
        filled_in(schema, {*schema.get("required", ()), *places}, scene),
    ]
    for name, field in schema["properties"].items():
        for wrong in WRONG:
            raw = str(wrong).encode() if isinstance(wrong, int) else msgspec.json.encode(wrong)
            if isinstance(wrong, bool):
                raw = b"true"
            for right in bodies:
                body = {**{key: right[key] for key in right if key != name}, name: msgspec.Raw(raw)}
                content = msgspec.json.encode(
                    [body] if is_list_of_objects(BODIES[operation]) else body
                )
                answer = await ada.call(method, filled, content=content)
                assert answer.status < 500, (operation, name, str(wrong)[:80], answer)
                says_nothing_inside(answer)
                is_odd = wrong is None or isinstance(wrong, (dict, list))
                if is_odd and not admits(field, wrong):
                    assert answer.status in {400, 401, 403}, (operation, name, wrong, answer)
    assert (await ada.call("GET", "/live")).status == 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = sorted({name for schema in BODIES.values() for name in object_of(schema)["properties"]})


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4) | JSON)
async def test_no_body_at_all_is_an_error_of_the_server(
    ada: Person, scene: dict[str, str], body: Json
) -> None:
    content = msgspec.json.encode(body)
    for operation in BODIES:
        method, path = operation.split(" ")
        if "/api/" in path:
            continue
        filled = PLACEHOLDER.sub(lambda found: scene[found[1]], path)
        for sent in (content, b"[%b]" % content):
            answer = await ada.call(method, filled, content=sent)
            # On a busy machine the server may shed load, whatever is asked of it.
            is_shed = answer.status == 503 and answer.json()["code"] == 90004
            assert answer.status < 500 or is_shed, (operation, sent, answer)


async def test_texts_that_mean_something_elsewhere_mean_themselves_here(
    town: Town, ada: Person
) -> None:
    """SQL, templates, shells and formats: what was said is what is read."""
    guild = await town.guild(ada)
    said = []
    for text in (
        "'; DROP TABLE messages; --",
        '" OR ""="',
        "$1 %s %(x)s {0} ${jndi:ldap://x} {{7*7}} <%= 7 %>",
        "<script>alert(1)</script>",
        "\\x00 \\u0000 \\",
        "a\r\nb\tc\x1b[31m",
        "100% _ \\_ \\%",
    ):
        message = await ada.say(guild.channel_id, text)
        assert message["content"] == text
        said.append(text)
    page = await ada.get(f"/messages/channel/{guild.channel_id}")
    assert [message["content"] for message in reversed(page)] == said
    for path in ("/users/{}", "/guilds/{}", "/messages/channel/{}"):
        answer = await ada_asks(ada, "GET", path.format(quote("7' OR '1'='1")))
        assert answer.status == 404
