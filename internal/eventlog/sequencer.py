"""The sequencer: gives committed events their positions, right after the commit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg
import structlog

from internal.db.postgres import AWAY
from internal.eventlog import repository
from internal.eventlog.model import Entry
from internal.eventlog.repository import Backlog
from internal.eventlog.tailer import Tailer

_log = structlog.get_logger(__name__)

_BATCH = 1000
# Kicks make it fast; the poll makes it right: what a killed process committed, or another node
# drained, is found within this time.
_POLL_S = 0.025
_RETRY_S = 0.2
_CALL_S = 30.0
# An event that waits this long for its position is an alarm.
_LATE_S = 1.0
_MAINTAIN_S = 10.0
_EXPIRE = 5_000

Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]
Announce = Callable[[int, Sequence[Entry]], None]


class LogRewound(Exception):
    """The log is another one than before, or has lost its end.

    A restore under running nodes does that, and a standby that lagged when it was made the primary.
    What this node holds in memory is worth nothing then: it has to begin anew.
    """

    def __init__(self, known: int, backlog: Backlog) -> None:
        super().__init__(
            f"position {known} was known, and the log ends at {backlog.head}, epoch {backlog.epoch}"
        )


class Sequencer:
    """Drains the outbox on a connection of its own, and keeps the tailer fed."""

    def __init__(
        self,
        connect: Connect,
        tailer: Tailer,
        *,
        keep: timedelta,
        observe: Callable[[Backlog], None],
        announce: Announce,
    ) -> None:
        """`announce` is told what this node drained, with the epoch."""
        self._connect = connect
        self._tailer = tailer
        self._keep = keep
        self._observe = observe
        self._announce = announce
        self._kicked = asyncio.Event()
        self._conn: asyncpg.Connection[asyncpg.Record] | None = None
        # When the log was last seen to be drained and followed to its head.
        self._well_at = 0.0
        self._look_at = 0.0
        self._oldest_s = 0.0

    def lag_s(self) -> float:
        """How far the log may be behind: what waits, or since when nobody could look."""
        return max(self._oldest_s, asyncio.get_running_loop().time() - self._well_at)

    def complaint(self) -> str | None:
        """Why events do not arrive, for /ready; None when all is well."""
        behind_s = asyncio.get_running_loop().time() - self._well_at
        return f"the event log is {behind_s:.0f} s behind" if behind_s > _LATE_S else None

    def kick(self) -> None:
        """A transaction of this node has just been committed."""
        self._kicked.set()

    def hang_up(self) -> None:
        """The connection is dead: work on with another."""
        if self._conn is not None:
            self._conn.terminate()

    def look(self) -> None:
        """The log is said to have grown: read it now."""
        self._look_at = 0.0
        self._kicked.set()

    async def run(self) -> None:
        """Work until cancelled, through any number of lost connections; LogRewound ends it."""
        # Nobody is late who has just begun.
        self._well_at = asyncio.get_running_loop().time()
        while True:
            try:
                conn = self._conn = await self._connect()
            except (*AWAY, asyncpg.PostgresError) as fault:
                # Also a password that was changed, or a database that takes no connections while
                # it is looked after.
                _log.warning("log_unreachable", reason=type(fault).__name__)
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._work(conn)
            except AWAY as fault:
                _log.warning("log_connection_lost", reason=type(fault).__name__)
                await asyncio.sleep(_RETRY_S)
            except asyncpg.PostgresError:
                # Events wait in the outbox meanwhile, and /ready says so.
                _log.exception("log_failed")
                await asyncio.sleep(_RETRY_S)
            finally:
                self._conn = None
                conn.terminate()

    async def _work(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        loop = asyncio.get_running_loop()
        maintain_at = 0.0
        while True:
            if loop.time() >= maintain_at:
                async with asyncio.timeout(_CALL_S):
                    await self._maintain(conn)
                maintain_at = loop.time() + _MAINTAIN_S
            self._kicked.clear()
            async with asyncio.timeout(_CALL_S):
                await self._step(conn)
            if not self._kicked.is_set():
                await self._rest()

    async def _step(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Drain what is there, and now and then look for what others have drained.

        What is committed meanwhile kicks again, so a batch that was not full is the last. To look
        after each would double what a busy server asks of the database.
        """
        while entries := await repository.drain(conn, _BATCH):
            if not self._tailer.offer(entries):
                await self._tailer.catch_up(conn, entries[-1].pos)
            self._announce(self._tailer.epoch, entries)
            if len(entries) < _BATCH:
                break
        now = asyncio.get_running_loop().time()
        if entries and now < self._look_at:
            return
        known = self._tailer.pos
        backlog = await repository.backlog(conn)
        if backlog.epoch != self._tailer.epoch or backlog.head < known:
            raise LogRewound(known, backlog)
        await self._tailer.catch_up(conn, backlog.head)
        self._observe(backlog)
        self._oldest_s = backlog.oldest_s or 0.0
        self._look_at = now + _POLL_S
        if backlog.oldest_s is None or backlog.oldest_s < _LATE_S:
            self._well_at = now

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(_POLL_S):
                await self._kicked.wait()
        except TimeoutError:
            return

    async def _maintain(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        made, dropped = await repository.maintain(conn, self._keep)
        expired = await repository.expire(conn, self._keep, _EXPIRE)
        if made or dropped or expired:
            _log.info("log_maintained", made=made, dropped=dropped, expired=expired)
