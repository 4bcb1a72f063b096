"""Measures READY for people who are in 100 guilds: how long it takes, and what it weighs.

The real server has one CPU for itself; PostgreSQL and the clients share the other. Every guild has
channels, some of which not everyone sees, and roles, of which everyone has some.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
from load import cpu_s, rss_kb

from internal.db.embedded import embedded_postgres
from internal.db.migrate import migrate
from internal.permission.model import Permission
from tests.support.gateway import Gateway, Op
from tests.support.process import ServerProcess
from tests.support.settlers import Settler, settle

ROOT: Final = Path(__file__).resolve().parents[1]
SECRET: Final = "a key for benchmarks that is long enough to sign with"  # noqa: S105
VIEW: Final = int(Permission.VIEW_CHANNEL)


def say(progress: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {progress}", flush=True)


class Figures(msgspec.Struct, kw_only=True):
    """What was measured."""

    guilds: int
    members: int
    channels: int
    roles: int
    # From IDENTIFY to the last GUILD_CREATE: the very first after a start, and those after it.
    first_ms: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    kb_told: float
    # Of the server's memory, with everything that is kept of the guilds shared among all.
    kb_per_socket: float
    # For the first socket, which brings the guilds into memory.
    kb_of_guilds: float


async def furnish(dsn: str, options: argparse.Namespace) -> None:
    """Give every guild its channels and roles, and every member some of the roles."""
    chance = random.Random(options.seed)
    conn = await asyncpg.connect(dsn)
    try:
        guilds = [row["id"] for row in await conn.fetch("SELECT id FROM guilds ORDER BY id")]
        last = await conn.fetchval("SELECT max(id) FROM channels")
        # Beyond all that was given out so far, and before the server's own.
        roles = {
            g: [last + 1_000_000 + n * 100 + r for r in range(options.roles)]
            for n, g in enumerate(guilds)
        }
        channels = {
            g: [last + 2_000_000 + n * 1000 + c for c in range(options.channels - 1)]
            for n, g in enumerate(guilds)
        }
        await conn.copy_records_to_table(
            "roles",
            columns=("id", "guild_id", "name", "permissions", "position"),
            records=[
                (role, guild, f"role {number}", 0, number + 1)
                for guild, own in roles.items()
                for number, role in enumerate(own)
            ],
        )
        await conn.copy_records_to_table(
            "channels",
            columns=("id", "guild_id", "type", "name", "topic", "position"),
            records=[
                (channel, guild, 0, f"channel-{number}", "What this is about", number + 1)
                for guild, own in channels.items()
                for number, channel in enumerate(own)
            ],
        )
        restricted = [(channel, guild) for guild, own in channels.items() for channel in own[::4]]
        await conn.copy_records_to_table(
            "channel_overwrites",
            columns=("channel_id", "target_id", "type", "allow", "deny"),
            records=[
                *((channel, guild, 0, 0, VIEW) for channel, guild in restricted),
                *((c, chance.choice(roles[guild]), 0, VIEW, 0) for c, guild in restricted),
            ],
        )
        await conn.executemany(
            "UPDATE members SET roles = $3 WHERE guild_id = $1 AND user_id = $2",
            [
                (row["guild_id"], row["user_id"], sorted(chance.sample(roles[row["guild_id"]], 3)))
                for row in await conn.fetch("SELECT guild_id, user_id FROM members")
            ],
        )
        await conn.execute("ANALYZE")
    finally:
        await conn.close()


@asynccontextmanager
async def serving(
    options: argparse.Namespace, folder: Path
) -> AsyncIterator[tuple[ServerProcess, list[Settler]]]:
    """The real server on a CPU of its own, and people who are in all of its guilds."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[1]})
    async with embedded_postgres(folder / "database") as postgres:
        await migrate(postgres.owner_dsn, ROOT / "migrations")
        say(f"{options.members} people settle in {options.guilds} guilds")
        town = await settle(
            postgres.owner_dsn,
            SECRET,
            people=options.members,
            small=options.guilds - 1,
            size=options.members,
        )
        await furnish(postgres.owner_dsn, options)
        environ = {
            "DATABASE_URL": postgres.app_dsn,
            "JWT_SECRET": SECRET,
            "JWT_EXPIRES_IN": "1h",
            "GATEWAY_SOCKETS_PER_ADDRESS": "100000",
            "RATE_LIMIT_SCALE": "100000",
            "LOG_LEVEL": "warning",
            "DRAIN_WINDOW": "0",
        }
        async with ServerProcess(folder / "var", environ) as server:
            os.sched_setaffinity(server.pid, {cpus[0]})
            try:
                yield server, town.people
            except BaseException:
                print(server.tail(), file=sys.stderr)
                raise


