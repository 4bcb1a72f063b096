"""Too much to do: what is refused, how it is said, and what goes on all the same."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from internal.app import App
from internal.chat.ws import service as ws_service
from internal.monitoring import load
from internal.utils import deadline
from tests.e2e.conftest import JWT_SECRET, OpenTown, StartServer
from tests.support import swarm as swarms
from tests.support.flood import Flood
from tests.support.gateway import Gateway, Op
from tests.support.people import Person, Town, refused
from tests.support.raw import Wires
from tests.support.settlers import settle
from tests.support.swarm import Swarm

TRY_AGAIN = 90004
HOLD_S = 0.2
# How many requests under way stand for which level; see internal/monitoring/load.py.
HISTORY_IS_SHED = 3_000
ALL_IS_SHED = 30_000


@pytest.fixture
def quick_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels rise and fall at once; how slowly they do otherwise, tests/unit/test_load.py tells."""
    monkeypatch.setattr(load, "_MEMORY_S", 0.1)
    monkeypatch.setattr(load, "_CALM_S", 0.1)
    monkeypatch.setattr(ws_service, "_HOLD_S", (HOLD_S, 2 * HOLD_S))


@asynccontextmanager
async def level_of(app: App, requests: int, level: int) -> AsyncIterator[None]:
    """The level of a server that has so many requests under way."""
    app.load.requests += requests
    try:
        await reaches(lambda: app.load.level == level)
        yield
    finally:
        app.load.requests -= requests


async def reaches(is_so: Callable[[], bool], within: float = 15.0) -> None:
    async with asyncio.timeout(within):
        while not is_so():  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def all_connections(app: App) -> AsyncIterator[None]:
    """Nobody gets a connection to the database meanwhile."""
    async with AsyncExitStack() as stack:
        for _ in range(app.config.db_pool_size):
            await stack.enter_async_context(app.db.read())
        yield


async def test_whoever_lets_the_server_wait_for_a_body_is_no_load(
    town: Town, app: App, ada: Person
) -> None:
    head = (
        f"PATCH /users/@me HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {ada.access_token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
    ).encode()
    wires = Wires()
    try:
        slow = [await wires.open(town.url, head) for _ in range(20)]
        for _ in range(5):
            await ada.get("/users/@me")
        assert app.load.requests == 0
        await slow.pop().close()
        for connection in slow:
            connection.send(b"}")
            assert (await connection.answer()).status == 200
        await reaches(lambda: app.load.requests == 0)
    finally:
        await wires.close()


async def test_history_beyond_its_gate_is_refused_at_once(
    town: Town, app: App, ada: Person
) -> None:
    guild = await town.guild(ada)
    path = f"/messages/channel/{guild.channel_id}"
    # Known from here on, so that no request has to look its session up.
    await ada.get(path)
    async with all_connections(app):
        asked = [asyncio.create_task(ada.call("GET", path)) for _ in range(230)]
        done: set[asyncio.Task[object]] = set()
        while len(done) < 25:
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            done = {task for task in asked if task.done()}
    answers = await asyncio.gather(*asked)
    refusals = [answer for answer in answers if answer.status != 200]
    # Five at once and two hundred that wait.
    assert len(refusals) == 25
    for refusal in refusals:
        assert refusal.status == 503
        assert refusal.json()["code"] == TRY_AGAIN
        assert 1 <= int(refusal.headers["Retry-After"]) <= 5
        assert 1 <= refusal.json()["retry_after"] <= 5
    assert len({refusal.json()["retry_after"] for refusal in refusals}) > 5
    assert len(await ada.get(path)) == 0


