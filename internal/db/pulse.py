"""Notices that connections to the database have died without a word.

A network that swallows packets closes nothing: what waits for an answer then waits until its
deadline, on one dead connection after the other, also when the network is whole again. Silence
alone proves nothing, as a paused or busy server is silent, too. The proof is a fresh connection
that answers while the old one still does not.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg
import structlog

from internal.db.postgres import AWAY

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]

_FAILURES: Final = (*AWAY, asyncpg.PostgresError)
_BEAT_S: Final = 0.5
# Silence for this long is a reason to try a fresh connection, which may take as long to answer.
_SILENCE_S: Final = 1.0
# By so much the fresh connection must be ahead of the old one.
_AHEAD_S: Final = 0.5


class Pulse:
    """Asks the database twice a second whether it is there, on a connection of its own."""

    def __init__(self, connect: Connect, hang_up: Callable[[float], Awaitable[None]]) -> None:
        """`hang_up` is called when connections that were open at that time of the loop are dead."""
        self._connect = connect
        self._hang_up = hang_up

    async def run(self) -> None:
        """Watch until cancelled."""
        conn: asyncpg.Connection[asyncpg.Record] | None = None
        try:
            while True:
                conn = conn or await self._try_to_connect()
                if conn is not None:
                    conn = await self._beat(conn)
                await asyncio.sleep(_BEAT_S)
        finally:
            if conn is not None:
                conn.terminate()

    async def _beat(
        self, conn: "asyncpg.Connection[asyncpg.Record]"
    ) -> "asyncpg.Connection[asyncpg.Record] | None":
        """Ask once; the connection to ask on next, if there is one."""
        asking = asyncio.create_task(_ask(conn))
        try:
            while not await _ends_within(asking, _SILENCE_S):
                opened_at = asyncio.get_running_loop().time()
                fresh = await self._try_to_connect()
                if fresh is None:
                    continue
                if await _ends_within(asking, _AHEAD_S):
                    fresh.terminate()
                    break
                conn.terminate()
                _log.warning("database_connections_dead")
                await self._hang_up(opened_at)
                return fresh
            return conn if await asking else None
        finally:
            asking.cancel()

    async def _try_to_connect(self) -> "asyncpg.Connection[asyncpg.Record] | None":
        """A fresh connection that answers; None when there is none to be had just now."""
        conn: asyncpg.Connection[asyncpg.Record] | None = None
        try:
            async with asyncio.timeout(_SILENCE_S):
                conn = await self._connect()
                await conn.execute("SELECT 1")
                good, conn = conn, None
                return good
        except _FAILURES:
            return None
        finally:
            if conn is not None:
                conn.terminate()


async def _ask(conn: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Whether the connection answers; it never raises."""
    try:
        await conn.execute("SELECT 1")
    except _FAILURES:
        return False
    return True


async def _ends_within(task: "asyncio.Task[bool]", seconds: float) -> bool:
    await asyncio.wait([task], timeout=seconds)
    return task.done()
