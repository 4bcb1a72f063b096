"""The real program: how it starts, stops, is killed, and comes back with everything it promised."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.e2e.conftest import JWT_SECRET, StartServer
from tests.support.people import Guild, Person, Refused, Town
from tests.support.process import ROOT, DidNotServe, ServerProcess, free_port, is_running

LINES = 60


async def say_until_taken(
    person: Person, guild: Guild, number: int, is_up: Callable[[], Awaitable[object]]
) -> str:
    """Send a line under one nonce until it is acknowledged; the id of the message."""
    while True:
        await is_up()
        try:
            message = await person.say(
                guild.channel_id, f"line {number}", nonce=f"line-{number}", enforce_nonce=True
            )
        except (aiohttp.ClientError, ConnectionError):
            continue
        except Refused as refusal:
            if refusal.status != 503:
                raise
            continue
        return str(message["id"])


async def history(person: Person, guild: Guild) -> list[str]:
    """The ids of all messages of the guild's channel, oldest first."""
    page = await person.get(f"/messages/channel/{guild.channel_id}", limit=100)
    assert len(page) < 100
    return [message["id"] for message in reversed(page)]


async def test_a_kill_9_loses_nothing_and_doubles_nothing(
    server: ServerProcess, city: Town
) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await bob.connect()
    before = bob.gateway
    is_up = asyncio.Event()
    is_up.set()
    speaking = [
        asyncio.create_task(say_until_taken(ada, guild, number, is_up.wait))
        for number in range(LINES)
    ]
    await asyncio.wait(speaking, return_when=asyncio.FIRST_COMPLETED)
    is_up.clear()
    await server.kill()
    await server.start()
    is_up.set()
    acknowledged = await asyncio.gather(*speaking)

    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    await bob.fence()
    frames = before.of_type("MESSAGE_CREATE") + after.of_type("MESSAGE_CREATE")
    heard = [frame for frame in frames if frame.d["channel_id"] == guild.channel_id]
    assert sorted(frame.d["id"] for frame in heard) == sorted(acknowledged)
    positions = [frame.s or 0 for frame in heard]
    assert positions == sorted(set(positions))
    assert sorted(await history(bob, guild)) == sorted(acknowledged)


async def test_a_session_outlives_a_clean_restart(server: ServerProcess, city: Town) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await bob.connect()
    before = bob.gateway
    assert await server.stop() == 0
    await before.expect_close(4900)
    await server.start()
    said = await ada.say(guild.channel_id, "while you were away")
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("MESSAGE_CREATE", id=said["id"])
    assert len(after.of_type("MESSAGE_CREATE")) == 1