@pytest.mark.usefixtures("quick_changes")
async def test_under_load_history_waits_and_sends_go_on(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    async with level_of(app, HISTORY_IS_SHED, 3):
        with refused(503, TRY_AGAIN):
            await ada.get(f"/messages/channel/{guild.channel_id}")
        with refused(503, TRY_AGAIN):
            await ada.get(f"/guilds/{guild.id}/members")
        # Typing is answered as ever, and told to nobody.
        assert await ada.post(f"/channels/{guild.channel_id}/typing") is None
        said = await ada.say(guild.channel_id, "one")
        await bob.gateway.expect("MESSAGE_CREATE", id=said["id"])
        assert not bob.gateway.of_type("TYPING_START")
        assert (await ada.get("/users/@me"))["id"] == ada.id
        await ada.connect()
        again = await bob.resume(session_id, seq)
        await again.expect("MESSAGE_CREATE", id=said["id"])
        await again.expect("RESUMED")
    await reaches(lambda: app.load.level < 3)
    assert len(await ada.get(f"/messages/channel/{guild.channel_id}")) == 1


@pytest.mark.usefixtures("quick_changes")
async def test_at_its_limit_a_server_still_takes_sends_and_resumes(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    async with level_of(app, ALL_IS_SHED, 4):
        with refused(503, TRY_AGAIN):
            await ada.login()
        with refused(503, TRY_AGAIN):
            await ada.get("/users/@me")
        said = await ada.say(guild.channel_id, "one")
        again = await bob.resume(session_id, seq)
        await again.expect("MESSAGE_CREATE", id=said["id"])
        await again.expect("RESUMED")
        ada.take({"user": {"id": ada.id}, **await ada.post("/auth/refresh", refresh(ada))})
        assert (await town.stranger.call("GET", "/live")).status == 200
        assert (await town.stranger.call("GET", "/ready")).status == 200
        newcomer = await town.open_gateway()
        await newcomer.send(Op.IDENTIFY, {"token": ada.access_token})
        refusal = await newcomer.expect_op(Op.INVALID_SESSION)
        assert refusal.d is False
    # The same socket serves, once there is room.
    await reaches(lambda: app.load.level < 4)
    assert (await newcomer.identify(ada.access_token))[0].t == "READY"


def refresh(person: Person) -> dict[str, str]:
    return {"refresh_token": person.refresh_token}


@pytest.mark.usefixtures("quick_changes")
async def test_an_opening_beyond_its_gate_comes_after_a_while(
    town: Town, app: App, ada: Person
) -> None:
    openings = app.gateway.openings
    async with AsyncExitStack() as stack:
        for _ in range(app.gateway.limits.openings):
            await stack.enter_async_context(openings.entered())
        # As if as many waited as may.
        openings.waiting = app.gateway.limits.openings_waiting
        gateway = await town.open_gateway()
        began = time.monotonic()
        await gateway.send(Op.IDENTIFY, {"token": ada.access_token})
        await gateway.expect_op(Op.INVALID_SESSION)
        assert time.monotonic() - began >= HOLD_S
        # Who knows no opcodes is closed, resumably.
        plain = await town.open_gateway(f"/gateway?token={ada.access_token}")
        await plain.expect_op(Op.RECONNECT)
        await plain.expect_close(4000)
        openings.waiting = 0
    assert (await gateway.identify(ada.access_token))[0].t == "READY"


async def test_a_library_that_resumes_before_it_was_ready_is_told_to_identify(
    town: Town, ada: Person
) -> None:
    """As discord.py does after op 7: its session is null then."""
    gateway = await town.open_gateway()
    await gateway.send(Op.RESUME, {"token": ada.access_token, "session_id": None, "seq": None})
    await gateway.expect_op(Op.INVALID_SESSION)
    assert (await gateway.identify(ada.access_token))[0].t == "READY"


async def test_who_waits_for_an_opening_is_no_stranger(open_town: OpenTown) -> None:
    """A storm of people who come back must not be refused for being many."""
    town = await open_town(GATEWAY_MAX_SOCKETS="8")
    assert town.app is not None
    ada = await town.person("ada")
    openings = town.app.gateway.openings
    async with AsyncExitStack() as stack:
        for _ in range(town.app.gateway.limits.openings):
            await stack.enter_async_context(openings.entered())
        waiting: list[Gateway] = []
        for _ in range(6):
            waiting.append(await town.open_gateway())
            await waiting[-1].send(Op.IDENTIFY, {"token": ada.access_token})
            await reaches(lambda: openings.waiting == len(waiting))
    for gateway in waiting:
        assert (await gateway.expect_ready())[0].t == "READY"


async def test_a_request_past_its_deadline_is_not_begun(town: Town, app: App, ada: Person) -> None:
    await town.guild(ada)
    deadline.begin(-1)
    try:
        with pytest.raises(Exception, match="try again"):
            async with app.db.transaction() as tx:
                await tx.conn.execute("DELETE FROM guilds")
        assert len(await ada.get("/guilds/my")) == 1
    finally:
        deadline.lift()


async def test_a_statement_is_cancelled_at_the_deadline(app: App) -> None:
    began = time.monotonic()
    deadline.begin(0.2)
    try:
        with pytest.raises(Exception, match="try again"):
            async with app.db.read() as conn:
                await conn.execute("SELECT pg_sleep(10)")
    finally:
        deadline.lift()
    assert time.monotonic() - began < 5
    async with app.db.read() as conn:
        running = await conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE '%pg_sleep(10)%'"
            " AND state = 'active' AND pid <> pg_backend_pid()"
        )
    assert running == 0


async def test_four_times_too_much_history_leaves_sends_alone(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server(HTTP_CONNECTIONS_PER_ADDRESS="2000", LOG_LEVEL="warning")
    town = Town(http, lambda: server.url)
    reader, writer = await town.people(2)
    guild = await town.guild(reader, writer)
    for number in range(50):
        await writer.say(guild.channel_id, f"{number} " * 50)
    path = f"/messages/channel/{guild.channel_id}?limit=50"
    flood = Flood(server.url, path, reader.access_token)
    try:
        # More than may wait.
        await flood.open(600)
        sustained = await flood.as_fast_as_answered(16, 0.75)
        times: list[float] = []
        writing = asyncio.create_task(say_often(writer, guild.channel_id, times))
        offered = await flood.at_pace(4 * sustained, 2.5)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    finally:
        flood.close()
    # Every request was answered, and nothing but "try again" was refused.
    assert set(offered) <= {200, 503}, offered
    assert offered[200] > 0
    assert offered[503] > 0
    times.sort()
    assert len(times) >= 5
    assert times[len(times) // 2] < 1, times
    assert times[-1] < 5, times
    await town.close()


async def say_often(writer: Person, channel_id: str, times: list[float]) -> None:
    """Send one after the other, and note how long each took; any refusal is a fault."""
    while True:
        began = time.monotonic()
        await writer.say(channel_id, "through all that")
        times.append(time.monotonic() - began)


async def test_a_storm_of_resumes_is_served_whole(
    start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short form of bench/storm.py: its limits are the usual ones."""
    # They come more at once than well-behaved clients do.
    monkeypatch.setattr(swarms, "_FIRST_BACKOFF_S", 0.25)
    server = await start_server(RATE_LIMIT_SCALE="1", TRUSTED_PROXIES="127.0.0.1")
    crowd = await settle(database_url, JWT_SECRET, people=300, small=30, size=20)
    swarm = Swarm(int(server.url.rpartition(":")[2]), crowd.people)
    try:
        await swarm.open()
        began = swarm.cut(swarm.listeners)
        assert await swarm.all_level(30) == 0
        assert time.perf_counter() - began < 30
        assert set(swarm.statuses) == {"101"}

        swarm.expect_all()
        await server.kill()
        await server.start()
        assert await swarm.all_level(30) == 0
        assert not any(status.startswith(("4", "5")) for status in swarm.statuses)
        assert swarm.refused == 0
    finally:
        await swarm.close()
