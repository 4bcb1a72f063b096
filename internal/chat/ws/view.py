"""What one session may see of the log: pure rules, for replay and for catching up."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

import msgspec

from internal.chat.ws.events import frame_of
from internal.eventlog.model import Entry

JOINED: Final = "GUILD_CREATE"
LEFT: Final = "GUILD_DELETE"
SESSION_ENDED: Final = "session_ended"


class EndedSessions(msgspec.Struct):
    """The payload of the event that ends login sessions."""

    session_ids: list[str]


_ended = msgspec.json.Decoder(EndedSessions).decode


def ended_sessions(entry: Entry) -> list[int]:
    """The login sessions that an entry ends."""
    if entry.type != SESSION_ENDED or entry.payload is None:
        return []
    return [int(session_id) for session_id in _ended(entry.payload).session_ids]


class Fate(Enum):
    """What becomes of an entry for one session."""

    TELL = 1
    PASS = 2
    # The session's login has ended: close.
    END = 3


class View:
    """A session's place in the log while it is not live: who it is and which guilds it is in."""

    __slots__ = ("guilds", "login_id", "suppressed", "user_id")

    def __init__(
        self, user_id: int, login_id: int, guilds: set[int], suppressed: Iterable[int] = ()
    ) -> None:
        self.user_id = user_id
        self.login_id = login_id
        self.guilds = guilds
        # Entries that READY has told already. Each comes once, so the set empties itself.
        self.suppressed = set(suppressed)

    def take(self, entry: Entry) -> Fate:
        """Step over the next entry, joining and leaving as it says."""
        if entry.outbox_id in self.suppressed:
            self.suppressed.discard(entry.outbox_id)
            return Fate.PASS
        if entry.users is None:
            return Fate.TELL if entry.guild_id in self.guilds else Fate.PASS
        if self.user_id not in entry.users:
            return Fate.PASS
        if entry.is_internal:
            return Fate.END if self.login_id in ended_sessions(entry) else Fate.PASS
        if entry.guild_id is not None:
            if entry.type == JOINED:
                self.guilds.add(entry.guild_id)
            elif entry.type == LEFT:
                self.guilds.discard(entry.guild_id)
        return Fate.TELL


def replay(
    entries: Sequence[Entry], user_id: int, guilds: set[int], suppressed: Iterable[int]
) -> list[bytes]:
    """The frames of a span for one who is in `guilds` now: allowed then and allowed now.

    `guilds` are the memberships at the end of the span. A guild's entries count from the user's
    own last join in the span, for whoever comes back is told the guild afresh; of a guild that
    was left, only the leaving is told, and that only to one who knew the guild.
    """
    skip = set(suppressed)
    moves = [
        e
        for e in entries
        if e.users is not None
        and e.guild_id is not None
        and user_id in e.users
        and e.type in {JOINED, LEFT}
        and e.outbox_id not in skip
    ]
    last_join = {e.guild_id: e.pos for e in moves if e.type == JOINED}
    first_move: dict[int, Entry] = {}
    for move in moves:
        first_move.setdefault(move.guild_id or 0, move)
    frames = []
    for entry in entries:
        if entry.outbox_id in skip or entry.is_internal:
            continue
        if entry.users is None:
            told = entry.guild_id in guilds and entry.pos > last_join.get(entry.guild_id, 0)
        elif user_id not in entry.users:
            told = False
        elif entry.type == JOINED and entry.guild_id is not None:
            told = entry.guild_id in guilds and entry.pos == last_join.get(entry.guild_id)
        elif entry.type == LEFT and entry.guild_id is not None:
            # Known to the client only if it did not join within the span.
            told = entry is first_move.get(entry.guild_id)
        else:
            told = True
        frame = frame_of(entry) if told else None
        if frame is not None:
            frames.append(frame)
    return frames
