"""Whether what somebody read from the database a moment ago still holds, judged by the log.

A copy carries the position P of the log as of which it was read, taken in the same snapshot. This
node trusts it only if it has seen every event after P, and none of them changed what was copied.
So a cache that nodes share may be stale, emptied or forged from an older epoch and still cannot
bring back what an event has ended.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from typing_extensions import override

from internal.eventlog.model import Entry
from internal.utils.json import UnreadableJson, encode

T = TypeVar("T")

# Copies are dropped after this, should the news of a change have been lost.
TRUST_S: Final = 30.0
_MOST_SUBJECTS: Final = 100_000


class AsOf(NamedTuple):
    """The head of the log in the snapshot in which something was read."""

    pos: int
    epoch: int


class Copy(msgspec.Struct, Generic[T], frozen=True):
    """Something as it was at a position."""

    pos: int
    value: T


class SharedCache(Protocol):
    """Bytes that nodes lend each other. They may be gone or stale at any moment."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None: ...


class NoSharedCache(SharedCache):
    """What a node by itself has."""

    @override
    async def get(self, key: str) -> bytes | None:
        return None

    @override
    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        return


class Freshness:
    """What this node has heard about changes, by subject: the account that was changed."""

    def __init__(
        self,
        start: AsOf,
        subjects: Callable[[Entry], Iterable[int]],
        *,
        most: int = _MOST_SUBJECTS,
    ) -> None:
        """`start` is where the tailer begins; `subjects` says whom an entry changes."""
        self.pos, self.epoch = start
        self._subjects = subjects
        self._most = most
        # What was read before this may have been changed by an event that is not known any more.
        self._floor = start.pos
        # The last change of each subject; whose change is the longest ago stands first.
        self._changed: OrderedDict[int, int] = OrderedDict()
        # Whose change was committed here and has no position yet.
        self._awaited: set[int] = set()

    def observe(self, entries: Sequence[Entry]) -> None:
        """Consume the log."""
        if entries[0].pos != self.pos + 1:  # what the tailer passed over may have changed anything
            self._floor = entries[0].pos - 1
        for entry in entries:
            for subject in self._subjects(entry):
                self._note(subject, entry.pos)
        self.pos = entries[-1].pos

    def expect(self, subject: int, since: int) -> None:
        """Trust no copy until the event of a change that was just committed here arrives.

        `since` is the `pos` before that transaction began: the event may have been here already.
        """
        if self._changed.get(subject, 0) <= since:
            self._awaited.add(subject)

    def trusts(self, subject: int, pos: int) -> bool:
        """Whether a copy as of a position is as good as what the log says by now."""
        newest = max(self._floor, self._changed.get(subject, 0))
        return pos >= newest and subject not in self._awaited

    def _note(self, subject: int, pos: int) -> None:
        self._awaited.discard(subject)
        self._changed[subject] = pos
        self._changed.move_to_end(subject)
        if len(self._changed) > self._most:
            _, forgotten = self._changed.popitem(last=False)
            self._floor = max(self._floor, forgotten)


class FreshCache(Generic[T]):
    """Copies of one kind that nodes lend each other, each node judging for itself."""

    def __init__(
        self,
        kind: str,
        read: Callable[[bytes], Copy[T]],
        freshness: Freshness,
        shared: SharedCache,
    ) -> None:
        """`kind` names the shape: another shape takes another name, as releases run side by side.

        `read` is the decoder of that shape, from `internal.utils.json`.
        """
        self._kind = kind
        self._read = read
        self._freshness = freshness
        self._shared = shared

    @property
    def pos(self) -> int:
        """How far this node has read the log."""
        return self._freshness.pos

    async def find(self, key: int, subject: int) -> T | None:
        """Return a copy that can be trusted at this moment; None means to read it."""
        raw = await self._shared.get(self._name(key))
        if raw is None:
            return None
        try:
            copy = self._read(raw)
        except UnreadableJson:
            return None
        return copy.value if self._freshness.trusts(subject, copy.pos) else None

    async def keep(self, key: int, as_of: AsOf, value: T) -> None:
        """Lend a copy to the others."""
        if as_of.epoch == self._freshness.epoch:
            await self._shared.put(self._name(key), encode(Copy(as_of.pos, value)), TRUST_S)

    def expect_change(self, subject: int, since: int) -> None:
        """Trust no copy until the event of a change that was just committed here arrives."""
        self._freshness.expect(subject, since)

    def _name(self, key: int) -> str:
        # A database that was restored begins another epoch, and its positions come again.
        return f"{self._freshness.epoch}:{self._kind}:{key}"
