"""The embedded Redis: whose it is, what it keeps, and that it is there whatever happens to it."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotConnectedError

from internal.db.embedded_redis import EmbeddedError, EmbeddedRedis, embedded_redis
from tests.support.process import ROOT, is_running

pytestmark = pytest.mark.usefixtures("has_redis")

# What a process does that is killed while its Redis runs.
LEAVE_OVER = """
import asyncio, os, signal, sys
from pathlib import Path
from internal.db.embedded_redis import EmbeddedRedis

async def main():
    server = EmbeddedRedis(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "redis"


@asynccontextmanager
async def client_of(
    server: EmbeddedRedis, retry: Retry | None = None
) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.Redis.from_url(server.url, decode_responses=True, retry=retry)
    try:
        yield client
    finally:
        await client.aclose()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def answers(server: EmbeddedRedis) -> bool:
    """Whether it answers, with the patience for a restart."""
    retry = Retry(ConstantBackoff(0.02), 200, supported_errors=(NotConnectedError,))
    async with client_of(server, retry=retry) as client:
        return bool(await client.ping())


async def test_it_answers_on_its_socket_and_leaves_nothing(folder: Path) -> None:
    async with embedded_redis(folder) as server, client_of(server) as client:
        await client.set("name", "ada")
        assert await client.get("name") == "ada"
        pid = server.pid
        assert not psutil.Process(pid).net_connections("tcp")
        assert mode_of(folder) == 0o700
    assert not is_running(pid)
    assert names_in(folder) == ["lock", "redis.log"]


async def test_it_writes_nothing_to_a_disk_and_is_bounded(folder: Path) -> None:
    async with embedded_redis(folder) as server, client_of(server) as client:
        for name, value in (
            ("save", ""),
            ("appendonly", "no"),
            ("maxmemory-policy", "allkeys-lru"),
        ):
            assert await client.config_get(name) == {name: value}
        assert await client.config_get("maxmemory") == {"maxmemory": str(128 << 20)}


async def test_one_that_dies_is_started_again_at_the_same_place(folder: Path) -> None:
    async with embedded_redis(folder) as server:
        watching = asyncio.create_task(server.watch())
        pids, url = {server.pid}, server.url
        for times in (2, 3):
            os.kill(server.pid, signal.SIGKILL)
            assert await answers(server)
            pids.add(server.pid)
            assert len(pids) == times
        assert server.url == url
    await watching
    assert not [pid for pid in pids if is_running(pid)]


async def test_one_that_was_left_over_is_cleared(folder: Path) -> None:
    """As after `kill -9`: nobody said goodbye."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEAVE_OVER, str(folder), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    *_, line = (await parent.stdout.read()).decode().splitlines()
    assert await parent.wait() == -signal.SIGKILL
    left_over = int(line)
    assert is_running(left_over)
    async with embedded_redis(folder) as server:
        assert not is_running(left_over)
        assert await answers(server)


async def test_a_folder_that_is_in_use_is_refused(folder: Path) -> None:
    async with embedded_redis(folder) as server:
        with pytest.raises(EmbeddedError, match=f"process {os.getpid()}.*already uses"):
            await EmbeddedRedis(folder).start()
        assert await answers(server)


async def test_a_path_that_is_too_long_for_a_socket_is_no_hindrance(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    async with embedded_redis(deep) as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert len(os.fsencode(socket)) <= 107
        assert mode_of(socket.parent) == 0o700
        assert await answers(server)
    assert not socket.parent.exists()


async def test_what_keeps_it_from_starting_is_told(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'no memory for this'\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedError, match="ended while starting: no memory for this"):
        await EmbeddedRedis(folder, binary=program).start()
    assert "redis.sock" not in names_in(folder)
