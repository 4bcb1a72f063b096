"""PostgreSQL: connections, transactions, and the rule that events leave with the commit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from internal.errors import Unavailable
from internal.events import Event
from internal.utils import deadline

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# Quoted: these are generic to the type checker alone.
Conn: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
WriteOutbox = Callable[[Conn, Sequence[Event]], Awaitable[None]]

# How long a request waits for a free connection before it is told to come again.
_ACQUIRE_S = 5.0
# What says that the database is away, rather than that a statement is wrong.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg says of a connection whose server died between two messages of a statement.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.DiskFullError,
    # Nothing was done, and doing it again may well succeed.
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class UnsafeDatabase(Exception):
    """The database is configured so that what it acknowledged could be lost."""


class Transaction:
    """One transaction and what it has to tell. Leaving the block commits."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Tell the event's audience once this transaction has been committed, never otherwise."""
        self.events.append(event)


class Database:
    """The pool, and the only ways to use it."""

    def __init__(
        self, pool: Pool, write_outbox: WriteOutbox, on_commit: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._write_outbox = write_outbox
        self._on_commit = on_commit
        # Since when each of those waits who wait for a connection, the oldest first.
        self._waiting: dict[int, float] = {}
        self._tickets = count()
        # Who has been lent since when.
        self._lent: dict[PoolConnectionProxy[asyncpg.Record], float] = {}

    def waited_s(self) -> float:
        """For how long the oldest of those has waited who wait for a connection."""
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Conn]:
        """A connection for single statements, each in a snapshot of its own.

        Unavailable past the deadline of the request: a statement that runs then is cancelled.
        """
        if deadline.has_passed():
            raise Unavailable(retry_after=1)
        try:
            async with asyncio.timeout_at(deadline.at()):
                conn = await self._acquire()
                self._lent[conn] = asyncio.get_running_loop().time()
                try:
                    yield conn
                finally:
                    del self._lent[conn]
                    await self._release(conn)
        except AWAY as fault:
            # A value that the driver can't encode counts as its InterfaceError, and is our bug.
            if isinstance(fault, ValueError):
                raise
            raise Unavailable(retry_after=1) from fault

    async def hang_up(self, since: float) -> None:
        """Cut what is idle, and what is lent since before a time of the loop: it is dead.

        Whoever uses one is told that the database is away; the pool opens others when asked.
        """
        with suppress(*AWAY):
            idle = [await self._pool.acquire(timeout=1) for _ in range(self._pool.get_idle_size())]
            for conn in idle:
                conn.terminate()
                await self._pool.release(conn)
        for conn, lent_at in self._lent.items():
            if lent_at <= since:
                conn.terminate()

    async def _acquire(self) -> "PoolConnectionProxy[asyncpg.Record]":
        ticket = next(self._tickets)
        self._waiting[ticket] = asyncio.get_running_loop().time()
        try:
            return await self._pool.acquire(timeout=_ACQUIRE_S)
        finally:
            del self._waiting[ticket]

    async def _release(self, conn: "PoolConnectionProxy[asyncpg.Record]") -> None:
        """Give a connection back, also when whoever had it is cancelled meanwhile.

        The pool goes on with it then, and nobody is left to be told that the connection died.
        """
        releasing = asyncio.create_task(self._pool.release(conn))
        releasing.add_done_callback(_retrieve)
        await asyncio.shield(releasing)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Conn]:
        """A connection whose statements all see the same moment. It can't write."""
        async with (
            self.read() as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield conn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction. Its events are written last, after all row locks (delivery order).

        Unavailable when the connection breaks: whether the commit happened is then unknown.
        """
        async with self.read() as conn:
            async with conn.transaction():
                tx = Transaction(conn)
                yield tx
                if tx.events:
                    await self._write_outbox(conn, tx.events)
            if tx.events:
                self._on_commit()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at what came of a task, lest the loop complain that nobody did."""
    if not task.cancelled():
        task.exception()


async def refuse_unsafe(conn: Conn) -> None:
    """Raise UnsafeDatabase when a crash of this server could undo what it has acknowledged."""
    for setting in ("fsync", "full_page_writes"):
        if await conn.fetchval("SELECT current_setting($1)", setting) == "off":
            raise UnsafeDatabase(
                f"The database runs with {setting}=off, so a crash can lose acknowledged "
                f"messages. Set {setting}=on and start again."
            )
