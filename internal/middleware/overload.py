"""What requests meet when there are too many: gates, levels of load, and deadlines."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from internal.errors import Unavailable
from internal.monitoring.load import Load, Work
from internal.utils import deadline
from internal.utils.gate import Crowded, Gate, come_back_s
from internal.utils.request import WAITING
from internal.utils.response import no_content

# Few enough that a turn of the loop stays short, and with it everything that takes several turns.
_AT_ONCE: Final = 8


class _Refusals:
    """Lets refusals out at half of the server's time at most.

    Each costs a good part of what serving does. Let out as they come, they would take the loop from
    those who were let in; and whoever waits for a refusal does not ask again meanwhile.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_planned = False
        self._loop = asyncio.get_running_loop()

    async def turn(self) -> None:
        """Wait for one's turn to be refused."""
        mine = self._loop.create_future()
        self._waiting.append(mine)
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._let_out)
        await mine

    def _let_out(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            mine = self._waiting.popleft()
            if not mine.done():
                mine.set_result(None)
        # Behind the steps of those tasks.
        self._loop.call_soon(self._rest, self._loop.time())

    def _rest(self, since: float) -> None:
        """Leave as much time to the others as this has taken."""
        self._is_planned = bool(self._waiting)
        if self._is_planned:
            self._loop.call_later(self._loop.time() - since, self._let_out)


class Overload:
    """Refuses early and cheaply, so that what is let in can be finished."""

    def __init__(self, load: Load, gates: Mapping[Work, Gate]) -> None:
        """`gates` bound kinds of work that are heavy; the others have none."""
        self._load = load
        self._gates = gates
        self._refusals = _Refusals()

    def shedding(self, work: Work, handler: Handler) -> Handler:
        """Refuse work that is left undone now. It goes outside of everything that costs."""
        load = self._load

        async def shed(request: web.Request) -> web.StreamResponse:
            if work is not Work.EPHEMERA and (load.sheds(work) or self._is_full(work)):
                await self._refusals.turn()
                raise Unavailable(retry_after=come_back_s())
            deadline.begin()
            request[WAITING] = load.waiting
            load.requests += 1
            try:
                return await handler(request)
            finally:
                load.requests -= 1

        return shed

    def gated(self, work: Work, handler: Handler) -> Handler:
        """Let so many through at once. It goes inside of what refuses strangers."""
        if work is Work.EPHEMERA:
            return self._forgetful(handler)
        gate = self._gates.get(work)
        if gate is None:
            return handler

        async def enter(request: web.Request) -> web.StreamResponse:
            try:
                async with gate.entered():
                    return await handler(request)
            except Crowded:
                self._load.refused(work)
                raise Unavailable(retry_after=come_back_s()) from None

        return enter

    def _is_full(self, work: Work) -> bool:
        gate = self._gates.get(work)
        if gate is None or not gate.is_full:
            return False
        self._load.refused(work)
        return True

    def _forgetful(self, handler: Handler) -> Handler:
        """Nobody misses what is only of the moment: no answer but the usual one."""

        async def forget(request: web.Request) -> web.StreamResponse:
            if self._load.sheds(Work.EPHEMERA):
                return no_content()
            return await handler(request)

        return forget