async def opened(server: ServerProcess, settler: Settler) -> tuple[Gateway, float, int]:
    """A connection that was told everything, how long that took, and how much it was."""
    url = server.url.replace("http", "ws", 1) + "/gateway?v=10&encoding=json"
    gateway = await Gateway.open(url)
    await gateway.expect_op(Op.HELLO)
    begun = time.perf_counter()
    frames = await gateway.identify(settler.token)
    return gateway, time.perf_counter() - begun, sum(len(frame.raw) for frame in frames)


async def measure(options: argparse.Namespace, folder: Path) -> Figures:
    async with serving(options, folder) as (server, people):
        before_kb = rss_kb(server.pid)
        say("the first one comes")
        sockets = []
        gateway, first_s, told = await opened(server, people[0])
        sockets.append(gateway)
        warm_kb, cpu = rss_kb(server.pid), cpu_s(server.pid)
        say(f"{options.sockets} others come, one after the other")
        times = []
        for number in range(options.sockets):
            gateway, spent_s, _ = await opened(server, people[(number + 1) % len(people)])
            # What a client has read it need not keep here.
            gateway.frames.clear()
            times.append(spent_s * 1000)
            sockets.append(gateway)
        cpu_ms = (cpu_s(server.pid) - cpu) * 1000 / options.sockets
        after_kb = rss_kb(server.pid)
        await asyncio.gather(*(gateway.close() for gateway in sockets))
    times.sort()
    return Figures(
        guilds=options.guilds,
        members=options.members,
        channels=options.channels,
        roles=options.roles,
        first_ms=round(first_s * 1000, 1),
        p50_ms=round(times[len(times) // 2], 1),
        p99_ms=round(times[len(times) * 99 // 100], 1),
        cpu_ms=round(cpu_ms, 1),
        kb_told=round(told / 1024, 1),
        kb_per_socket=round((after_kb - warm_kb) / options.sockets, 1),
        kb_of_guilds=round(warm_kb - before_kb, 1),
    )


def show(found: Figures) -> None:
    rows = (
        ("ms until all is told, the first after a start", f"{found.first_ms:.1f}"),
        ("p50 / p99 ms of those after it", f"{found.p50_ms} / {found.p99_ms}"),
        ("ms of the server's CPU each", f"{found.cpu_ms:.1f}"),
        ("kB told", f"{found.kb_told:,.1f}"),
        ("kB of memory, the first, with its guilds", f"{found.kb_of_guilds:,.0f}"),
        ("kB of memory, each one after it", f"{found.kb_per_socket:,.1f}"),
    )
    print(
        f"\nIn {found.guilds} guilds of {found.members} members, {found.channels} channels and "
        f"{found.roles} roles each"
    )
    for name, value in rows:
        print(f"{name:48} {value:>16}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guilds", type=int, default=100)
    parser.add_argument("--members", type=int, default=200, help="of each guild")
    parser.add_argument("--channels", type=int, default=20, help="of each guild")
    parser.add_argument("--roles", type=int, default=10, help="of each guild")
    parser.add_argument("--sockets", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    # As Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("Measuring READY on the real server; this takes about half a minute", flush=True)
    with tempfile.TemporaryDirectory(prefix="parley-ready-") as folder:
        found = asyncio.run(measure(options, Path(folder)))
    show(found)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
