"""A run: people and faults for so many seconds, then everybody comes to rest and is judged."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from tests.fault.actors import cast
from tests.fault.calls import Account
from tests.fault.evidence import Evidence, Probe, Repost, read_database
from tests.fault.faults import FAULTS, Fault, Target, faketime, own_disk
from tests.fault.history import History, Op
from tests.fault.invariants import PROBE_S, Verdict, judge
from tests.fault.readers import Reader
from tests.fault.world import Scale, World
from tests.support.gateway import Gateway, GatewayClosed
from tests.support.gateway import Op as Opcode
from tests.support.process import ROOT, ServerProcess

Json = Any

LAUNCHER = ROOT / "tests" / "fault" / "sabotage" / "launch.py"
_LONGEST_REST_S = 3.0
# So many requests under way are waited for before a fault, for so long.
_BUSY = 4
_BUSY_S = 2.0
_ENOUGH_S = 20.0
_SLOW = "parley_gateway_slow_readers_total "
_MOST_REPOSTS = 40


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    seconds: float
    seed: int
    faults: Sequence[str]
    scale: Scale = Scale()
    # Without faults, or with each of them once: go on until so much was done.
    operations: int = 0
    # The name of a bug to be built into the server; tests set it.
    sabotage: str = ""
    # How long readers may take to hear of everything at the end.
    settle_s: float = 30.0
    # A probe that is late is waited for a little longer, to tell late from lost.
    patience_s: float = 10.0
    # How long the outbox may take to empty itself at the end.
    quiet_s: float = 5.0
    # Inject each fault once, in this order, instead of any in random order.
    in_turn: bool = False


class Injection(msgspec.Struct):
    """One fault: how many requests had no certain end in it, and how long a probe then took."""

    fault: str
    took: float
    lost: int
    recovered: float | None


class Result(msgspec.Struct):
    """What came of it."""

    seed: int
    folder: str
    operations: dict[str, Counter[str]]
    statuses: Counter[int]
    frames: int
    resumes: int
    cuts: int
    slow: int
    events: int
    injections: list[Injection]
    left_out: dict[str, str]
    verdicts: list[Verdict]
    complaints: list[str]

    @property
    def violated(self) -> set[int]:
        return {verdict.number for verdict in self.verdicts if verdict.violations}


class Campaign:
    """A plan on its way."""

    def __init__(self, plan: Plan, folder: Path, target: Target, world: World) -> None:
        self.injections: list[Injection] = []
        self.left_out: dict[str, str] = {}
        self._plan = plan
        self._folder = folder
        self._target = target
        self._world = world
        self._chance = world.branch("faults")
        self._probes: list[Probe] = []
        # By the port, which is another one for each life of a node.
        self._slow: dict[str, int] = {}
        self._begun = time.monotonic()
        self._prober: Account | None = None

    async def run(self) -> Result:
        world = self._world
        await world.found()
        await world.line.start()
        self._prober = world.accounts["prober0"]
        listening = [asyncio.create_task(reader.run()) for reader in world.readers]
        try:
            async with asyncio.timeout(_ENOUGH_S):
                await asyncio.gather(*(reader.is_ready.wait() for reader in world.readers))
            self.say(f"{len(world.accounts)} people are in, {len(world.readers)} readers listen")
            acting = [asyncio.create_task(work) for work in await cast(world)]
            await self._trouble()
            world.stopping.set()
            await asyncio.gather(*acting)
            evidence = await self._gather()
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            await world.line.stop()
            world.close()
        return self._result(evidence)

    def say(self, words: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._begun:7.1f} s  {words}\n")
        sys.stdout.flush()

    # Faults.

    async def _trouble(self) -> None:
        """One fault after the other, with a rest before each and after the last."""
        possible = [f for f in map(FAULTS.__getitem__, self._plan.faults) if self._can(f)]
        rest = min(_LONGEST_REST_S, self._plan.seconds / (len(possible) + 1))
        if self._plan.in_turn or not possible:
            for fault in possible:
                await asyncio.sleep(rest)
                await self._inject(fault)
            await asyncio.sleep(rest)
            await self._enough()
            return
        until = time.monotonic() + self._plan.seconds
        order: list[Fault] = []
        while time.monotonic() < until:
            await asyncio.sleep(self._chance.uniform(0.5, 1) * rest)
            if not order:
                order = self._chance.sample(possible, len(possible))
            await self._inject(order.pop())

    async def _enough(self) -> None:
        """Wait until enough was done for the plan, however slow the machine is."""
        until = time.monotonic() + _ENOUGH_S
        while self._count() < self._plan.operations and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _can(self, fault: Fault) -> bool:
        reason = fault.obstacle(self._target)
        if reason is not None:
            self.left_out[fault.name] = reason
            self.say(f"{fault.name} is left out: {reason}")
        return reason is None

    async def _inject(self, fault: Fault) -> None:
        await self._count_slow()
        await self._busy()
        lost, began = self._world.lost, time.monotonic()
        await fault.inject(self._target)
        over = time.monotonic()
        waits = await self._probe(fault.name)
        recovered = max((w for w in waits if w is not None), default=None)
        injection = Injection(
            fault.name, over - began, self._world.lost - lost, None if None in waits else recovered
        )
        self.injections.append(injection)
        arrival = f"after {recovered:.2f} s" if injection.recovered is not None else "TOO LATE"
        self.say(
            f"{fault.name}: {injection.lost} requests without a certain end; a probe arrived"
            f" {arrival}; {self._count()} operations so far"
        )

    async def _busy(self) -> None:
        """Wait for a moment at which the fault hits something."""
        until = time.monotonic() + _BUSY_S
        while self._world.in_flight < _BUSY and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def _count_slow(self) -> None:
        """How many readers the nodes have found to be slow; a node counts anew once restarted."""
        for node in self._target.nodes:
            async with self._world.http.get(node.metrics_url) as answer:
                lines = (await answer.text()).splitlines()
            count = next(line.split()[1] for line in lines if line.startswith(_SLOW))
            self._slow[node.metrics_url] = int(float(count))

    def _count(self) -> int:
        return sum(len(history.ops) for history in self._world.histories)

    async def _probe(self, fault: str) -> list[float | None]:
        """A message, and how long those who always listen wait for it."""
        assert self._prober is not None
        words = f"probe-{len(self.injections)}"
        over = time.monotonic()
        sending = asyncio.create_task(
            self._prober.send(self._history(), self._world.plaza.channels[0], words)
        )
        steady = [r for r in self._world.readers if r.name.startswith("steady")]
        waits = await asyncio.gather(*(self._wait(reader, words, over) for reader in steady))
        await sending
        self._probes += [
            Probe(fault, reader.name, waited) for reader, waited in zip(steady, waits, strict=True)
        ]
        return list(waits)

    async def _wait(self, reader: Reader, words: str, since: float) -> float | None:
        try:
            async with asyncio.timeout(PROBE_S + self._plan.patience_s):
                await reader.has_heard(words)
        except TimeoutError:
            return None
        return time.monotonic() - since

    def _history(self) -> History:
        world = self._world
        found = next((h for h in world.histories if h.name == "prober0"), None)
        return found or world.history(world.accounts["prober0"])

    # The end.

    async def _gather(self) -> Evidence:
        world = self._world
        for reader in world.readers:
            reader.is_calm = True
        world.line.calm.set()
        await self._count_slow()
        assert self._prober is not None
        channel_id = world.plaza.channels[0]
        await self._prober.send(self._history(), channel_id, "fence")
        self.say("all operations have ended; waiting until everybody has heard of them")
        end = await self._quiet()
        # Who does not get there in time is found by its history.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.settle_s):
                await asyncio.gather(*(reader.has_reached(end) for reader in world.readers))
        async with asyncio.TaskGroup() as group:
            looks = {r.name: group.create_task(self._look(r)) for r in world.readers}
        fresh = {name: look.result() for name, look in looks.items()}
        reposts = await self._repost()
        await self._quiet()
        stored = await read_database(self._dsn(), wall_to_monotonic=time.monotonic() - time.time())
        return Evidence(
            world.histories,
            stored,
            probes=self._probes,
            reposts=reposts,
            fresh=fresh,
            fence=end,
            residents=world.residents,
        )

    def _dsn(self) -> str:
        return self._target.database.environ.get("DATABASE_URL") or self._target.superuser_dsn

    async def _quiet(self) -> int:
        """Wait until the outbox is empty and the log stands still, but not for ever; its head."""
        conn = await asyncpg.connect(self._dsn(), timeout=10)
        try:
            before, until = None, time.monotonic() + self._plan.quiet_s
            while time.monotonic() < until:
                now = await conn.fetchrow(
                    "SELECT pos, (SELECT count(*) FROM event_outbox) AS waiting FROM log_head"
                )
                if now == before and now is not None and not now["waiting"]:
                    break
                before = now
                await asyncio.sleep(0.1)
            return int(before["pos"]) if before is not None else 0
        finally:
            await conn.close()

    async def _look(self, reader: Reader) -> list[tuple[str, int, Json]] | None:
        """What the same person is told who comes now; None for one whose login is not valid."""
        token = ""
        # Signed out just before the end, a reader signs in anew.
        while token != reader.account.token:
            token = reader.account.token
            url = self._world.node().replace("http", "ws", 1) + "/gateway?v=10&encoding=json"
            gateway = await Gateway.open(url)
            try:
                await gateway.expect_op(Opcode.HELLO)
                frames = await gateway.identify(token)
                return [(frame.t or "", frame.s or 0, frame.d) for frame in frames]
            except GatewayClosed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._plan.settle_s):
                        await reader.is_ready.wait()
            finally:
                await gateway.close()
        return None

    async def _repost(self) -> list[Repost]:
        """Send some messages once more, those first whose outcome was unknown for a while."""
        by_id = {account.id: account for account in self._world.accounts.values()}
        static = {c for guild in self._world.guilds[:-1] for c in guild.channels}
        sends = [
            op
            for history in self._world.histories
            for op in history.ops
            if op.what == "send"
            and op.ok
            and op.about["channel_id"] in static
            and not by_id[op.user].username.startswith("drifter")
        ]
        self._chance.shuffle(sends)
        sends.sort(key=lambda op: -op.attempts)
        again = (_again(by_id[op.user], op) for op in sends[:_MOST_REPOSTS])
        return list(await asyncio.gather(*again))

    def _result(self, evidence: Evidence) -> Result:
        world = self._world
        operations: dict[str, Counter[str]] = {}
        for op in evidence.ops:
            operations.setdefault(op.what, Counter())[op.outcome] += 1
        statuses: Counter[int] = Counter()
        for account in world.accounts.values():
            statuses += account.statuses
        lines = (line for node in self._target.nodes for line in node.lines)
        return Result(
            seed=self._plan.seed,
            folder=str(self._folder),
            operations=operations,
            statuses=statuses,
            frames=sum(reader.frames for reader in world.readers),
            resumes=sum(t.what == "resume" for turns in evidence.turns.values() for t in turns),
            cuts=world.line.cuts,
            slow=sum(self._slow.values()),
            events=len(evidence.rows),
            injections=self.injections,
            left_out=self.left_out,
            verdicts=judge(evidence),
            complaints=[line for line in lines if _is_complaint(line)],
        )


async def _again(account: Account, op: Op) -> Repost:
    body = {
        "channel_id": op.about["channel_id"],
        "content": op.about["words"],
        "nonce": op.about["nonce"],
        "enforce_nonce": True,
    }
    status, answer = await account.ask("POST", "/messages", body)
    return Repost(op, status, str(answer.get("id")))


async def carry_out(plan: Plan, folder: Path, environ: dict[str, str] | None = None) -> Result:
    """Run a plan in a folder, where the histories stay."""
    async with _target(plan, folder, environ or {}) as target:
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as http:
            # It would send a DELETE once more by itself: what came of the first is then not known.
            http._retry_connection = False
            histories = folder / "histories"
            histories.mkdir()
            world = World(
                http,
                lambda: [node.url for node in target.nodes],
                histories,
                seed=plan.seed,
                scale=plan.scale,
            )
            return await Campaign(plan, folder, target, world).run()


@asynccontextmanager
async def _target(plan: Plan, folder: Path, environ: dict[str, str]) -> AsyncIterator[Target]:
    """The nodes. One is served for now; with several, all share the first one's database."""
    async with AsyncExitStack() as stack:
        disk = folder
        if "fill_disk" in plan.faults:
            disk = stack.enter_context(own_disk(folder))
        clock = faketime(folder) if "jump_clock" in plan.faults else {}
        node = ServerProcess(
            disk / "var",
            {
                "LOG_LEVEL": "warning",
                # Small enough that whoever stalls falls behind.
                "SLOW_READER_BYTES": "64KiB",
                "DRAIN_WINDOW": "0",
                "SHUTDOWN_TIMEOUT": "1",
                "JWT_EXPIRES_IN": "12h",
                **clock,
                **environ,
            },
        )
        if plan.sabotage:
            node.program = (str(LAUNCHER), plan.sabotage)
        await stack.enter_async_context(node)
        yield Target([node], random.Random(plan.seed))  # noqa: S311  # It can be repeated.


def _is_complaint(line: str) -> bool:
    """Whether the server says that something went wrong which no fault explains."""
    return ("Traceback" in line or '"exception"' in line) and "Unavailable" not in line
