"""What one session may see of the log: pure rules, for replay and for catching up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from internal.chat.ws.model import SessionTaken, TakenSession
from internal.chat.ws.sight import News, Roles, Sight, gate_of, is_state, news_for, roles_of
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
    # The view has to be told a guild afresh before it can go on.
    RELOAD = 4


class Fresh(NamedTuple):
    """A guild that was told afresh, as of a position."""

    upto: int
    # What is not in GUILD_CREATE, as messages, is told from here on: who may see what has not
    # changed between.
    after: int


# Finds the sight of a guild behind a position, if this node has it.
FindSight: TypeAlias = Callable[[int, int], Sight | None]


class Groups:
    """The group messages that somebody came into or left within a span.

    As with guilds: of one that was left only that is told, and only if it was known; of one that
    somebody came back to, what came after.
    """

    __slots__ = ("_first", "_last")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._first: dict[int, int] = {}
        # The last coming; None where the last thing was a leaving.
        self._last: dict[int, int | None] = {}
        for entry in entries:
            if _is_about_group(entry) and entry.channel_id is not None:
                self._first.setdefault(entry.channel_id, entry.pos)
                came = entry.type == "CHANNEL_CREATE"
                self._last[entry.channel_id] = entry.pos if came else None

    def tells(self, entry: Entry) -> bool:
        """Whether an entry for this user is told, as far as groups are concerned."""
        channel_id = entry.channel_id
        if channel_id is None or entry.guild_id is not None or channel_id not in self._last:
            return True
        last = self._last[channel_id]
        if entry.type == "CHANNEL_DELETE" and _is_about_group(entry):
            return entry.pos == self._first.get(channel_id)
        return last is not None and entry.pos >= last


def _is_about_group(entry: Entry) -> bool:
    """Whether an entry tells somebody that a channel outside of guilds came or went."""
    return (
        entry.users is not None
        and entry.guild_id is None
        and entry.type in {"CHANNEL_CREATE", "CHANNEL_DELETE"}
    )


class Span:
    """The missed part of the log, for one who is in `guilds` now: allowed then and allowed now.

    A guild's entries count from the user's own last join in the span, for whoever comes back is
    told the guild afresh; of a guild that was left, only the leaving is told, and that only to one
    who knew the guild. Who may see which channel does not change within it: guilds where that does
    are told afresh, and not here.
    """

    __slots__ = (
        "_first_move",
        "_groups",
        "_guilds",
        "_last_join",
        "_reload",
        "_sights",
        "_user_id",
        "unknown",
        "upto",
    )

    def __init__(  # noqa: PLR0913  # all that decides about a replay
        self,
        upto: int,
        moves: Sequence[Entry],
        guilds: Mapping[int, Roles],
        *,
        sights: Mapping[int, Sight],
        user_id: int,
        groups: "Groups | None" = None,
        reload: Iterable[int] = (),
    ) -> None:
        """`moves` are the user's own joins and leaves in the span, whose end is `upto`.

        `reload` are guilds that have to be told afresh where they were joined.
        """
        self._reload = set(reload)
        self._groups = groups or Groups()
        self.upto = upto
        self._guilds = dict(guilds)
        self._sights = dict(sights)
        self._user_id = user_id
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

    def reloads(self, entry: Entry) -> bool:
        """Whether a guild that was joined with this entry has to be told as it is now.

        Not earlier: whoever breaks off before that does not know the guild.
        """
        return (
            entry.type == JOINED
            and entry.users is not None
            and entry.guild_id in self._reload
            and entry.pos == self._last_join.get(entry.guild_id)
        )

    def tells(self, entry: Entry) -> bool:
        """Whether an entry of the span that concerns the user is told."""
        guild_id = entry.guild_id
        if entry.users is None:
            is_in = guild_id in self._guilds and entry.pos > self._last_join.get(guild_id, 0)
            return is_in and self._sees(entry)
        if guild_id is not None and entry.type == JOINED:
            return guild_id in self._guilds and entry.pos == self._last_join[guild_id]
        if guild_id is not None and entry.type == LEFT:
            # Known to the client only if it did not join within the span.
            return entry.pos == self._first_move[guild_id]
        if guild_id is not None and (
            guild_id not in self._guilds or entry.pos <= self._last_join.get(guild_id, 0)
        ):
            # For this member as a part of a guild that was left, or from before a return.
            return False
        return not entry.is_internal and self._groups.tells(entry) and self._sees(entry)

    def _sees(self, entry: Entry) -> bool:
        guild_id = entry.guild_id
        if guild_id is None:
            return True
        sight, roles = self._sights.get(guild_id), self._guilds.get(guild_id)
        return may_hear(entry, sight, self._user_id, roles)


def may_hear(entry: Entry, sight: Sight | None, user_id: int, roles: Roles | None) -> bool:
    """Whether a member sees the channel that an entry of the guild is about, if it is about one."""
    gate = entry.parent_id if entry.users is not None else gate_of(entry)
    if gate is None:
        return True
    if sight is None or roles is None:
        return False
    thread = sight.threads.get(entry.channel_id or 0)
    if entry.users is not None and thread is not None and not entry.type.startswith("THREAD_"):
        # Named by the entry as a member of a private thread, and removed from it since.
        return user_id in thread.members and sight.sees(user_id, roles, gate)
    if gate in sight.channels or not entry.type.startswith("CHANNEL_") or entry.payload is None:
        return sight.sees(user_id, roles, gate)
    # Of a channel that is no more there is what the event says.
    return sight.would_see(user_id, roles, entry.payload)


def is_move(entry: Entry, user_id: int) -> bool:
    """Whether an entry makes a user join or leave a guild."""
    return (
        entry.users is not None
        and entry.guild_id is not None
        and entry.type in {JOINED, LEFT}
        and user_id in entry.users
    )


class View:
    """A session's place in the log while it is not live: who it is, and what it sees of guilds."""

    __slots__ = (
        "_find_sight",
        "_fresh",
        "_span",
        "_unknown",
        "guilds",
        "login_id",
        "news",
        "reload",
        "sights",
        "suppressed",
        "user_id",
    )

    def __init__(  # noqa: PLR0913  # all that decides about a session
        self,
        user_id: int,
        login_id: int,
        guilds: dict[int, Roles],
        sights: dict[int, Sight],
        *,
        suppressed: Iterable[int] = (),
        span: Span | None = None,
        reload: Iterable[int] = (),
        find_sight: FindSight = lambda _guild_id, _pos: None,
    ) -> None:
        """`guilds` and `sights` are those at the end of the span, or at the session's position.

        `reload` are guilds that have to be told afresh before anything else is taken.
        """
        self.user_id = user_id
        self.login_id = login_id
        # The guilds that the user is in, with the roles there; what there is to see of each.
        self.guilds = guilds
        self.sights = sights
        # Entries that were told already, by outbox id; each comes once.
        self.suppressed = set(suppressed)
        self.reload = set(reload)
        # What is told ahead of the entry that was taken last.
        self.news: Sequence[News] = ()
        self._fresh: dict[int, Fresh] = {}
        self._find_sight = find_sight
        self._span = span
        self._unknown = set(span.unknown) if span else set()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left that only this view knows how to tell."""
        return not self.suppressed and not self._unknown and not self.reload

    def told_afresh(
        self, guild_id: int, sight: Sight, roles: Roles, fresh: Fresh, known: Iterable[int]
    ) -> None:
        """A guild was told afresh; `known` are entries without a position that it was told with."""
        self.guilds[guild_id] = roles
        self.sights[guild_id] = sight
        self.suppressed.update(known)
        self._fresh[guild_id] = fresh
        self.reload.discard(guild_id)

    def not_told(self, guild_id: int, *, was_known: bool) -> None:
        """A guild can't be told afresh: the user has left it, which the log is about to say."""
        self.guilds.pop(guild_id, None)
        self.sights.pop(guild_id, None)
        self.reload.discard(guild_id)
        if not was_known:
            self._unknown.add(guild_id)

    def knows(self, guild_id: int) -> bool:
        """Whether the client has been told of a guild."""
        return guild_id in self.sights

    def take(self, entry: Entry) -> Fate:
        """Step over the next entry, joining, leaving and seeing as it says."""
        self.news = ()
        if entry.outbox_id in self.suppressed:
            # What it does was in what was told: guilds and sights are as it leaves them.
            self.suppressed.discard(entry.outbox_id)
            return Fate.PASS
        if not self._concerns(entry):
            self._pass_by(entry)
            return Fate.PASS
        fresh = self._fresh.get(entry.guild_id or 0)
        if fresh is not None and entry.pos <= fresh.upto:
            return Fate.TELL if self._is_news(entry, fresh) else Fate.PASS
        if self._span is not None:
            if entry.pos <= self._span.upto:
                return self._replay(self._span, entry)
            self._span = None
        if entry.is_internal:
            return Fate.END if self.login_id in ended_sessions(entry) else Fate.PASS
        return self._step(entry)

    def _pass_by(self, entry: Entry) -> None:
        """See what is for others, too, as their private threads: the sight may become a room's."""
        guild_id = entry.guild_id or 0
        sight, fresh = self.sights.get(guild_id), self._fresh.get(guild_id)
        if sight is None or entry.is_internal or (fresh and entry.pos <= fresh.upto):
            return
        if self._span is None or entry.pos > self._span.upto:
            self.sights[guild_id] = sight.after(entry)

    def _replay(self, span: Span, entry: Entry) -> Fate:
        if span.reloads(entry):
            return self._load(entry.guild_id or 0)
        return Fate.TELL if span.tells(entry) else Fate.PASS

    def _load(self, guild_id: int) -> Fate:
        self.sights.pop(guild_id, None)
        self.reload.add(guild_id)
        return Fate.RELOAD

    def _concerns(self, entry: Entry) -> bool:
        if entry.users is None:
            return entry.guild_id in self.guilds
        return self.user_id in entry.users

    def _is_news(self, entry: Entry, fresh: Fresh) -> bool:
        """Whether an entry tells what the guild that was told afresh does not."""
        guild_id = entry.guild_id or 0
        return (
            entry.pos > fresh.after
            and entry.type not in {JOINED, LEFT}
            and not entry.is_internal
            and not is_state(entry.type)
            and may_hear(entry, self.sights.get(guild_id), self.user_id, self.guilds.get(guild_id))
        )

    def _step(self, entry: Entry) -> Fate:
        guild_id = entry.guild_id
        if guild_id is None:
            return Fate.TELL
        if is_move(entry, self.user_id):
            return self._move(entry, guild_id)
        sight, roles = self.sights.get(guild_id), self.guilds.get(guild_id, ())
        if sight is None:
            # Left, or about to be: only what is for this user alone is told.
            return Fate.TELL if entry.users is not None and not entry.parent_id else Fate.PASS
        self._see(entry, sight, roles)
        judge = sight if entry.type == "CHANNEL_DELETE" else self.sights[guild_id]
        is_heard = may_hear(entry, judge, self.user_id, self.guilds.get(guild_id))
        return Fate.TELL if is_heard else Fate.PASS

    def _see(self, entry: Entry, sight: Sight, roles: Roles) -> None:
        guild_id = sight.guild_id
        after = sight.after(entry)
        now = roles_of(entry) if entry.reshapes == self.user_id else roles
        if after is sight and now == roles:
            return
        self.sights[guild_id], self.guilds[guild_id] = after, now
        self.news = news_for(sight, after, self.user_id, roles, now)

    def _move(self, entry: Entry, guild_id: int) -> Fate:
        if entry.type == JOINED:
            self._unknown.discard(guild_id)
            self.guilds[guild_id] = ()
            sight = self._find_sight(guild_id, entry.pos)
            if sight is None:
                return self._load(guild_id)
            self.sights[guild_id] = sight
            return Fate.TELL
        self.guilds.pop(guild_id, None)
        self.sights.pop(guild_id, None)
        if guild_id in self._unknown:
            self._unknown.discard(guild_id)
            return Fate.PASS
        return Fate.TELL
