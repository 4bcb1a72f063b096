"""How much the server has to do, and what it leaves undone when that is too much.

Levels follow one number, the pressure: what people wait for now, in units of what they begin to
notice. Each level is twice the pressure of the one before it.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

# The loop answers this late: everything takes that much longer.
_LAG_S: Final = 0.25
# The oldest of those who wait for a connection to the database has waited for this long.
_DATABASE_S: Final = 0.25
# So many requests are under way. At a few thousand a second, these wait some hundred milliseconds.
_REQUESTS: Final = 500
# The pressure at which each level begins. One above the other by a factor of two, so that a load
# which one step takes away does not meet the next.
_BEGINS: Final = (1.0, 2.0, 4.0, 8.0)
# More than this says no more, and would only take longer to be forgotten.
_MOST: Final = 16.0
# A level ends below this part of where it began, after this long without a break: what was let in
# again must not bring the level back at once.
_ENDS: Final = 0.5
_CALM_S: Final = 1.0
# A pause of the garbage collector is no load; what lasts a second is.
_MEMORY_S: Final = 1.0
_PERIOD_S: Final = 0.1


class Work(Enum):
    """What is asked of the server, by its label and the level from which it is left undone."""

    # Typing and presence: nobody waits for them.
    EPHEMERA = "ephemera", 1
    # Search, previews and thumbnails would be 2.
    # Old messages and long lists: heavy, and as good a moment later.
    HISTORY = "history", 3
    # Everything that has no class of its own.
    ORDINARY = "ordinary", 4
    # READY, the most that one client can ask for.
    OPENING = "opening", 4
    # Sends, RESUME, and what leads to them: bounded by their own queues, never left undone.
    FOREMOST = "foremost", math.inf

    def __init__(self, label: str, level: float) -> None:
        self.label = label
        self.level = level


class Load:
    """Turns what is measured into a level, quick to rise and slow to fall."""

    def __init__(
        self,
        *,
        lag_s: Callable[[], float],
        database_s: Callable[[], float],
        count_shed: Callable[[str], None],
    ) -> None:
        self.level = 0
        # Requests under way that the server has to do something for.
        self.requests = 0
        self.pressure = 0.0
        self._lag_s = lag_s
        self._database_s = database_s
        self._count_shed = count_shed
        self._calm_since: float | None = None
        self._seen_at: float | None = None

    def sheds(self, work: Work) -> bool:
        """Whether this is to be left undone now; it is counted."""
        if self.level < work.level:
            return False
        self._count_shed(work.label)
        return True

    def refused(self, work: Work) -> None:
        """This was left undone as its own gate is full."""
        self._count_shed(work.label)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Leave a request out of the count while its client is slow: it costs next to nothing."""
        self.requests -= 1
        try:
            yield
        finally:
            self.requests += 1

    async def watch(self) -> None:
        """Look for as long as the task lives."""
        loop = asyncio.get_running_loop()
        while True:
            self.look(loop.time())
            await asyncio.sleep(_PERIOD_S)

    def look(self, now: float) -> None:
        """Measure, and choose the level."""
        since_s = _PERIOD_S if self._seen_at is None else now - self._seen_at
        self._seen_at = now
        share = 1 - math.exp(-since_s / _MEMORY_S)
        self.pressure += (self._measured() - self.pressure) * share
        reached = sum(self.pressure >= begins for begins in _BEGINS)
        if reached > self.level:
            self.level = reached
            self._calm_since = None
        elif self.level and self.pressure < _BEGINS[self.level - 1] * _ENDS:
            self._calm(now)
        else:
            self._calm_since = None

    def _measured(self) -> float:
        pressure = max(
            self._lag_s() / _LAG_S,
            self._database_s() / _DATABASE_S,
            self.requests / _REQUESTS,
        )
        return min(pressure, _MOST)

    def _calm(self, now: float) -> None:
        """It is quiet; after a while of that, one level less."""
        if self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= _CALM_S:
            self.level -= 1
            self._calm_since = now
