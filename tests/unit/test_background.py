"""Work in the background ends when it is told to."""

import asyncio

from internal.utils.background import Background


async def test_a_task_that_swallows_its_cancellation_is_told_again() -> None:
    background = Background(patience_s=0.01)
    cancelled = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                if len(cancelled) > 2:
                    raise

    background.start("stubborn", stubborn())
    await asyncio.sleep(0)
    await background.stop()
    assert len(cancelled) == 3
    assert not background.failed.is_set()


async def test_a_task_that_ends_by_itself_is_a_fault() -> None:
    background = Background()

    async def brief() -> None:
        await asyncio.sleep(0)

    background.start("brief", brief())
    await asyncio.wait_for(background.failed.wait(), 5)
    await background.stop()
