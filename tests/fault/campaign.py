"""A run: people and faults for so many seconds, then everybody comes to rest and is judged."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import asyncpg
import msgspec

from tests.fault.actors import cast
from tests.fault.calls import GIVE_UP_S
from tests.fault.complaints import is_complaint
from tests.fault.deployment import Deployment, Needs, deploy
from tests.fault.ending import Ending
from tests.fault.evidence import Evidence, Injection, Probe
from tests.fault.faults import FAULTS, NOT_YET, Fault
from tests.fault.history import History, Op, ServerError
from tests.fault.invariants import PROBE_S, judge
from tests.fault.readers import Reader
from tests.fault.tally import Row, rows_of
from tests.fault.verdict import Verdict
from tests.fault.world import Scale, World

if TYPE_CHECKING:
    from tests.fault.calls import Account

_LONGEST_REST_S = 3.0
# So many requests under way are waited for before a fault, for so long.
_BUSY = 4
_BUSY_S = 2.0
_ENOUGH_S = 20.0
_PROBER_S = 1.5
_SLOW = "parley_gateway_slow_readers_total"
_GAPS = "parley_gateway_log_gap_total"
_PROGRESS_S = 15.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    seconds: float
    seed: int
    faults: Sequence[str]
    nodes: int = 1
    scale: Scale = Scale()
    # Each fault comes so often at least, however long that takes.
    rounds: int = 0
    # Faults last as long as in the design, rather than as short as will do.
    is_thorough: bool = False
    # Go on, without faults, until so many messages were acknowledged; no longer than that in all.
    messages: int = 0
    at_most_s: float = 600.0
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
    # How long a probe is waited for that need not arrive for the promise to be kept.
    probe_s: float = PROBE_S
    # When an operation that nobody answers is given up, once the faults may come.
    give_up_s: float = GIVE_UP_S
    # Faults without which the run proves nothing.
    required: Sequence[str] = ()
    # Inject each fault once, in this order, instead of any in random order.
    in_turn: bool = False


class Result(msgspec.Struct):
    """What came of it."""

    seed: int
    folder: str
    nodes: int
    seconds: float
    operations: dict[str, Counter[str]]
    statuses: Counter[int]
    frames: int
    resumes: int
    cuts: int
    slow: int
    events: int
    acknowledged: int
    wanted: int
    injections: list[Injection]
    rows: list[Row]
    left_out: dict[str, str]
    verdicts: list[Verdict]
    # Of the faults that were asked for, and of those without which the run proves nothing.
    faults: Sequence[str] = ()
    required: Sequence[str] = ()

    @property
    def violated(self) -> set[int]:
        return {verdict.number for verdict in self.verdicts if verdict.violations}

    @property
    def has_failed(self) -> bool:
        return bool(self.violated or self.gaps)

    @property
    def gaps(self) -> list[str]:
        """What the run was to show and did not: it then proves nothing, whatever it kept."""
        found = [
            f"{name} WAS LEFT OUT: {self.left_out[name]}."
            for name in self.required
            if name in self.left_out
        ]
        if self.faults and not self.injections:
            found.append("NO FAULT WAS INJECTED.")
        if self.acknowledged < self.wanted:
            found.append(f"ONLY {self.acknowledged} messages were acknowledged, not {self.wanted}.")
        return found


class Campaign:
    """A plan on its way."""

    def __init__(self, plan: Plan, folder: Path, target: Deployment, world: World) -> None:
        self.injections: list[Injection] = []
        self.left_out: dict[str, str] = {}
        self._plan = plan
        self._folder = folder
        self._target = target
        self._world = world
        self._chance = world.branch("faults")
        self._probes: list[Probe] = []
        # By the address of the metrics, which is another one for each life of a node.
        self._slow: dict[str, float] = {}
        self._gaps: dict[str, float] = {}
        self._begun = time.monotonic()
        self._prober: Account | None = None
        self._calls: History | None = None

    async def run(self) -> Result:
        world = self._world
        await world.found()
        await self._put_on_disk()
        await asyncio.gather(world.line.start(), world.narrow.start())
        self._prober = world.accounts["prober0"]
        self._prober.patience_s = _PROBER_S
        for account in world.accounts.values():
            account.give_up_s = self._plan.give_up_s
        self._calls = world.history(self._prober)
        listening = [asyncio.create_task(reader.run()) for reader in world.readers]
        acting: list[asyncio.Task[None]] = []
        progress = asyncio.create_task(self._progress())
        try:
            async with asyncio.timeout(_ENOUGH_S):
                await asyncio.gather(*(reader.is_ready.wait() for reader in world.readers))
            self.say(f"{len(world.accounts)} people are in, {len(world.readers)} readers listen")
            acting += [asyncio.create_task(work) for work in await cast(world)]
            await self._trouble()
            world.stopping.set()
            await asyncio.gather(*acting)
            evidence = await self._end()
        finally:
            tasks = [progress, *acting, *listening]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(world.line.stop(), world.narrow.stop())
            world.close()
        return self._result(evidence)

    async def _put_on_disk(self) -> None:
        """Make the founding safe: a server that loses it could only show that nobody exists."""
        conn = await asyncpg.connect(self._target.postgres.dsn, timeout=10)
        try:
            # A commit that waits for the disk takes along all that was committed before.
            await conn.execute("SET synchronous_commit = on")
            await conn.execute("UPDATE log_head SET epoch = epoch")
        finally:
            await conn.close()

    def say(self, words: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._begun:7.1f} s  {words}\n")
        sys.stdout.flush()

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self.say(f"{self._messages()} messages acknowledged, {self._count()} operations")

    # Faults.

    async def _trouble(self) -> None:
        """One fault after the other, with a rest before each and after the last."""
        plan = self._plan
        self.left_out |= {name: why for name, why in NOT_YET.items() if plan.is_thorough}
        possible = [f for f in map(FAULTS.__getitem__, plan.faults) if self._can(f)]
        rest = min(_LONGEST_REST_S, plan.seconds / (len(possible) + 1))
        if plan.in_turn or not possible:
            for fault in possible:
                await asyncio.sleep(rest)
                await self._inject(fault)
            await asyncio.sleep(rest)
            await self._enough(time.monotonic() + _ENOUGH_S)
        else:
            at_most = time.monotonic() + plan.at_most_s
            await self._by_chance(possible, rest)
            await self._enough(at_most)

    async def _by_chance(self, possible: Sequence[Fault], rest: float) -> None:
        until = time.monotonic() + self._plan.seconds
        order: list[Fault] = []
        left = self._plan.rounds * len(possible)
        while left > 0 or time.monotonic() < until:
            await asyncio.sleep(self._chance.uniform(0.5, 1) * rest)
            if not order:
                order = self._chance.sample(possible, len(possible))
            await self._inject(order.pop())
            left -= 1
        await asyncio.sleep(rest)

    async def _enough(self, until: float) -> None:
        """Wait until enough was done for the plan, however slow the machine is."""
        plan = self._plan
        while time.monotonic() < until and (  # noqa: ASYNC110  # Everybody counts for themselves.
            self._count() < plan.operations or self._messages() < plan.messages
        ):
            await asyncio.sleep(0.05)

    def _can(self, fault: Fault) -> bool:
        reason = fault.obstacle(self._target)
        if reason is not None:
            self.left_out[fault.name] = reason
            self.say(f"{fault.name} is left out: {reason}")
        return reason is None

    async def _inject(self, fault: Fault) -> None:
        await self._target.revive()
        await self._take_stock()
        await self._busy()
        began = time.monotonic()
        hit = await fault.inject(self._target)
        over = time.monotonic()
        injection = Injection(fault.name, began, over, hit, fault.leaves_doubt)
        waits = await self._probe(fault.name)
        if None not in waits:
            injection.recovered = max((wait for wait in waits if wait is not None), default=0)
        self.injections.append(injection)
        doubts = sum(any(at > began for at in op.doubts) for op in self._ops())
        arrival = f"after {injection.recovered:.2f} s" if None not in waits else "TOO LATE"
        self.say(
            f"{fault.name}, {over - began:.1f} s: {hit.count} {hit.what},"
            f" {doubts} operations in doubt, a probe arrived {arrival}"
        )

    async def _busy(self) -> None:
        """Wait for a moment at which the fault hits something."""
        until = time.monotonic() + _BUSY_S
        while self._world.in_flight < _BUSY and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def _take_stock(self) -> None:
        """What the nodes have counted, before a fault makes them begin anew."""
        for node in self._target.nodes:
            slow, gaps = await node.measure(self._world.http, _SLOW, _GAPS)
            self._slow[node.process.metrics_url] = slow
            self._gaps[f"{node.name} at {node.process.metrics_url}"] = gaps

    def _ops(self) -> list[Op]:
        return [op for history in self._world.histories for op in history.ops]

    def _count(self) -> int:
        return sum(len(history.ops) for history in self._world.histories)

    def _messages(self) -> int:
        return sum(op.ok for op in self._ops() if op.what == "send")

    async def _probe(self, fault: str) -> list[float | None]:
        """A message, and how long those who always listen wait for it."""
        assert self._prober is not None
        assert self._calls is not None
        words = f"probe-{len(self.injections)}"
        over = time.monotonic()
        sending = asyncio.create_task(
            self._prober.send(self._calls, self._world.plaza.channels[0], words)
        )
        steady = [r for r in self._world.readers if r.name.startswith("steady")]
        waits = await asyncio.gather(*(self._wait(reader, words, over) for reader in steady))
        await sending
        self._probes += [
            Probe(fault, reader.name, waited, over)
            for reader, waited in zip(steady, waits, strict=True)
        ]
        return list(waits)

    async def _wait(self, reader: Reader, words: str, since: float) -> float | None:
        try:
            async with asyncio.timeout(self._plan.probe_s + self._plan.patience_s):
                await reader.has_heard(words)
        except TimeoutError:
            return None
        return time.monotonic() - since

    # The end.

    async def _end(self) -> Evidence:
        assert self._prober is not None
        assert self._calls is not None
        for reader in self._world.readers:
            reader.is_calm = True
        self._world.line.calm.set()
        await self._target.revive()
        await self._take_stock()
        await self._close_lounges()
        fence = await self._prober.send(self._calls, self._world.plaza.channels[0], "fence")
        self.say("all operations have ended; waiting until everybody has heard of them")
        ending = Ending(
            self._world,
            self._target,
            settle_s=self._plan.settle_s,
            quiet_s=self._plan.quiet_s,
        )
        evidence = await ending.gather(fence)
        self.say("stopping the nodes")
        await self._target.stop()
        evidence.probes = self._probes
        evidence.injections = self.injections
        evidence.gaps = self._gaps
        evidence.deaths = self._target.deaths
        accounts = self._world.accounts.values()
        evidence.answers = sum(account.statuses.total() for account in accounts)
        evidence.errors = [
            *(error for account in accounts for error in account.errors),
            *(
                ServerError(f"{node.name} logged: {line[:2000]}")
                for node in self._target.nodes
                for line in node.process.lines
                if is_complaint(line)
            ),
        ]
        return evidence

    async def _close_lounges(self) -> None:
        """Say a last word in each of the lounges.

        What was said last when somebody came to see a channel may have been taken back since, or
        before: `last_message_id` may then name a message that is no more.
        """
        world = self._world
        steward = world.accounts["steward"]
        notes = world.history(steward, "closing")
        for number, guild in enumerate(world.lounges):
            await steward.send(notes, guild.lounge, f"closing-{number}")

    def _result(self, evidence: Evidence) -> Result:
        world = self._world
        self.say(f"judging {len(evidence.rows)} events and {len(evidence.ops)} operations")
        operations: dict[str, Counter[str]] = {}
        for op in evidence.ops:
            operations.setdefault(op.what, Counter())[op.outcome] += 1
        statuses: Counter[int] = Counter()
        for account in world.accounts.values():
            statuses += account.statuses
        verdicts = judge(evidence)
        return Result(
            seed=self._plan.seed,
            folder=str(self._folder),
            nodes=len(self._target.nodes),
            seconds=time.monotonic() - self._begun,
            operations=operations,
            statuses=statuses,
            frames=sum(reader.frames for reader in world.readers),
            resumes=sum(t.what == "resume" for turns in evidence.turns.values() for t in turns),
            cuts=world.line.cuts,
            slow=int(sum(self._slow.values())),
            events=len(evidence.rows),
            acknowledged=self._messages(),
            wanted=self._plan.messages,
            injections=self.injections,
            rows=rows_of(evidence, verdicts),
            left_out=self.left_out,
            verdicts=verdicts,
            faults=self._plan.faults,
            required=self._plan.required,
        )


async def carry_out(plan: Plan, folder: Path, environ: dict[str, str] | None = None) -> Result:
    """Run a plan in a folder, where the histories stay."""
    needs = Needs(
        nodes=plan.nodes,
        seed=plan.seed,
        is_thorough=plan.is_thorough,
        own_disk="fill_disk" in plan.faults,
        slow_disk="slow_fsync" in plan.faults,
        clock="jump_clock" in plan.faults,
        sabotage=plan.sabotage,
    )
    async with deploy(needs, folder, environ or {}) as target:
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as http:
            # It would send a DELETE once more by itself: what came of the first is then not known.
            http._retry_connection = False
            histories = folder / "histories"
            histories.mkdir()
            world = World(http, target, histories, seed=plan.seed, scale=plan.scale)
            return await Campaign(plan, folder, target, world).run()
