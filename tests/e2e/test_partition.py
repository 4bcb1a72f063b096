"""A network between the server and its database that swallows what is put into it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest

from tests.e2e.conftest import OpenTown
from tests.fault.wire import Address, Wire


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Wire]:
    """The line to the database."""
    parts = urlsplit(database_url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    port = parts.port or int(parse_qs(parts.query).get("port", ["5432"])[0])
    address: Address = (
        Path(folder) / f".s.PGSQL.{port}" if folder else (parts.hostname or "localhost", port)
    )
    wire = Wire(lambda: address)
    await wire.start()
    yield wire
    await wire.stop()


def over(line: Wire, database_url: str) -> str:
    """The same database, reached over the line."""
    parts = urlsplit(database_url)
    account = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{account}@127.0.0.1:{line.port}", query=""))


async def test_a_dead_connection_is_noticed_when_a_fresh_one_answers(
    open_town: OpenTown, line: Wire, database_url: str
) -> None:
    town = await open_town(DATABASE_URL=over(line, database_url))
    ada = await town.person("ada")
    guild = await town.guild(ada)
    await ada.connect()
    for number in range(3):
        line.blacken()
        # Hits connections in the middle of something.
        caught = [
            asyncio.create_task(
                ada.call(
                    "POST",
                    "/messages",
                    content=b'{"channel_id":"%b","content":"x"}' % guild.channel_id.encode(),
                    headers={"Content-Type": "application/json"},
                )
            )
            for _ in range(5)
        ]
        # Long enough that the server has asked whether anybody is there.
        done, _ = await asyncio.wait(caught, timeout=1.2)
        assert not done
        await line.open()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*caught)
        assert {answer.status for answer in answers} <= {201, 503}
        await ada.say(guild.channel_id, f"after {number}")
        await ada.gateway.expect("MESSAGE_CREATE", content=f"after {number}", within=5)