async def test_the_database_may_die_under_the_server(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server(embedded=True)
    city = Town(http, lambda: server.url)
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await bob.connect()
    is_up = asyncio.Event()
    is_up.set()
    speaking = [
        asyncio.create_task(say_until_taken(ada, guild, number, is_up.wait))
        for number in range(LINES)
    ]
    await asyncio.wait(speaking, return_when=asyncio.FIRST_COMPLETED)
    is_up.clear()
    server.kill_postgres()
    await server.says("embedded_postgres_restarted")
    is_up.set()
    acknowledged = await asyncio.gather(*speaking)
    assert sorted(await history(bob, guild)) == sorted(acknowledged)
    # The socket stayed, or says that it must be resumed: either way nothing is missing.
    await bob.fence()
    heard = [
        frame.d["id"]
        for frame in bob.gateway.of_type("MESSAGE_CREATE")
        if frame.d["channel_id"] == guild.channel_id
    ]
    assert sorted(heard) == sorted(acknowledged)
    await city.close()


async def test_a_server_that_has_lost_a_part_of_itself_ends(
    server: ServerProcess, database_url: str
) -> None:
    """Without a head there is no log, and no server that could tell anybody anything."""
    conn = await asyncpg.connect(database_url)
    await conn.execute("DELETE FROM log_head")
    await conn.close()
    assert await server.ended() == 1
    assert any("background_task_ended" in line and "sequencer" in line for line in server.lines)
    assert server.lines[-1] == (
        "parley: A part of the server has ended, and so it stops; its log tells why."
    )
    assert not (server.data_dir / "server.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_clean_stop_leaves_nothing_running(
    start_server: StartServer, number: signal.Signals
) -> None:
    server = await start_server(embedded=True)
    postmaster = server.postmaster()
    assert postmaster is not None
    assert is_running(postmaster)
    assert await server.stop(number) == 0
    assert not is_running(postmaster)
    assert not (server.data_dir / "server.json").exists()


async def test_a_killed_server_starts_again_on_its_data_within_three_seconds(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server(embedded=True)
    city = Town(http, lambda: server.url)
    ada = await city.person("ada")
    guild = await city.guild(ada)
    said = await ada.say(guild.channel_id, "remember me")
    await server.kill()
    begun = time.monotonic()
    await server.start()
    assert time.monotonic() - begun < 3
    assert await history(ada, guild) == [said["id"]]
    postmaster = server.postmaster()
    assert postmaster is not None
    assert await server.stop() == 0
    assert not is_running(postmaster)


async def test_a_second_server_on_the_same_data_is_refused(start_server: StartServer) -> None:
    server = await start_server(embedded=True)
    second = ServerProcess(server.data_dir, {"PORT": str(free_port())})
    with pytest.raises(DidNotServe, match="already uses"):
        await second.start()
    assert len(second.lines) <= 2, second.output


async def test_a_taken_port_is_told_in_one_sentence(start_server: StartServer) -> None:
    server = await start_server()
    port = server.url.rpartition(":")[2]
    with pytest.raises(DidNotServe, match=f"PORT={port}"):
        await start_server(PORT=port)


async def test_port_0_takes_any_and_says_which(start_server: StartServer) -> None:
    server = await start_server(PORT="0")
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/ready") as answer:
        assert answer.status == 200, await answer.text()
    assert f":{server.url.rpartition(':')[2]}" in server.output


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"PORT": "eighty"}, "PORT=eighty"),
        ({"BCRYPT_COST": "3"}, "BCRYPT_COST=3"),
        ({"REGISTRATION": "maybe"}, "REGISTRATION=maybe"),
        ({"JWT_SECRET": "tiny-key"}, "JWT_SECRET"),
        ({"WORKERS": "many"}, "WORKERS=many"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "database"),
    ],
)
def test_a_bad_setting_is_told_in_one_sentence(
    tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    given = {"DATABASE_URL": "postgresql://a@127.0.0.1:1/b", "JWT_SECRET": JWT_SECRET, **settings}
    ended = _run(tmp_path, given)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert sentence in last
    assert "Traceback" not in ended.stderr + ended.stdout
    assert "tiny-key" not in ended.stderr, "a secret is never shown"


def test_an_outside_database_needs_a_secret_of_ones_own(tmp_path: Path) -> None:
    ended = _run(tmp_path, {"DATABASE_URL": "postgresql://a@127.0.0.1:1/b"})
    assert ended.returncode == 1
    assert "JWT_SECRET" in ended.stderr


def test_an_unknown_key_in_dotenv_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PROT=8080\n")
    ended = _run(tmp_path, {})
    assert ended.returncode == 1
    assert "PROT" in ended.stderr


def test_the_effective_settings_are_printed_without_secrets(tmp_path: Path) -> None:
    secret = "a secret that must not be printed anywhere"
    ended = _run(tmp_path, {"JWT_SECRET": secret}, "--print-config")
    assert ended.returncode == 0
    assert "BCRYPT_COST" in ended.stdout
    assert secret not in ended.stdout


async def test_live_ready_and_metrics_answer(
    server: ServerProcess, city: Town, http: aiohttp.ClientSession
) -> None:
    ada = await city.person("ada")
    guild = await city.guild(ada)
    await ada.connect()
    await ada.say(guild.channel_id, "count me")
    for path in ("/live", "/ready"):
        async with http.get(server.url + path) as answer:
            assert answer.status == 200, await answer.text()
    async with http.get(server.metrics_url) as answer:
        text = await answer.text()
    assert answer.status == 200
    assert guild.channel_id not in text
    for part in ("sockets", "messages", "deliveries", "requests", "lag"):
        assert part in text, part
    async with http.get(server.url + "/metrics") as answer:
        assert answer.status == 404


async def test_log_lines_are_json_and_hold_no_secrets(server: ServerProcess, city: Town) -> None:
    ada = await city.person("ada")
    guild = await city.guild(ada)
    await ada.say(guild.channel_id, "canary-in-a-message")
    await city.stranger.call("GET", "/users/@me", query={"token": "canary-in-a-query"})
    gateway = await city.open_gateway(f"/gateway?token={ada.access_token}")
    await gateway.expect_ready()
    assert await server.stop() == 0
    for canary in (ada.access_token, ada.refresh_token, ada.password, "canary-in", ada.email):
        assert canary not in server.output
    assert any("/messages" in line for line in server.lines)


def _run(
    folder: Path, settings: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end, in a folder of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "cmd" / "main.py"), *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DATA_DIR": str(folder / "var"),
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
