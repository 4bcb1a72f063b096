"""Group commit: what arrives together is committed together, and each keeps its own result."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

from internal.errors import AppError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

# So many batches, at most, are put aside for one key.
_MAX_LATE_BATCHES: Final = 8

_log = structlog.get_logger(__name__)


class Postponed:
    """Said of an item that would hold up its batch: it is committed late, with others of `key`."""

    __slots__ = ("key",)

    def __init__(self, key: int) -> None:
        self.key = key


_Commit: TypeAlias = Callable[[Sequence[Item]], Awaitable[Sequence[Result | AppError | Postponed]]]


class _Waiting(Generic[Item, Result]):
    """An item on its way, and where its result is awaited."""

    __slots__ = ("is_late", "item", "outcome")

    def __init__(self, item: Item, outcome: asyncio.Future[Result]) -> None:
        self.item = item
        self.outcome = outcome
        # Put aside: it waits in another lane.
        self.is_late = False


class _Lane(Generic[Item, Result]):
    """Items that are committed one batch after the other."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiting[Item, Result]] = deque()
        self.filled = asyncio.Event()


class GroupCommit(Generic[Item, Result]):
    """Collects items while a batch is being committed; these are the next batch.

    Items of one lane keep their order. Lanes are committed beside one another, so that what
    holds up one of them does not hold up all. An item that can't be committed now is put aside
    (`Postponed`) into a lane of its key, so that it holds up nobody else; as long as that lane is
    there (`is_late`), the later items of the key belong behind it.
    """

    def __init__(
        self,
        commit: _Commit[Item, Result],
        *,
        commit_late: Callable[[int, Sequence[Item]], Awaitable[Sequence[Result | AppError]]],
        lanes: int,
        max_batch: int,
        max_waiting: int,
        timeout_s: float,
    ) -> None:
        """`commit` gives one result, or the error, for each item; what it raises is of all.

        `commit_late` gets the key and the items that were put aside for it, and may wait.
        """
        self._commit = commit
        self._commit_late = commit_late
        self._lanes: list[_Lane[Item, Result]] = [_Lane() for _ in range(lanes)]
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._late: dict[int, _Lane[Item, Result]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._count = 0

    def waiting(self) -> int:
        """How many items are queued, for the metrics."""
        return self._count

    def is_late(self, key: int) -> bool:
        """Whether items of this key are put aside, or are just being committed."""
        return key in self._late

    async def submit(self, key: int, item: Item) -> Result:
        """Commit an item with others, after all earlier ones with the same `key`.

        Unavailable when too many wait already, or when it takes too long: it is then unknown
        whether the item was committed. Whoever stops waiting disturbs no others.
        """
        if self._count >= self._max_waiting:
            raise Unavailable(retry_after=1)
        lane = self._lanes[key % len(self._lanes)]
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        lane.waiting.append(_Waiting(item, outcome))
        self._count += 1
        lane.filled.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await outcome
        except TimeoutError:
            raise Unavailable(retry_after=1) from None

    async def run(self) -> None:
        """Commit until cancelled; whoever still waits then is told to try again."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for lane in self._lanes:
                    self._tasks.create_task(self._run_lane(lane))
        finally:
            for lane in (*self._lanes, *self._late.values()):
                _tell_all(self._take(lane, len(lane.waiting)), Unavailable(retry_after=1))
            self._late.clear()

    async def _run_lane(self, lane: _Lane[Item, Result]) -> None:
        while True:
            await lane.filled.wait()
            batch = self._take(lane, self._max_batch)
            if not lane.waiting:
                lane.filled.clear()
            if batch:
                await self._commit_batch(batch, self._commit)

    async def _run_late(self, key: int, lane: _Lane[Item, Result]) -> None:
        """Commit what was put aside, until nothing of it is left."""
        while batch := self._take(lane, self._max_batch):
            for one in batch:
                one.is_late = False
            await self._commit_batch(batch, partial(self._commit_late, key))
        del self._late[key]

    def _postpone(self, key: int, one: _Waiting[Item, Result]) -> None:
        lane = self._late.get(key)
        if lane is None:
            if self._tasks is None:
                raise RuntimeError("items are put aside only while the group runs")
            lane = self._late[key] = _Lane()
            self._tasks.create_task(self._run_late(key, lane))
        if len(lane.waiting) >= _MAX_LATE_BATCHES * self._max_batch:
            # One key must not take the places of all.
            _tell(one, Unavailable(retry_after=1))
            return
        one.is_late = True
        lane.waiting.append(one)
        self._count += 1

    def _take(self, lane: _Lane[Item, Result], at_most: int) -> list[_Waiting[Item, Result]]:
        """Take the oldest items that are still waited for."""
        taken: list[_Waiting[Item, Result]] = []
        while lane.waiting and len(taken) < at_most:
            one = lane.waiting.popleft()
            self._count -= 1
            if not one.outcome.done():
                taken.append(one)
        return taken

    async def _commit_batch(
        self, batch: list[_Waiting[Item, Result]], commit: _Commit[Item, Result]
    ) -> None:
        try:
            await self._try_batch(batch, commit)
        except Unavailable as fault:
            _tell_all(batch, fault)
        finally:
            # Cancelled in between: whether it was committed is unknown.
            _tell_all([one for one in batch if not one.is_late], Unavailable(retry_after=1))

    async def _try_batch(
        self, batch: list[_Waiting[Item, Result]], commit: _Commit[Item, Result]
    ) -> None:
        try:
            results = await commit([one.item for one in batch])
        except Unavailable:
            raise
        except Exception as fault:  # noqa: BLE001  # it is raised to whoever waits
            if len(batch) == 1:
                _tell(batch[0], fault)
                return
            # One of them spoiled it for all: alone, it spoils only itself.
            _log.warning("group_commit_split", items=len(batch), fault=repr(fault))
            for one in batch:
                await self._commit_batch([one], commit)
        else:
            for one, result in zip(batch, results, strict=True):
                if isinstance(result, Postponed):
                    self._postpone(result.key, one)
                else:
                    _tell(one, result)


def _tell(one: _Waiting[Item, Result], result: Result | Exception) -> None:
    if one.outcome.done():  # whoever waited has gone
        return
    if isinstance(result, Exception):
        one.outcome.set_exception(result)
    else:
        one.outcome.set_result(result)


def _tell_all(batch: Sequence[_Waiting[Item, Result]], fault: Unavailable) -> None:
    """Tell those who have no result yet, each an error of its own.

    One error that is raised in many places would mix up its tracebacks.
    """
    for one in batch:
        if not one.outcome.done():
            one.outcome.set_exception(Unavailable(retry_after=fault.retry_after))
