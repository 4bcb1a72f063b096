"""Advisory locks that are waited for without taking the database away from everybody else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

import asyncpg

from internal.db.postgres import Conn, Database, Transaction
from internal.errors import Unavailable

T = TypeVar("T")
# Takes locks by `lock` and says what it found under them. It waits for the one lock that is
# named, if one is.
Attempt = Callable[[Conn, int | None], Coroutine[None, None, T]]

# How long a request waits for its lock in all, and how long it keeps a connection for that before
# another one gets it.
_PATIENCE_S: Final = 5.0
_TAKE_TURNS: Final = "SET LOCAL lock_timeout = '500ms'"

# By whether the lock is a shared one.
_TRY: Final = {
    False: "SELECT pg_try_advisory_xact_lock($1)",
    True: "SELECT pg_try_advisory_xact_lock_shared($1)",
}
_WAIT: Final = {
    False: "SELECT pg_advisory_xact_lock($1)",
    True: "SELECT pg_advisory_xact_lock_shared($1)",
}


class LockBusy(Exception):
    """Somebody has the lock. Nothing was done; wait for `key` outside of the transaction."""

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key


async def lock(conn: Conn, key: int, *, shared: bool = False, wait_for: int | None) -> None:
    """Take a lock until the end of the transaction, or raise LockBusy.

    It is waited for, in the order of arrival, only if it is the one of `wait_for`. Whoever takes
    several must therefore hold none while waiting: `wait_for` comes first.
    """
    if key != wait_for:
        if not await conn.fetchval(_TRY[shared], key):
            raise LockBusy(key)
        return
    await conn.execute(_TAKE_TURNS)
    try:
        await conn.execute(_WAIT[shared], key)
    except asyncpg.LockNotAvailableError:
        raise LockBusy(key) from None
    await conn.execute("SET LOCAL lock_timeout TO DEFAULT")


class _Turn:
    """Those of this process who wait for one key."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Locks:
    """Transactions under locks. One for each key and few in all wait in the database.

    Everybody else waits here, without a connection: one lock that is held for long can't take
    all of them.
    """

    def __init__(self, db: Database, *, connections: int) -> None:
        self._db = db
        self._slots = asyncio.Semaphore(connections)
        self._turns: dict[int, _Turn] = {}

    @asynccontextmanager
    async def transaction(self, attempt: Attempt[T]) -> AsyncIterator[tuple[Transaction, T]]:
        """A transaction that begins with `attempt`, and what that one found.

        It is repeated when a lock is busy. Unavailable when that takes too long.
        """
        async with AsyncExitStack() as turn:
            try:
                held, tx, found = await self._open(attempt, None)
            except LockBusy as busy:
                held, tx, found = await self._wait(turn, busy.key, attempt)
            async with held:
                yield tx, found

    async def _open(
        self, attempt: Attempt[T], wait_for: int | None
    ) -> tuple[AsyncExitStack, Transaction, T]:
        async with AsyncExitStack() as held:
            tx = await held.enter_async_context(self._db.transaction())
            found = await attempt(tx.conn, wait_for)
            return held.pop_all(), tx, found

    async def _wait(
        self, turn: AsyncExitStack, key: int, attempt: Attempt[T]
    ) -> tuple[AsyncExitStack, Transaction, T]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_S
        try:
            async with asyncio.timeout_at(deadline):
                await turn.enter_async_context(self._turn(key))
            while loop.time() < deadline:
                async with asyncio.timeout_at(deadline):
                    await self._slots.acquire()
                try:
                    return await self._open(attempt, key)
                except LockBusy as busy:
                    key = busy.key
                finally:
                    self._slots.release()
        except TimeoutError:
            pass
        raise Unavailable(retry_after=1)

    @asynccontextmanager
    async def _turn(self, key: int) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]
