"""Group commit: batches, order, and that nobody suffers for another."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from internal.db.group_commit import GroupCommit
from internal.errors import AppError, EmptyMessage, Unavailable


class Store:
    """Keeps what was committed; `gate` holds a batch back, `poison` spoils it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.poison: set[int] = set()
        self.is_away = False

    async def commit(self, items: Sequence[int]) -> list[int | AppError]:
        self.started.set()
        await self.gate.wait()
        if self.is_away:
            raise Unavailable(retry_after=3)
        if self.poison.intersection(items):
            raise ValueError("poison")
        self.batches.append(list(items))
        return [EmptyMessage() if item < 0 else item * 10 for item in items]


@asynccontextmanager
async def running(
    store: Store, *, lanes: int = 1, max_waiting: int = 100, timeout_s: float = 10
) -> AsyncIterator[GroupCommit[int, int]]:
    group: GroupCommit[int, int] = GroupCommit(
        store.commit, lanes=lanes, max_batch=8, max_waiting=max_waiting, timeout_s=timeout_s
    )
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

    async def commit(items: Sequence[int]) -> list[int | AppError]:
        return await (store if items[0] % 2 else other).commit(items)

    group: GroupCommit[int, int] = GroupCommit(
        commit, lanes=2, max_batch=8, max_waiting=100, timeout_s=10
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
