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
        stop = None if upto is None else max(0, upto - first + 1)
        start = pos + 1 - first
        newest_first = len(self._entries) - start
        if stop is None and newest_first < start:
            # deques are walked from the near end: a reconnect mostly wants the newest few.
            tail = list(islice(reversed(self._entries), max(0, newest_first)))
            return reversed(tail)
        return islice(self._entries, start, stop)

    def _take_back(self, entry: Entry) -> None:
        if entry.retracts:
            for subject in entry.retracts:
                for old in self._by_subject.get(subject, ()):
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
