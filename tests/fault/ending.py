"""The end of a run: everybody comes to rest, is asked once more, and the database is read."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import asyncpg

from tests.fault.calls import LOST, MAYBE_DONE, Account
from tests.fault.deployment import Deployment
from tests.fault.evidence import Evidence, Repost, read_database
from tests.fault.history import Op
from tests.fault.readers import Reader
from tests.fault.world import World
from tests.support.gateway import Gateway, GatewayClosed
from tests.support.gateway import Op as Opcode

Json = Any

_MOST_REPOSTS = 40
_TRIES = 5


class Ending:
    """What is done once nothing new is begun."""

    def __init__(
        self, world: World, target: Deployment, *, settle_s: float, quiet_s: float
    ) -> None:
        self._world = world
        self._target = target
        self._settle_s = settle_s
        self._quiet_s = quiet_s
        self._chance = world.branch("ending")

    async def gather(self, fence: Op) -> Evidence:
        """`fence` is the last message, which everybody gets."""
        world = self._world
        await self._quiet()
        end = await self._position(fence)
        # Who does not get there in time is found by its history.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settle_s):
                await asyncio.gather(*(reader.has_reached(end) for reader in world.readers))
        nodes = self._target.nodes
        async with asyncio.TaskGroup() as group:
            looks = {
                reader.name: group.create_task(
                    # At each node in turn: none may know anything else than the others.
                    self._look(reader, nodes[number % len(nodes)].door.url)
                )
                for number, reader in enumerate(world.readers)
            }
        fresh = {name: look.result() for name, look in looks.items()}
        reposts = await self._repost()
        await self._quiet()
        stored = await read_database(
            self._target.postgres.dsn, wall_to_monotonic=time.monotonic() - time.time()
        )
        return Evidence(
            world.histories,
            stored,
            reposts=reposts,
            fresh=fresh,
            fence=end,
            residents=world.residents,
        )

    async def _position(self, fence: Op) -> int:
        """Where a message is in the log; 0 if it never came there."""
        if not fence.ok:
            return 0
        conn = await asyncpg.connect(self._target.postgres.dsn, timeout=10)
        try:
            message_id = int(fence.result["id"])
            found = await conn.fetchval(
                "SELECT min(pos) FROM event_log WHERE subject = $1", message_id
            )
            return int(found or 0)
        finally:
            await conn.close()

    async def _quiet(self) -> None:
        """Wait until the outbox is empty and the log stands still, but not for ever."""
        conn = await asyncpg.connect(self._target.postgres.dsn, timeout=10)
        try:
            before, until = None, time.monotonic() + self._quiet_s
            while time.monotonic() < until:
                now = await conn.fetchrow(
                    "SELECT pos, (SELECT count(*) FROM event_outbox) AS waiting FROM log_head"
                )
                if now == before and now is not None and not now["waiting"]:
                    break
                before = now
                await asyncio.sleep(0.1)
        finally:
            await conn.close()

    async def _look(self, reader: Reader, node: str) -> list[tuple[str, int, Json]] | None:
        """What the same person is told who comes now; None for one whose login is not valid."""
        for _ in range(_TRIES):
            try:
                async with asyncio.timeout(self._settle_s):
                    return await _opening(node, reader.account.token)
            except GatewayClosed:
                # Signed out just before the end, a reader signs in anew.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settle_s):
                        await reader.is_ready.wait()
            except (AssertionError, TimeoutError):
                # It never came: that is no state at all, and found to be another one.
                return []
            except OSError:
                node = self._world.node(node)
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


async def _opening(node: str, token: str) -> list[tuple[str, int, Json]]:
    gateway = await Gateway.open(node.replace("http", "ws", 1) + "/gateway?v=10&encoding=json")
    try:
        await gateway.expect_op(Opcode.HELLO)
        frames = await gateway.identify(token)
        return [(frame.t or "", frame.s or 0, frame.d) for frame in frames]
    finally:
        await gateway.close()


async def _again(account: Account, op: Op) -> Repost:
    body = {
        "channel_id": op.about["channel_id"],
        "content": op.about["words"],
        "nonce": op.about["nonce"],
        "enforce_nonce": True,
    }
    status, answer = 0, None
    for _ in range(_TRIES):
        with suppress(*LOST):
            status, answer = await account.ask("POST", "/messages", body)
            if status not in MAYBE_DONE:
                break
    return Repost(op, status, str((answer or {}).get("id")))
