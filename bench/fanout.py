"""Measures the real server: fan-out to 1,000 sockets, durable sends, memory of idle sockets.

The server has one CPU for itself; PostgreSQL and the load share the other.
"""

import argparse
import asyncio
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import peers
from load import Result, Task
from peers import Mark

from internal.db.embedded import embedded_postgres
from internal.db.migrate import migrate
from tests.support.process import ServerProcess

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# The harness that measured the peers, where it is kept beside the checkout.
HARNESS = ROOT.parent / "shared" / "bench" / "wsload.c"
PASSWORD = "a password of the benchmark"  # noqa: S105  # Of accounts that live for a minute.
GUILDS = 3
PHASE_S = 180.0
QUIET = 0.12


def say(progress: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {progress}", flush=True)


class Figures(msgspec.Struct, kw_only=True):
    """What was measured."""

    sockets: int
    generator: str
    deliveries_per_s: float
    cpu_us_per_delivery: float
    server_cpu_share: float
    missing: int
    # What everybody else on the machine used meanwhile, as a share of one CPU.
    disturbance: float
    paced_p50_ms: float | None
    paced_p99_ms: float | None
    sends_per_s: float
    send_p50_ms: float
    send_p99_ms: float
    cpu_us_per_send: float
    refused: int
    idle_sockets: int
    kb_per_idle_socket: float


class Place(msgspec.Struct):
    """The server with its people and the channel of the benchmark."""

    port: int
    pid: int
    postgres_pid: int
    tokens: list[str]
    channel_id: str


class WsloadCpu(msgspec.Struct):
    us_per_delivery: float
    cpu_pct: float
    rss_growth_kb: int


class WsloadRow(msgspec.Struct):
    """What the peers' harness prints of a window."""

    dps: float
    p50_us: float
    p99_us: float
    cpu: dict[str, WsloadCpu]
    other_cpu_pct: float = 0.0
    missing: int = 0


async def call(http: aiohttp.ClientSession, url: str, body: object, token: str = "") -> object:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with http.post(url, data=msgspec.json.encode(body), headers=headers) as response:
        content = await response.read()
        if not response.ok:
            raise SystemExit(f"{url} answered {response.status}: {content[:300]!r}")
        return msgspec.json.decode(content)


async def settle_in(server: ServerProcess, postgres_pid: int, users: int) -> Place:
    """Accounts, and guilds that all of them are in."""
    async with aiohttp.ClientSession() as http:
        tokens = []
        for number in range(users):
            name = f"bench{number}"
            body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
            answer = await call(http, f"{server.url}/auth/register", body)
            tokens.append(msgspec.convert(answer, dict[str, object])["access_token"])
        channels = []
        for number in range(GUILDS):
            wanted = {"name": f"Guild {number}", "discoverable": True}
            made = await call(http, f"{server.url}/guilds", wanted, str(tokens[0]))
            guild = msgspec.convert(made, dict[str, object])
            first = msgspec.convert(guild["channels"], list[dict[str, object]])[0]
            channels.append(str(first["id"]))
            for token in tokens[1:]:
                await call(http, f"{server.url}/guilds/{guild['id']}/join", {}, str(token))
    port = int(server.url.rpartition(":")[2])
    return Place(port, server.pid, postgres_pid, [str(token) for token in tokens], channels[0])


async def run(command: Sequence[str], stdin: bytes = b"") -> bytes:
    """Run a program to its end, within the time that a phase may take."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        async with asyncio.timeout(PHASE_S):
            out, _ = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return out


async def load(place: Place, **more: object) -> Result:
    """Our own load program."""
    task = msgspec.convert(
        {
            "port": place.port,
            "server_pid": place.pid,
            "tokens": place.tokens,
            "channel_id": place.channel_id,
            **more,
        },
        Task,
    )
    program = [sys.executable, str(HERE / "load.py")]
    return msgspec.json.decode(await run(program, msgspec.json.encode(task)), type=Result)


class Wsload:
    """The load program that the peers were measured with."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @classmethod
    async def build(cls, folder: Path) -> "Wsload | None":
        """Compile it; None where its source or a compiler is missing."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None or not HARNESS.is_file():
            return None
        program = folder / "wsload"
        await run([compiler, "-O2", "-o", str(program), str(HARNESS), "-lm"])
        return cls(program)

    async def window(self, place: Place, *arguments: str) -> WsloadRow:
        tokens = self._program.with_name("tokens.txt")
        tokens.write_text("\n".join(place.tokens) + "\n")
        command = [
            str(self._program),
            *("-s", str(HERE / "parley.ws"), "-T", str(tokens)),
            *("-p", f"server={place.pid}", "-p", f"postgres={place.postgres_pid}"),
            *("-v", f"port={place.port}", "-v", f"channel={place.channel_id}"),
            *arguments,
        ]
        return msgspec.json.decode((await run(command)).splitlines()[0], type=WsloadRow)


@asynccontextmanager
async def serving(
    options: argparse.Namespace, folder: Path
) -> AsyncIterator[tuple[ServerProcess, int]]:
    """The real server on a CPU of its own, and the number of its PostgreSQL on the other."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[1]})
    else:
        print("  one CPU alone: the server shares it with the load, so the figures are too low")
    # Not as the server's child, lest its CPU be counted as the server's.
    async with embedded_postgres(folder / "database") as postgres:
        await migrate(postgres.owner_dsn, ROOT / "migrations")
        environ = {
            "DATABASE_URL": postgres.app_dsn,
            "JWT_SECRET": "a key for benchmarks that is long enough to sign with",
            "JWT_EXPIRES_IN": "1h",
            "GATEWAY_SOCKETS_PER_ADDRESS": "100000",
            "GATEWAY_MAX_SOCKETS": "100000",
            "RATE_LIMIT_SCALE": "100000",
            "LOG_LEVEL": "warning",
            "SHUTDOWN_TIMEOUT": "5",
            "DRAIN_WINDOW": "0",
        }
        server = ServerProcess(folder / "var", environ)
        async with server:
            os.sched_setaffinity(server.pid, {cpus[0]})
            try:
                yield server, postgres.pid
            except BaseException:
                print(server.tail(), file=sys.stderr)
                raise
            if options.verbose:
                print(server.tail())


async def restart(server: ServerProcess, place: Place) -> Place:
    """The same place on a new process, whose memory nothing has grown yet."""
    cpus = os.sched_getaffinity(server.pid)
    await server.stop()
    await server.start()
    os.sched_setaffinity(server.pid, cpus)
    return msgspec.structs.replace(place, pid=server.pid)


async def measure(options: argparse.Namespace, folder: Path) -> Figures:
    sockets, seconds = options.sockets, options.seconds
    async with serving(options, folder) as (server, postgres_pid):
        say(f"{options.users} accounts join {GUILDS} guilds")
        place = await settle_in(server, postgres_pid, options.users)

        say(f"idle: {options.idle_sockets} sockets")
        place = await restart(server, place)
        idle = await load(
            place, kind="idle", sockets=options.idle_sockets, guilds=GUILDS, measured_s=3.0
        )

        say(f"sends: 64 clients for {seconds} s")
        place = await restart(server, place)
        sends = await load(place, kind="send", publishers=64, measured_s=seconds)

        say(f"fan-out: {sockets} sockets for {seconds} s")
        place = await restart(server, place)
        wsload = None if options.own_load else await Wsload.build(folder)
        if wsload is None:
            fan = await load(place, kind="fan", sockets=sockets, guilds=GUILDS, measured_s=seconds)
            row = WsloadRow(
                dps=fan.deliveries / fan.seconds,
                p50_us=0,
                p99_us=0,
                cpu={
                    "server": WsloadCpu(
                        fan.cpu_us / max(1, fan.deliveries), fan.cpu_us / fan.seconds / 1e4, 0
                    )
                },
                missing=fan.missing,
            )
            paced = None
        else:
            # It does not poll (-B): it would take the CPU that PostgreSQL commits on.
            size = ("-n", str(sockets), "-t", str(seconds))
            row = await wsload.window(place, *size, "-W", str(options.window))
            say("fan-out: paced, 20,000 deliveries per second")
            paced = await wsload.window(place, *size, "-R", str(20_000 / sockets))
    return Figures(
        sockets=sockets,
        generator="wsload" if paced else "bench/load.py",
        deliveries_per_s=round(row.dps),
        cpu_us_per_delivery=round(row.cpu["server"].us_per_delivery, 3),
        server_cpu_share=round(row.cpu["server"].cpu_pct / 100, 2),
        missing=row.missing,
        disturbance=round(row.other_cpu_pct / 100, 2),
        paced_p50_ms=round(paced.p50_us / 1000, 2) if paced else None,
        paced_p99_ms=round(paced.p99_us / 1000, 2) if paced else None,
        sends_per_s=round(sends.acknowledged / sends.seconds),
        send_p50_ms=round(sends.ack_p50_ms, 2),
        send_p99_ms=round(sends.ack_p99_ms, 2),
        cpu_us_per_send=round(sends.cpu_us / max(1, sends.acknowledged), 1),
        refused=sends.refused,
        idle_sockets=options.idle_sockets,
        kb_per_idle_socket=round(
            (idle.rss_kb_after - idle.rss_kb_before) / options.idle_sockets, 2
        ),
    )


def show(found: Figures) -> None:
    n = f"{found.sockets:,} sockets"
    rows: list[tuple[str, str, Mark]] = [
        (f"deliveries per second, {n}", f"{found.deliveries_per_s:,.0f}", peers.DELIVERIES),
        ("CPU us per delivery", f"{found.cpu_us_per_delivery:.2f}", peers.CPU_PER_DELIVERY),
        ("durable sends per second, 64 clients", f"{found.sends_per_s:,.0f}", peers.SENDS),
        ("kB per idle socket, in 3 guilds", f"{found.kb_per_idle_socket:.1f}", peers.IDLE),
    ]
    if found.paced_p50_ms is not None:
        paced = f"{found.paced_p50_ms} / {found.paced_p99_ms}"
        rows.insert(2, ("p50 / p99 ms at 20,000 deliveries/s", paced, peers.PACED))
    print(f"\n{'':40} {'Parley':>12} {'goal':>14}  peers")
    for name, value, mark in rows:
        print(f"{name:40} {value:>12} {mark.goal:>14}  {mark.peers}")
    print(
        f"\nload by {found.generator}; the server used {found.server_cpu_share:.0%} of its CPU; "
        f"copies that never came: {found.missing}\n"
        f"sends p50 / p99 {found.send_p50_ms} / {found.send_p99_ms} ms, "
        f"{found.cpu_us_per_send} us of the server's CPU each, refused: {found.refused}\n"
        f"others on this machine used {found.disturbance:.0%} of a CPU meanwhile"
        f"{': too much to trust the figures' if found.disturbance > QUIET else ''}\n"
        "The peers were measured elsewhere with the same load (see bench/peers.py)."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--idle-sockets", type=int, default=3000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--window", type=int, default=8, help="messages in flight in the fan-out")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, in each phase")
    parser.add_argument("--own-load", action="store_true", help="even where the harness is there")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--verbose", action="store_true", help="show the server's last lines")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    # As Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print("Measuring the real server; this takes about a minute", flush=True)
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        found = asyncio.run(measure(options, Path(folder)))
    show(found)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
