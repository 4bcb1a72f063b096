"""Measures reconnect storms on one real server: everybody is cut off at once, and comes back.

The clients come by way of a trusted proxy, each with an address of its own, and wait as the
protocol asks: a random time within the first second. Meanwhile messages go on being sent.
"""

import argparse
import asyncio
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp
import msgspec

from internal.db.embedded import embedded_postgres
from internal.db.migrate import migrate
from tests.support.process import ServerProcess
from tests.support.settlers import Settler, Town, settle
from tests.support.swarm import Listener, Swarm

ROOT: Final = Path(__file__).resolve().parents[1]
SECRET: Final = "a key for benchmarks that is long enough to sign with"  # noqa: S105
PATIENCE_S: Final = 120.0
GOAL_S: Final = 30.0
SETTLE_S: Final = 15.0
_BUCKET: Final = re.compile(r'^parley_loop_lag_distribution_seconds_bucket\{le="([^"]+)"\} (\S+)')


Strike = Callable[[], Awaitable[float]]


def say(progress: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {progress}", flush=True)


class Storm(msgspec.Struct, kw_only=True):
    """What came out of one storm. Times count from the cut."""

    name: str
    # Whether they had forgotten their sessions, so that they may be told to wait.
    anew: bool
    sockets: int
    p50_s: float
    p99_s: float
    last_s: float
    never: int
    statuses: dict[str, int]
    closes: dict[str, int]
    invalid_sessions: int
    lost: int
    duplicated: int
    sent: int
    send_statuses: dict[str, int]
    send_longest_ms: float
    lag_below_s: float
    cpu_s: float
    memory_before_mb: float
    memory_after_mb: float

    @property
    def is_good(self) -> bool:
        """Whether it kept what is promised of a storm of resumes."""
        bad = [s for s in (*self.statuses, *self.send_statuses) if s.startswith("5")]
        was_refused = self.invalid_sessions and not self.anew
        return self.last_s <= GOAL_S and not (
            bad or was_refused or self.never or self.lost or self.duplicated
        )


class Stream:
    """Messages at an even pace, numbered in each guild, each sent until it is acknowledged."""

    def __init__(self, server: ServerProcess, town: Town, http: aiohttp.ClientSession) -> None:
        self.sent: Counter[int] = Counter()
        self.statuses: Counter[str] = Counter()
        self.longest_s = 0.0
        self._server = server
        self._town = town
        self._http = http
        self._stop = asyncio.Event()
        # Numbers start anew with each stream, keys must not.
        self._name = uuid4().hex

    async def run(self, pace_s: float, guilds: Sequence[int], speakers: dict[int, Settler]) -> None:
        """One message after the other, in these guilds by turns, until stopped."""
        turn = 0
        while not self._stop.is_set():
            begun = time.perf_counter()
            guild = guilds[turn % len(guilds)]
            await self._say(guild, speakers[guild])
            turn += 1
            rest_s = max(0.0, pace_s - (time.perf_counter() - begun))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), rest_s)

    def stop(self) -> None:
        self._stop.set()

    async def _say(self, guild: int, speaker: Settler) -> None:
        number = self.sent[guild] + 1
        content = f"~{guild}:{number}~ the quick brown fox jumps over the lazy dog"
        body = {
            "channel_id": self._town.channels[guild],
            "content": content,
            "nonce": f"{self._name}-{guild}-{number}",
            "enforce_nonce": True,
        }
        headers = {"Authorization": f"Bearer {speaker.token}", "X-Forwarded-For": "192.0.2.1"}
        begun, status = time.perf_counter(), ""
        while status != "201":
            status = await self._post(msgspec.json.encode(body), headers)
            self.statuses[status] += 1
            if status != "201":
                await asyncio.sleep(0.1)
        self.longest_s = max(self.longest_s, time.perf_counter() - begun)
        self.sent[guild] = number

    async def _post(self, body: bytes, headers: dict[str, str]) -> str:
        try:
            async with self._http.post(
                f"{self._server.url}/messages", data=body, headers=headers
            ) as response:
                await response.read()
                return str(response.status)
        except aiohttp.ClientError as fault:
            return type(fault).__name__


