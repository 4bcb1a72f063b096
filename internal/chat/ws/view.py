"""What one session may see of the log: pure rules, for replay and for catching up."""

from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from typing import Final

import msgspec

from internal.chat.ws.model import SessionTaken, TakenSession
from internal.eventlog.model import Entry

JOINED: Final = "GUILD_CREATE"
LEFT: Final = "GUILD_DELETE"
SESSION_ENDED: Final = "session_ended"


class EndedSessions(msgspec.Struct):
    """The payload of the event that ends login sessions."""

    session_ids: list[str]


_taken = msgspec.json.Decoder(TakenSession).decode
_ended = msgspec.json.Decoder(EndedSessions).decode


def ended_sessions(entry: Entry) -> list[int]:
    """The login sessions that an entry ends."""
    if entry.type != SESSION_ENDED or entry.payload is None:
        return []
    return [int(session_id) for session_id in _ended(entry.payload).session_ids]


def taken_session(entry: Entry) -> TakenSession | None:
    """The gateway session that an entry says goes on elsewhere."""
    if entry.type != SessionTaken.type or entry.payload is None:
        return None
    return _taken(entry.payload)


def is_readable(entry: Entry) -> bool:
    """Whether the server understands an entry that is for its own ears."""
    try:
        ended_sessions(entry)
        taken_session(entry)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


class Fate(Enum):
    """What becomes of an entry for one session."""

    TELL = 1
    PASS = 2
    # The session's login has ended: close.
    END = 3


class Span:
    """The missed part of the log, for one who is in `guilds` now: allowed then and allowed now.

    A guild's entries count from the user's own last join in the span, for whoever comes back is
    told the guild afresh; of a guild that was left, only the leaving is told, and that only to one
    who knew the guild.
    """

    __slots__ = ("_first_move", "_guilds", "_last_join", "unknown", "upto")

    def __init__(self, upto: int, moves: Sequence[Entry], guilds: Collection[int]) -> None:
        """`moves` are the user's own joins and leaves in the span, whose end is `upto`."""
        self.upto = upto
        self._guilds = frozenset(guilds)
        self._first_move: dict[int | None, int] = {}
        self._last_join: dict[int | None, int] = {}
        last: dict[int, str] = {}
        for move in moves:
            self._first_move.setdefault(move.guild_id, move.pos)
            if move.type == JOINED:
                self._last_join[move.guild_id] = move.pos
            last[move.guild_id or 0] = move.type
        # Joined in the span and yet not told, as a leave is on its way: nor is that told then.
        self.unknown = {g for g, kind in last.items() if kind == JOINED and g not in guilds}

    def tells(self, entry: Entry) -> bool:
        """Whether an entry of the span that concerns the user is told."""
        guild_id = entry.guild_id
        if entry.users is None:
            return guild_id in self._guilds and entry.pos > self._last_join.get(guild_id, 0)
        if guild_id is not None and entry.type == JOINED:
            return guild_id in self._guilds and entry.pos == self._last_join[guild_id]
        if guild_id is not None and entry.type == LEFT:
            # Known to the client only if it did not join within the span.
            return entry.pos == self._first_move[guild_id]
        return not entry.is_internal


def is_move(entry: Entry, user_id: int) -> bool:
    """Whether an entry makes a user join or leave a guild."""
    return (
        entry.users is not None
        and entry.guild_id is not None
        and entry.type in {JOINED, LEFT}
        and user_id in entry.users
    )


class View:
    """A session's place in the log while it is not live: who it is and which guilds it is in."""

    __slots__ = ("_span", "_unknown", "guilds", "login_id", "suppressed", "user_id")

    def __init__(
        self,
        user_id: int,
        login_id: int,
        guilds: set[int],
        *,
        suppressed: Iterable[int] = (),
        span: Span | None = None,
    ) -> None:
        """`guilds` are those at the end of the span, or at the session's position without one."""
        self.user_id = user_id
        self.login_id = login_id
        self.guilds = guilds
        # Entries that READY has told already, by outbox id; each comes once.
        self.suppressed = set(suppressed)
        self._span = span
        self._unknown = set(span.unknown) if span else set()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left that only this view knows how to tell."""
        return not self.suppressed and not self._unknown

    def take(self, entry: Entry) -> Fate:
        """Step over the next entry, joining and leaving as it says."""
        if entry.outbox_id in self.suppressed:
            self.suppressed.discard(entry.outbox_id)
            if self._span is None or entry.pos > self._span.upto:
                self._move(entry)
            return Fate.PASS
        if not self._concerns(entry):
            return Fate.PASS
        if self._span is not None:
            if entry.pos <= self._span.upto:
                return Fate.TELL if self._span.tells(entry) else Fate.PASS
            self._span = None
        if entry.is_internal:
            return Fate.END if self.login_id in ended_sessions(entry) else Fate.PASS
        return self._move(entry)

    def _concerns(self, entry: Entry) -> bool:
        if entry.users is None:
            return entry.guild_id in self.guilds
        return self.user_id in entry.users

    def _move(self, entry: Entry) -> Fate:
        guild_id = entry.guild_id
        if guild_id is not None and is_move(entry, self.user_id):
            if entry.type == JOINED:
                self.guilds.add(guild_id)
                self._unknown.discard(guild_id)
            else:
                self.guilds.discard(guild_id)
                if guild_id in self._unknown:
                    self._unknown.discard(guild_id)
                    return Fate.PASS
        return Fate.TELL
