"""What goes round every handler, on handlers that fail in every way."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from internal.errors import SlowDown, UnknownGuild
from internal.middleware.errors import errors
from internal.middleware.headers import on_prepare
from internal.middleware.logging import request_log
from internal.middleware.rate_limit import SEND, RateLimits, addresses
from internal.middleware.runner import Runner
from internal.utils.bucket import LocalLimiter
from internal.utils.clock import SystemClock
from tests.support.clock import StandingClock

Seen = list[tuple[str, str | None, int]]


async def fail(request: web.Request) -> web.StreamResponse:
    match request.match_info["how"]:
        case "known":
            raise UnknownGuild
        case "timeout":
            raise TimeoutError
        case "gone":
            raise ConnectionResetError
        case "redirect":
            raise web.HTTPFound("/elsewhere")
        case "teapot":
            raise web.HTTPException(reason="I'm a teapot", text="<b>short and stout</b>")
        case "body":
            return web.Response(body=await request.read())
        case _:
            raise ZeroDivisionError("secret")


@pytest.fixture
def seen() -> Seen:
    return []


@pytest.fixture
async def port(seen: Seen) -> AsyncIterator[int]:
    def observe(*, method: str, route: str | None, status: int, seconds: float) -> None:
        assert seconds >= 0
        seen.append((method, route, status))

    app = web.Application(
        middlewares=[addresses(()), request_log(observe, SystemClock()), errors()]
    )
    app.on_response_prepare.append(on_prepare((), is_https=False))
    app.router.add_route("*", "/fail/{how}", fail)
    runner = Runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def exchange(port: int, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send bytes as they are; the status line, the headers and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    if status.startswith("HTTP/1.0"):
        assert await reader.read() == b"", "closed by the server"
    writer.close()
    await writer.wait_closed()
    return status, headers, body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("known", 404, 10004),
        ("timeout", 503, 90004),
        ("gone", 400, 90003),
        ("bug", 500, 0),
    ],
)
async def test_failures_have_one_shape(
    port: int, seen: Seen, how: str, status: int, code: int
) -> None:
    line, headers, body = await exchange(port, get(f"/fail/{how}?token=secret"))
    assert int(line.split()[1]) == status
    assert body.startswith(f'{{"code":{code},"message":"'.encode())
    assert b"secret" not in body
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert seen == [("GET", "/fail/{how}", status)]


async def test_a_redirect_is_no_failure(port: int) -> None:
    line, headers, _ = await exchange(port, get("/fail/redirect"))
    assert line.split()[1] == "302"
    assert headers["Location"] == "/elsewhere"


async def test_no_route_is_no_label(port: int, seen: Seen) -> None:
    await exchange(port, get("/made/up"))
    assert seen == [("GET", None, 404)]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 1_0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nBad Name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_told_so_in_json(port: int, request_bytes: bytes) -> None:
    line, headers, body = await exchange(port, request_bytes)
    assert line.split()[1] == "400"
    assert body == b'{"code":90003,"message":"Bad request"}'
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "aiohttp" not in headers["Server"]


async def test_a_body_that_is_no_body(port: int) -> None:
    line, _, body = await exchange(
        port,
        b"POST /fail/body HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    )
    assert line.split()[1] == "400"
    assert body == b'{"code":90003,"message":"Bad request"}'


async def test_frames_of_a_socket_count_like_requests() -> None:
    clock = StandingClock()
    limits = RateLimits(LocalLimiter(clock), clock)
    for _ in range(20):
        await limits.count(SEND, 7)
    with pytest.raises(SlowDown):
        await limits.count(SEND, 7)
    await limits.count(SEND, 8)
