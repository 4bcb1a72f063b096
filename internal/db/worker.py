"""The lease of a worker id, which makes this node's snowflakes unique over nodes and restarts."""

import asyncio
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
import structlog

from internal.db.postgres import Database
from internal.errors import Unavailable
from internal.utils.clock import Clock
from internal.utils.snowflake import IdsExhausted, Snowflake, SnowflakeFactory

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_RENEW_S: Final = 1.0
_LEASE_S: Final = 60.0
# A node that stops does not wait for a silent database: the lease expires by itself.
_RELEASE_S: Final = 2.0
# How far ahead ids may be made before the next renewal: the longest pause of the database that
# nobody notices.
_RESERVE_MS: Final = 10_000


class NoWorkerLeft(Exception):
    """All 1,024 worker ids are leased."""


class Grant(msgspec.Struct, frozen=True):
    """A worker id, and the millisecond after which its ids begin."""

    worker: int
    floor_ms: int


class WorkerLease:
    """Makes ids as long as the lease of a worker id is kept."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._holder = uuid4()
        self._factory = SnowflakeFactory(0, 0, -1)  # makes nothing
        self._holders = 1

    @property
    def worker(self) -> int:
        return self._factory.worker

    @property
    def is_alone(self) -> bool:
        """Whether no other node had a worker id at the last renewal."""
        return self._holders <= 1

    def new_id(self) -> Snowflake:
        """Make the next id; Unavailable while the lease could not be renewed."""
        try:
            return self._factory.make(self._now_ms())
        except IdsExhausted:
            raise Unavailable(retry_after=_RENEW_S) from None

    async def take(self) -> None:
        """Lease a free worker id; NoWorkerLeft if there is none.

        Ids begin after all that the worker id was allowed before, so none is made twice; and after
        the newest that any node is known to have made, so none goes back when a clock does.
        """
        self._holder = uuid4()
        grant = await self._lease(self._holder)
        if grant is None:
            raise NoWorkerLeft("All worker ids are leased: more than 1,024 nodes?")
        floor_ms = max(self._factory.last_ms, grant.floor_ms)
        self._factory = SnowflakeFactory(grant.worker, floor_ms, -1)
        if not await self._reserve():  # slept through the whole lease between the two statements
            raise Unavailable(retry_after=_RENEW_S)

    async def renew(self) -> None:
        """Reserve the next seconds. A node that slept until its lease was lost takes another."""
        if await self._reserve():
            return
        _log.warning("worker id lost", worker=self.worker)
        await self.take()
        _log.info("worker id leased", worker=self.worker)

    async def keep(self, *, period_s: float = _RENEW_S) -> None:
        """Renew for as long as the task lives. While the database is away, ids run out."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await self.renew()
            except (Unavailable, NoWorkerLeft, asyncpg.PostgresError) as fault:
                _log.warning("worker id not renewed", worker=self.worker, reason=str(fault))

    async def release(self) -> bool:
        """Give the worker id back, and what was reserved but not used. No id can be made after.

        False when the database did not answer in time.
        """
        last_ms = self._factory.last_ms
        self._factory = SnowflakeFactory(self.worker, last_ms, -1)
        # A task that nobody waits for: the driver's way out of a statement can take its time, too.
        releasing = asyncio.create_task(self._release(last_ms))
        await asyncio.wait([releasing], timeout=_RELEASE_S)
        if releasing.done() and releasing.result():
            return True
        releasing.cancel()
        _log.warning("worker id not released", worker=self.worker)
        return False

    async def _release(self, last_ms: int) -> bool:
        try:
            async with self._db.read() as conn:
                await conn.execute(
                    """
                    UPDATE snowflake_workers
                       SET last_ms = greatest(last_ms, $3), reserved_ms = $3,
                           lease_until = '-infinity', holder = NULL
                     WHERE id = $1
                       AND holder = $2
                    """,
                    self.worker,
                    self._holder,
                    last_ms,
                )
        except (Unavailable, asyncpg.PostgresError):
            return False
        return True

    async def _lease(self, holder: UUID) -> Grant | None:
        async with self._db.read() as conn:
            row = await conn.fetchrow(
                """
                UPDATE snowflake_workers AS w
                   SET holder = $1, lease_until = clock_timestamp() + make_interval(secs => $2)
                 WHERE w.id = (
                       SELECT f.id
                         FROM snowflake_workers AS f
                        WHERE f.lease_until < clock_timestamp()
                        ORDER BY f.id
                        LIMIT 1
                          FOR UPDATE SKIP LOCKED
                       )
                RETURNING w.id, greatest(
                       w.reserved_ms, (SELECT max(a.last_ms) FROM snowflake_workers AS a)
                )
                """,
                holder,
                _LEASE_S,
            )
        return Grant(*row) if row else None

    async def _reserve(self) -> bool:
        """Extend lease and reservation; False if somebody else has the lease by now."""
        factory = self._factory
        last_ms = factory.last_ms
        until_ms = max(self._now_ms(), last_ms) + _RESERVE_MS
        async with self._db.read() as conn:
            holders = await conn.fetchval(
                """
                UPDATE snowflake_workers
                   SET last_ms = greatest(last_ms, $3), reserved_ms = greatest(reserved_ms, $4),
                       lease_until = clock_timestamp() + make_interval(secs => $5)
                 WHERE id = $1
                   AND holder = $2
                RETURNING (
                       SELECT count(*) FROM snowflake_workers WHERE lease_until > clock_timestamp()
                       )
                """,
                factory.worker,
                self._holder,
                last_ms,
                until_ms,
                _LEASE_S,
            )
        if holders is None:
            return False
        # What the statement sees is from before it: a fresh lease of our own may not be counted.
        self._holders = holders
        factory.reserve(until_ms)
        return True

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)
