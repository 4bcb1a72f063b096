"""Group commit: batches, order, and that nobody suffers for another."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from internal.db.group_commit import GroupCommit, Postponed
from internal.errors import AppError, EmptyMessage, Unavailable


class Store:
    """Keeps what was committed; `gate` holds a batch back, `poison` spoils it.

    Items of which `busy` holds the tens are put aside, and committed late once `free` is set.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.poison: set[int] = set()
        self.is_away = False
        self.busy: set[int] = set()
        self.free = asyncio.Event()
        self.late_batches: list[list[int]] = []
        self.is_late: Callable[[int], bool] = lambda _key: False

    async def commit_late(self, key: int, items: Sequence[int]) -> list[int | AppError]:
        assert {item // 10 for item in items} == {key}
        await self.free.wait()
        if self.is_away:
            raise Unavailable(retry_after=3)
        self.late_batches.append(list(items))
        return [item * 10 for item in items]

    async def commit(self, items: Sequence[int]) -> list[int | AppError | Postponed]:
        self.started.set()
        await self.gate.wait()
        if self.is_away:
            raise Unavailable(retry_after=3)
        if self.poison.intersection(items):
            raise ValueError("poison")
        self.batches.append(list(items))
        return [self._outcome(item) for item in items]

    def _outcome(self, item: int) -> int | AppError | Postponed:
        if item < 0:
            return EmptyMessage()
        if item // 10 in self.busy or self.is_late(item // 10):
            return Postponed(item // 10)
        return item * 10


@asynccontextmanager
async def running(
    store: Store, *, lanes: int = 1, max_waiting: int = 100, timeout_s: float = 10
) -> AsyncIterator[GroupCommit[int, int]]:
    group: GroupCommit[int, int] = GroupCommit(
        store.commit,
        commit_late=store.commit_late,
        lanes=lanes,
        max_batch=8,
        max_waiting=max_waiting,
        timeout_s=timeout_s,
    )
    store.is_late = group.is_late
    task = asyncio.create_task(group.run())
    try:
        yield group
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_arrives_together_is_committed_together_and_in_order() -> None:
    store = Store()
    async with running(store) as group:
        results = await asyncio.gather(*(group.submit(0, n) for n in range(20)))

    assert results == [n * 10 for n in range(20)]
    assert store.batches == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    assert group.waiting() == 0


async def test_each_item_keeps_its_own_error() -> None:
    async with running(Store()) as group:
        good, bad = await asyncio.gather(
            group.submit(0, 1), group.submit(0, -1), return_exceptions=True
        )

    assert good == 10
    assert isinstance(bad, EmptyMessage)


async def test_one_that_spoils_a_batch_spoils_only_itself() -> None:
    store = Store()
    store.poison = {3}
    async with running(store) as group:
        results = await asyncio.gather(
            *(group.submit(0, n) for n in range(5)), return_exceptions=True
        )

    assert [r for r in results if isinstance(r, int)] == [0, 10, 20, 40]
    assert isinstance(results[3], ValueError)


async def test_a_database_that_is_away_is_told_to_all_and_not_tried_for_each() -> None:
    store = Store()
    store.is_away = True
    async with running(store) as group:
        results = await asyncio.gather(
            *(group.submit(0, n) for n in range(5)), return_exceptions=True
        )
        assert all(isinstance(r, Unavailable) and r.retry_after == 3 for r in results)
        store.is_away = False
        assert await group.submit(0, 7) == 70
    assert store.batches == [[7]]


async def test_who_stops_waiting_disturbs_no_others() -> None:
    store = Store()
    async with running(store) as group:
        store.gate.clear()
        first = asyncio.create_task(group.submit(0, 1))
        await store.started.wait()
        others = [asyncio.create_task(group.submit(0, n)) for n in (2, 3, 4)]
        await asyncio.wait([asyncio.create_task(asyncio.wait_for(others[1], 0))])
        first.cancel()
        store.gate.set()

        assert [await others[0], await others[2]] == [20, 40]
    # The first was on its way already; the third had not begun, so it is left out.
    assert store.batches == [[1], [2, 4]]


async def test_too_many_waiting_are_refused() -> None:
    store = Store()
    async with running(store, max_waiting=2) as group:
        store.gate.clear()
        tasks = [asyncio.create_task(group.submit(0, 0))]
        await store.started.wait()
        tasks += [asyncio.create_task(group.submit(0, n)) for n in (1, 2)]
        await asyncio.wait(tasks, timeout=0)
        with pytest.raises(Unavailable):
            await group.submit(0, 3)
        store.gate.set()

        assert await asyncio.gather(*tasks) == [0, 10, 20]


async def test_a_lane_that_is_held_up_does_not_hold_up_another() -> None:
    store = Store()
    other = Store()

    async def commit(items: Sequence[int]) -> list[int | AppError | Postponed]:
        return await (store if items[0] % 2 else other).commit(items)

    group: GroupCommit[int, int] = GroupCommit(
        commit,
        commit_late=store.commit_late,
        lanes=2,
        max_batch=8,
        max_waiting=100,
        timeout_s=10,
    )
    task = asyncio.create_task(group.run())
    store.gate.clear()
    slow = asyncio.create_task(group.submit(1, 1))
    await store.started.wait()

    assert await group.submit(2, 2) == 20

    store.gate.set()
    assert await slow == 10
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_waiting_ends_at_some_time() -> None:
    store = Store()
    store.gate.clear()
    async with running(store, timeout_s=0.01) as group:
        with pytest.raises(Unavailable):
            await group.submit(0, 1)
        store.gate.set()


async def test_at_the_end_all_who_wait_are_told_to_try_again() -> None:
    store = Store()
    store.gate.clear()
    async with running(store) as group:
        tasks = [asyncio.create_task(group.submit(0, 1))]
        await store.started.wait()
        tasks += [asyncio.create_task(group.submit(0, n)) for n in (2, 3)]
        await asyncio.wait(tasks, timeout=0)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, Unavailable) for result in results)