class Lags:
    """The loop's lags since the last look, as the server counts them."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    async def below_s(self, http: aiohttp.ClientSession, server: ServerProcess) -> float:
        """The bound below which all of them were."""
        async with http.get(server.metrics_url) as response:
            text = await response.text()
        found = [match for line in text.splitlines() if (match := _BUCKET.match(line))]
        counts = {match[1]: float(match[2]) for match in found}
        grown = {le: count - self._before.get(le, 0.0) for le, count in counts.items()}
        self._before = counts
        total = grown.get("+Inf", 0.0)
        return min((float(le) for le, count in grown.items() if count >= total), default=0.0)

    def restart(self) -> None:
        """Another process counts from nothing."""
        self._before = {}


class Weather:
    """A server with everybody on it, and the storms that it goes through."""

    def __init__(
        self, server: ServerProcess, town: Town, swarm: Swarm, http: aiohttp.ClientSession
    ) -> None:
        self._server = server
        self._town = town
        self._swarm = swarm
        self._http = http
        self._lags = Lags()
        self._speakers = {
            guild: settler for settler in reversed(town.people) for guild in settler.guilds
        }

    @property
    def listeners(self) -> list[Listener]:
        return self._swarm.listeners

    async def cut(self, name: str, listeners: Sequence[Listener], *, anew: bool = False) -> Storm:
        """Everybody's connection is reset at once; `anew`: they have forgotten their sessions."""

        async def strike() -> float:
            if anew:
                for listener in listeners:
                    listener.forget()
            return self._swarm.cut(listeners)

        storm = await self._measure(name, listeners, strike)
        return msgspec.structs.replace(storm, anew=anew)

    async def kill(self, name: str) -> Storm:
        """`kill -9` of the server, which is started again at once, with nothing in memory."""
        cpus = os.sched_getaffinity(self._server.pid)

        async def strike() -> float:
            moment = self._swarm.expect_all()
            await self._server.kill()
            await self._server.start()
            os.sched_setaffinity(self._server.pid, cpus)
            self._lags.restart()
            return moment

        return await self._measure(name, self._swarm.listeners, strike)

    async def _measure(self, name: str, listeners: Sequence[Listener], strike: Strike) -> Storm:
        say(name)
        stream = Stream(self._server, self._town, self._http)
        streams = self._start(stream)
        await asyncio.sleep(2)
        await self._lags.below_s(self._http, self._server)
        before_mb, cpu = memory_mb(self._server.pid), cpu_s(self._server.pid)
        pid = self._server.pid
        swarm = self._swarm
        lost, doubled, refused = swarm.lost_messages, swarm.duplicated, swarm.refused
        moment = await strike()
        never = await swarm.all_level(PATIENCE_S)
        cpu = cpu_s(self._server.pid) - (cpu if pid == self._server.pid else 0.0)
        times = sorted(who.level_at - moment for who in listeners if who.level_at) or [0.0]
        lag_s = await self._lags.below_s(self._http, self._server)
        stream.stop()
        await asyncio.gather(*streams)
        missing = await self._hear_out(stream)
        return Storm(
            name=name,
            anew=False,
            sockets=len(listeners),
            p50_s=round(times[len(times) // 2], 2),
            p99_s=round(times[len(times) * 99 // 100], 2),
            last_s=round(times[-1], 2),
            never=never,
            statuses=dict(swarm.statuses),
            closes={str(code): count for code, count in swarm.closes.items()},
            invalid_sessions=swarm.refused - refused,
            lost=swarm.lost_messages - lost + missing,
            duplicated=swarm.duplicated - doubled,
            sent=stream.sent.total(),
            send_statuses=dict(stream.statuses),
            send_longest_ms=round(stream.longest_s * 1000, 1),
            lag_below_s=lag_s,
            cpu_s=round(cpu, 2),
            memory_before_mb=before_mb,
            memory_after_mb=memory_mb(self._server.pid),
        )

    def _start(self, stream: Stream) -> list["asyncio.Task[None]"]:
        """Four messages a second to everybody, and sixteen to one small guild after the other."""
        for listener in self._swarm.listeners:
            listener.heard = dict.fromkeys(listener.settler.guilds, 0)
        small = range(1, len(self._town.channels))
        plans = [(0.25, [0]), *((0.25, list(small[lane::4])) for lane in range(4))]
        return [
            asyncio.create_task(stream.run(pace_s, guilds, self._speakers))
            for pace_s, guilds in plans
            if guilds
        ]

    async def _hear_out(self, stream: Stream) -> int:
        """Wait until everybody has heard the last message of each guild; how many are missing."""
        until = time.perf_counter() + SETTLE_S
        while (missing := self._missing(stream)) and time.perf_counter() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return missing

    def _missing(self, stream: Stream) -> int:
        return sum(
            stream.sent[guild] - number
            for listener in self._swarm.listeners
            for guild, number in listener.heard.items()
        )


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise LookupError(f"process {pid} has no memory")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(options: argparse.Namespace, folder: Path) -> AsyncIterator[Weather]:
    """The real server on a CPU of its own with its usual limits, and everybody on it."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[1]})
    else:
        print("  one CPU alone: the server shares it with the clients, so it all takes longer")
    async with embedded_postgres(folder / "database") as postgres:
        await migrate(postgres.owner_dsn, ROOT / "migrations")
        town = await settle(
            postgres.owner_dsn,
            SECRET,
            people=options.sockets,
            small=options.guilds,
            size=options.size,
        )
        environ = {
            "DATABASE_URL": postgres.app_dsn,
            "JWT_SECRET": SECRET,
            "JWT_EXPIRES_IN": "1h",
            "TRUSTED_PROXIES": "127.0.0.1",
            # As it comes, every limit included.
            "RATE_LIMIT_SCALE": "1",
            "LOG_LEVEL": "warning",
            "DRAIN_WINDOW": "0",
        }
        async with (
            ServerProcess(folder / "var", environ) as server,
            aiohttp.ClientSession() as http,
        ):
            os.sched_setaffinity(server.pid, {cpus[0]})
            swarm = Swarm(int(server.url.rpartition(":")[2]), town.people)
            try:
                say(f"{options.sockets} sockets open")
                await swarm.open()
                yield Weather(server, town, swarm, http)
            except BaseException:
                print(server.tail(), file=sys.stderr)
                raise
            finally:
                await swarm.close()
            if options.verbose:
                print(server.tail())


async def measure(options: argparse.Namespace, folder: Path) -> list[Storm]:
    async with serving(options, folder) as weather:
        everybody = weather.listeners
        return [
            await weather.cut("all sockets reset, RESUME from the ring", everybody),
            await weather.kill("kill -9 and a start, RESUME from a cold ring"),
            await weather.cut("fresh IDENTIFYs", everybody[: options.fresh], anew=True),
        ]


def show(storms: Sequence[Storm]) -> None:
    for storm in storms:
        print(f"""
{storm.name}: {storm.sockets:,} sockets
level again, p50 / p99 / last     {storm.p50_s} / {storm.p99_s} / {storm.last_s} s\
{f"; NEVER: {storm.never}" if storm.never else ""}
handshakes answered               {storm.statuses}; closes {storm.closes}
sessions refused                  {storm.invalid_sessions}
lost / duplicated                 {storm.lost} / {storm.duplicated}
sends meanwhile                   {storm.sent}; answered {storm.send_statuses}; longest \
{storm.send_longest_ms} ms
loop lag                          below {storm.lag_below_s} s
CPU of the server                 {storm.cpu_s} s, \
{storm.cpu_s / storm.sockets * 1000:.2f} ms a socket
memory of the server              {storm.memory_before_mb} -> {storm.memory_after_mb} MB
{"as promised" if storm.is_good else "NOT AS PROMISED"}""")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--guilds", type=int, default=500, help="small guilds, beside the big one")
    parser.add_argument("--size", type=int, default=30, help="people in each small guild")
    parser.add_argument("--fresh", type=int, default=1000, help="sockets that identify anew")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--verbose", action="store_true", help="show the server's last lines")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    # As Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print("Storms over the real server; this takes about a minute", flush=True)
    with tempfile.TemporaryDirectory(prefix="parley-storm-") as folder:
        try:
            import uvloop  # noqa: PLC0415  # Lighter where it is there, and not needed.
        except ImportError:
            storms = asyncio.run(measure(options, Path(folder)))
        else:
            storms = uvloop.run(measure(options, Path(folder)))
    show(storms)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(storms))
    sys.exit(not all(storm.is_good for storm in storms))


if __name__ == "__main__":
    main()
