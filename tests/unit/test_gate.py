"""The gate: so many at once, so many waiting, for so long."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from internal.utils.gate import Crowded, Gate, come_back_s


async def test_who_finds_room_goes_in_and_leaves_it_behind() -> None:
    gate = Gate(at_once=1, waiting=0, wait_s=60)
    for _ in range(3):
        async with gate.entered():
            assert gate.waiting == 0


async def test_who_finds_the_queue_full_is_told_at_once() -> None:
    gate = Gate(at_once=1, waiting=0, wait_s=60)
    async with gate.entered():
        with pytest.raises(Crowded):
            async with gate.entered():
                pytest.fail("there was no room")


async def test_who_waits_goes_in_by_turns() -> None:
    gate = Gate(at_once=1, waiting=2, wait_s=60)
    order: list[int] = []

    async def enter(number: int) -> None:
        async with gate.entered():
            order.append(number)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gate.entered())
        waiting = [asyncio.create_task(enter(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        assert gate.waiting == 2
        with pytest.raises(Crowded):
            await enter(3)
    await asyncio.gather(*waiting)
    assert order == [1, 2]
    assert gate.waiting == 0


async def test_who_has_waited_long_enough_is_sent_away() -> None:
    gate = Gate(at_once=1, waiting=1, wait_s=0.01)
    async with gate.entered():
        with pytest.raises(Crowded):
            async with gate.entered():
                pytest.fail("there was no room")
    async with gate.entered():
        assert gate.waiting == 0


async def test_who_gives_up_takes_no_room_with_them() -> None:
    gate = Gate(at_once=1, waiting=1, wait_s=60)

    async def enter() -> None:
        async with gate.entered():
            pytest.fail("there was no room")

    async with gate.entered():
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0)
        assert gate.waiting == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with gate.entered():
        assert gate.waiting == 0


async def test_a_failure_inside_leaves_the_room_free() -> None:
    gate = Gate(at_once=1, waiting=0, wait_s=60)
    with pytest.raises(ValueError, match="inside"):
        async with gate.entered():
            raise ValueError("inside")
    async with gate.entered():
        assert gate.waiting == 0


def test_those_who_are_sent_away_together_come_back_apart() -> None:
    times = [come_back_s() for _ in range(100)]
    assert all(1 <= time <= 5 for time in times)
    assert max(times) - min(times) > 1
