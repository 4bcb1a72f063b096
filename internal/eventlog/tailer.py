"""The tailer: follows the log strictly in order and hands each entry on once."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from internal.db.postgres import Conn
from internal.eventlog import repository
from internal.eventlog.model import Entry
from internal.eventlog.ring import Ring

_log = structlog.get_logger(__name__)
_BATCH = 1000

Consume = Callable[[Sequence[Entry]], None]


class Tailer:
    """Where this node is in the log. Positions are contiguous: `pos + 1` comes next, always."""

    def __init__(self, ring: Ring, on_gap: Callable[[], None]) -> None:
        self.ring = ring
        self.pos = 0
        self.epoch = 0
        self._on_gap = on_gap
        self._consumers: list[Consume] = []
        self._waiters: dict[asyncio.Future[None], int] = {}

    def subscribe(self, consume: Consume) -> None:
        """Call `consume` with each run of entries, in the order of subscription.

        It must not block and must not raise: everyone behind it would miss the entries.
        """
        self._consumers.append(consume)

    async def start(self, conn: Conn, warm: int) -> None:
        """Begin at the head, with up to `warm` earlier entries in the ring for resumes."""
        self.pos, self.epoch = await repository.head(conn)
        for entry in await repository.after(conn, self.pos - warm, warm):
            if entry.pos <= self.pos:
                self.ring.append(entry)

    def offer(self, entries: Sequence[Entry]) -> bool:
        """Take entries that were drained; False if earlier ones must be read first.

        What is known already is passed over: it may come by the bus and from the log.
        """
        news = self._news_of(entries)
        if news and news[0].pos != self.pos + 1:
            return False
        if news:
            self._take(news)
        return True

    async def catch_up(self, conn: Conn, head: int) -> None:
        """Read everything up to `head` from the log."""
        while self.pos < head:
            read = await repository.after(conn, self.pos, _BATCH)
            if not read:
                return
            # The bus may have been quicker.
            entries = self._news_of(read)
            if not entries:
                continue
            if entries[0].pos != self.pos + 1:
                # A bug, or a log that was cut under our feet. Said loudly, then passed over:
                # clients whose cursor lies before it are refused at their next resume.
                _log.error("log_gap", expected=self.pos + 1, found=entries[0].pos)
                self._on_gap()
            self._take(entries)

    async def reached(self, pos: int, timeout_s: float) -> bool:
        """Wait until this node has handed on everything up to `pos`."""
        if self.pos >= pos:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = pos
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            del self._waiters[waiter]
        return True

    def _news_of(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those behind where this node is."""
        if not entries or entries[0].pos > self.pos:
            return entries
        return [entry for entry in entries if entry.pos > self.pos]

    def _take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.ring.append(entry)
        self.pos = entries[-1].pos
        for consume in self._consumers:
            consume(entries)
        for waiter, pos in self._waiters.items():
            if pos <= self.pos and not waiter.done():
                waiter.set_result(None)
