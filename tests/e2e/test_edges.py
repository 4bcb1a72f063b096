"""The edges of the listener and of the process: what is easily forgotten."""

import asyncio
import os
import signal
import sys

import aiohttp
import asyncpg
import pytest
from prometheus_client import generate_latest

from internal.config.values import origin_of
from tests.e2e.conftest import JWT_SECRET, OpenTown, StartServer
from tests.support.people import Person, Town, refused
from tests.support.process import ROOT, is_running


@pytest.mark.parametrize("path", ["/live", "/ready", "/openapi.json", "/docs"])
async def test_head_is_answered_as_get_is(
    town: Town, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.head(f"{town.url}{path}") as answer:
        assert answer.status == 200
        assert await answer.read() == b""


async def test_the_front_leads_to_the_documentation(
    town: Town, http: aiohttp.ClientSession
) -> None:
    async with http.get(f"{town.url}/") as answer:
        assert answer.url.path == "/docs"
        assert "Parley" in await answer.text()


async def test_an_unknown_expectation_is_refused_in_the_one_shape(town: Town) -> None:
    answer = await town.stranger.call("GET", "/live", headers={"Expect": "miracles"})
    assert answer.status == 417
    assert answer.headers["Content-Type"] == "application/json"
    assert b"miracles" not in answer.content


async def test_a_body_is_not_asked_for_to_be_refused(town: Town) -> None:
    host, port = town.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


async def test_routes_that_there_are_not_have_a_limit(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    seen = [(await town.stranger.call("GET", "/nothing")).status for _ in range(130)]
    assert seen[0] == 404
    assert seen[-1] == 429


async def test_every_operation_of_the_description_has_an_id_of_its_own(town: Town) -> None:
    description = await town.stranger.get("/openapi.json")
    ids = [
        operation["operationId"]
        for path in description["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids))


async def test_a_retry_is_known_after_the_key_was_changed(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server()
    town = Town(http, lambda: server.url)
    ada = await town.person("ada")
    guild = await town.guild(ada)
    said = await ada.say(guild.channel_id, "once", nonce="n", enforce_nonce=True)
    await server.stop()
    server.environ["JWT_SECRET"] = "another key that is long enough to sign with"
    server.environ["JWT_PREVIOUS_SECRETS"] = JWT_SECRET
    await server.start()
    again = await ada.say(guild.channel_id, "once", nonce="n", enforce_nonce=True)
    assert again["id"] == said["id"]
    with refused(409, 40015):
        await ada.say(guild.channel_id, "twice", nonce="n", enforce_nonce=True)
    await town.close()


async def test_a_log_that_stands_still_shows_in_the_metrics(
    town: Town, ada: Person, database_url: str
) -> None:
    assert town.app is not None
    guild = await town.guild(ada)
    conn = await asyncpg.connect(database_url)
    async with conn.transaction():
        await conn.execute("LOCK TABLE log_head")
        await ada.say(guild.channel_id, "waiting")
        async with asyncio.timeout(10):
            while True:
                lines = generate_latest(town.app.metrics.registry).decode().splitlines()
                (age,) = (
                    float(line.split()[1])
                    for line in lines
                    if line.startswith("parley_outbox_oldest_age_seconds ")
                )
                if age > 1:
                    break
                await ada.get("/users/@me")
    await conn.close()


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [
        ("https://Chat.example.org/base", "https://chat.example.org"),
        ("http://chat.example.org:80", "http://chat.example.org"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_the_own_pages_are_known_by_their_origin(public_url: str, origin: str) -> None:
    assert origin_of(public_url) == origin


async def test_a_closed_terminal_stops_everything(start_server: StartServer) -> None:
    server = await start_server(embedded=True)
    postmaster = server.postmaster()
    assert postmaster is not None
    assert await server.stop(signal.SIGHUP) == 0
    assert not is_running(postmaster)


async def test_it_serves_though_nobody_reads_its_greeting(settings: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "cmd" / "main.py"),
        env={**kept, **settings, "PORT": "0", "PYTHONPATH": str(ROOT), "LOG_FORMAT": "json"},
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while b'"serving"' not in await process.stderr.readline():
            assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