# What is put aside.


async def test_what_is_put_aside_holds_up_nobody_else_and_keeps_its_order() -> None:
    store = Store()
    store.busy = {5}
    async with running(store) as group:
        first = asyncio.create_task(group.submit(0, 50))
        assert await group.submit(0, 1) == 10
        assert group.is_late(5)
        # Free by now, but not past the one that waits.
        store.busy = set()
        second = asyncio.create_task(group.submit(0, 51))
        assert await group.submit(0, 2) == 20
        assert group.waiting() == 1
        store.free.set()

        assert [await first, await second] == [500, 510]
        assert await group.submit(0, 3) == 30
        assert not group.is_late(5)
        assert await group.submit(0, 52) == 520
    assert store.late_batches == [[50], [51]]
    assert 52 in store.batches[-1]


async def test_what_fails_late_fails_for_those_put_aside_alone() -> None:
    store = Store()
    store.busy = {5, 6}
    async with running(store) as group:
        aside = [asyncio.create_task(group.submit(0, item)) for item in (50, 60)]
        assert await group.submit(0, 1) == 10
        store.is_away = True
        store.free.set()
        results = await asyncio.gather(*aside, return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        store.is_away = False
        store.busy = set()
        assert await group.submit(0, 51) == 510


async def test_one_key_can_not_take_the_places_of_all() -> None:
    store = Store()
    store.busy = {0}
    async with running(store, max_waiting=1000) as group:
        # 8 batches of 8 wait behind the one that is being committed.
        aside = [asyncio.create_task(group.submit(0, n % 10)) for n in range(80)]
        await asyncio.wait(aside, return_when=asyncio.FIRST_COMPLETED)
        refused = [task for task in aside if task.done()]
        assert all(isinstance(task.exception(), Unavailable) for task in refused)
        store.free.set()
        done = await asyncio.gather(*aside, return_exceptions=True)
        assert 64 <= len([result for result in done if isinstance(result, int)]) < 80


async def test_at_the_end_those_put_aside_are_told_too() -> None:
    store = Store()
    store.busy = {5}
    async with running(store) as group:
        aside = [asyncio.create_task(group.submit(0, 50))]
        assert await group.submit(0, 1) == 10
        aside.append(asyncio.create_task(group.submit(0, 51)))
        assert await group.submit(0, 2) == 20
    results = await asyncio.gather(*aside, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
