"""The newest entries of the log in memory, so that reconnecting clients need no SQL."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from internal.eventlog.model import Entry


class Ring:
    """A contiguous run of entries up to the newest, bounded in number and in bytes.

    Whatever takes content back in the log takes it back here, too.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._by_subject: dict[int, list[Entry]] = {}
        self._bytes = 0

    @property
    def first(self) -> int | None:
        """The oldest position held."""
        return self._entries[0].pos if self._entries else None

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry) -> None:
        """Take the next entry. One that does not follow the newest restarts the ring with it."""
        if self._entries and entry.pos != self._entries[-1].pos + 1:
            self._clear()
        self._take_back(entry)
        self._entries.append(entry)
        self._bytes += entry.size
        if entry.subject is not None:
            self._by_subject.setdefault(entry.subject, []).append(entry)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._evict()

    def after(self, pos: int, upto: int | None = None) -> Iterator[Entry] | None:
        """The entries in (pos, upto], or None when the ring no longer reaches back that far."""
        if not self._entries:
            return None
        first = self._entries[0].pos
        if pos + 1 < first:
            return None
        held = len(self._entries)
        start = pos + 1 - first
        stop = held if upto is None else min(held, max(start, upto - first + 1))
        if held - start < start:
            # A deque is walked from its ends, and a reconnect mostly wants the newest few.
            run = list(islice(reversed(self._entries), held - stop, max(held - stop, held - start)))
            return reversed(run)
        return islice(self._entries, start, stop)

    def _take_back(self, entry: Entry) -> None:
        if entry.retracts:
            for subject in entry.retracts:
                for old in self._by_subject.get(subject, ()):
                    self._revise(old, None)
        if entry.retracts_channels:
            gone = set(entry.retracts_channels)
            for old in self._entries:
                if old.subject is not None and old.channel_id in gone:
                    self._revise(old, None)
        if entry.revises is not None:
            for old in self._by_subject.get(entry.revises, ()):
                if old.payload is not None:
                    self._revise(old, entry.payload)

    def _revise(self, old: Entry, payload: bytes | None) -> None:
        self._bytes -= old.size
        old.revise(payload)
        self._bytes += old.size

    def _evict(self) -> None:
        entry = self._entries.popleft()
        self._bytes -= entry.size
        if entry.subject is not None:
            rest = self._by_subject[entry.subject]
            rest.remove(entry)
            if not rest:
                del self._by_subject[entry.subject]

    def _clear(self) -> None:
        self._entries.clear()
        self._by_subject.clear()
        self._bytes = 0
