"""A bounded gate: so many at once, so many waiting, each for so long."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

# Between these, so that those who are sent away together don't come back together.
_SOONEST_S: Final = 1.0
_LATEST_S: Final = 5.0


class Crowded(Exception):
    """There is no room, and no room to wait for it."""


def come_back_s() -> float:
    """How long one who is sent away should stay away."""
    return random.uniform(_SOONEST_S, _LATEST_S)  # noqa: S311  # no secret


class Gate:
    """Bounds one kind of work. Who finds the queue full is told so at once, not after a wait."""

    def __init__(self, *, at_once: int, waiting: int, wait_s: float) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._most_waiting = waiting
        self._wait_s = wait_s
        self.waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether who came now would be sent away."""
        return self._room.locked() and self.waiting >= self._most_waiting

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Work inside; Crowded when there is no room within the time."""
        if self._room.locked():
            await self._wait()
        else:
            # There is room, so this does not wait.
            await self._room.acquire()
        try:
            yield
        finally:
            self._room.release()

    async def _wait(self) -> None:
        if self.waiting >= self._most_waiting:
            raise Crowded
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._room.acquire()
        except TimeoutError:
            raise Crowded from None
        finally:
            self.waiting -= 1
