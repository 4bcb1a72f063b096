"""The rules of presence: who counts as there, and who is told of it.

Every node knows of everybody who is there, its own from their sockets and the others' from the
store, and tells its own sockets what that comes to. So nodes can't contradict each other for long,
whatever is lost between them.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from internal.db.redis import RedisAway
from internal.events import Audience
from internal.presence.model import (
    OFFLINE,
    Change,
    Device,
    Merged,
    Presence,
    PresenceLimits,
    PresenceUpdate,
    PresenceUpdated,
    PresentUser,
    SessionPresence,
    Showing,
    Status,
    UserPresence,
    activities_of,
    latest,
    merge,
    to_keep,
)
from internal.presence.repository import Presences
from internal.utils.clock import Clock
from internal.utils.snowflake import Snowflake

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# How old a list for GUILD_CREATE may be. What changed since is told once the socket is live.
_LIST_S: Final = 1.0
# Sessions of one user on one node that count.
_MAX_SESSIONS: Final = 16
# An ended session that was on another node is remembered for so long: until that node, or what it
# wrote, has forgotten it.
_ENDED_S: Final = 30.0
# Changes that are remembered for sockets that were not live.
_RECENT: Final = 1024
# Users that are looked at in one tick, and changes of other nodes that are taken in one go.
_AT_ONCE: Final = 2000
_STEP: Final = 500
# What so many sessions show is kept, or looked up, in one round.
_KEEPS: Final = 1000
_NO_GUILDS: Final[frozenset[int]] = frozenset()


class Sockets(Protocol):
    """The live sockets of this node."""

    def reach(self, guild_id: int) -> int:
        """How many sockets hear of what a guild hears of."""
        ...

    async def tell_guild(self, guild_id: int, events: Sequence[PresenceUpdated]) -> None: ...
    def tell_user(self, user_id: int, events: Sequence[PresenceUpdated]) -> None: ...


@dataclass(slots=True)
class _Session:
    """A session of this node."""

    presence: SessionPresence
    # It was resumed here: other nodes may know better what it showed, until its client speaks.
    is_borrowed: bool = False
    has_spoken: bool = False
    # When it counts as gone; None while it has a socket.
    gone_at: float | None = None
    # A change that came too soon after others, and when the allowance is whole again.
    late: PresenceUpdate | None = None
    whole_at: float = 0.0


@dataclass(slots=True)
class _Here:
    """A user of this node."""

    guilds: frozenset[int] = _NO_GUILDS
    sessions: dict[int, _Session] = field(default_factory=dict)


@dataclass(slots=True)
class _Opening:
    """A session that is not live yet."""

    # What it will show; of a resumed one only the device counts.
    showing: Showing
    is_new: bool
    # What a resumed one said since.
    wish: PresenceUpdate | None = None
    # The last change that its GUILD_CREATEs could show; None as long as none was made.
    since: int | None = None


class _Told(NamedTuple):
    """What was told last of a user."""

    merged: Merged
    guilds: frozenset[int]
    # Offline to others, and not to themselves.
    is_hidden: bool


_NOTHING_TOLD: Final = _Told(OFFLINE, _NO_GUILDS, is_hidden=False)


class _Past(NamedTuple):
    """A change that was told."""

    number: int
    at: float
    user_id: int
    guilds: frozenset[int]


class _List(NamedTuple):
    """The presences of a guild, as of a change."""

    number: int
    at: float
    presences: tuple[Presence, ...]


class PresenceService:
    """Sockets come and go at once; telling of it is bounded, and first to be left out."""

    def __init__(
        self,
        store: Presences,
        sockets: Sockets,
        clock: Clock,
        *,
        node: str,
        shed: Callable[[], bool] = lambda: False,
        limits: PresenceLimits | None = None,
    ) -> None:
        """While `shed` says so nothing is told; afterwards, what it has come to."""
        self.limits = limits or PresenceLimits()
        # How many people are shown as online, on all nodes.
        self.online = 0
        self._store = store
        self._sockets = sockets
        self._clock = clock
        self._node = node
        self._shed = shed
        self._here: dict[int, _Here] = {}
        self._openings: dict[int, _Opening] = {}
        # Sessions without a socket, the first to go first, and those with a late change.
        self._cut: OrderedDict[int, int] = OrderedDict()
        self._ended: OrderedDict[int, int] = OrderedDict()
        self._late: dict[int, int] = {}
        # What each node knows of each user, this one included.
        self._parts: dict[int, dict[str, UserPresence]] = {}
        self._told: dict[int, _Told] = {}
        self._online_in: dict[int, set[int]] = {}
        self._lists: dict[int, _List] = {}
        self._number = 0
        self._recent: deque[_Past] = deque(maxlen=_RECENT)
        # Users of whom there may be something to tell, or to write; each once.
        self._changed: dict[int, None] = {}
        self._unwritten: dict[int, None] = {}
        # What sessions that are gone showed last; what is yet to be kept in the store; and sessions
        # that have to be looked up there.
        self._last: OrderedDict[int, SessionPresence] = OrderedDict()
        self._unkept: OrderedDict[int, SessionPresence] = OrderedDict()
        self._sought: dict[int, int] = {}
        # Guilds of which somebody looks at the members, and those of them where somebody came,
        # went or shows something else.
        self.watched: set[int] = set()
        self.stirred: set[int] = set()
        # Users who joined a guild, and have to be told who is there.
        self._joined: dict[tuple[int, int], None] = {}
        # Whether the store has all that this node knows, but for what is unwritten.
        self._is_whole = False
        self._budget = self.limits.frames_per_s / 2
        self._is_spent = False
        self._filled_at = self._now()
        self._news = asyncio.Event()

    # What the gateway says.

    def opening(self, key: int, showing: Showing) -> None:
        """A session identified; it is live soon."""
        self._openings[key] = _Opening(showing, is_new=True)

    def in_guild(self, key: int, user_id: int, guild_id: int) -> tuple[Presence, ...]:
        """Who is there in a guild, for the GUILD_CREATE of a session that is opening."""
        known = self._lists.get(guild_id)
        now = self._now()
        is_old = known is None or (known.number != self._number and now - known.at > _LIST_S)
        if known is None or is_old or self._is_crowd(guild_id):
            known = _List(self._number, now, tuple(self._list(guild_id)))
            if known.presences:
                self._lists[guild_id] = known
        opening = self._openings.get(key)
        if opening is None:
            return known.presences
        since = known.number if opening.since is None else min(opening.since, known.number)
        opening.since = since
        shown = opening.showing
        begun = SessionPresence(key, shown.status, shown.device, shown.activities)
        merged = merge([*latest(self._parts.get(user_id, {}).values()), begun])
        own = _presence(user_id, guild_id, merged, is_hidden=merged is OFFLINE)
        return (*(one for one in known.presences if one.user.id != user_id), own)

    def who_is_in(self, guild_id: int) -> frozenset[int]:
        """Who is there in a guild, however many they are."""
        return frozenset(self._online_in.get(guild_id, ()))

    def among(self, guild_id: int, user_ids: Iterable[int]) -> list[Presence]:
        """Those of some users who are there in a guild."""
        there = self._online_in.get(guild_id, _NO_GUILDS)
        return [self.presence_of(user_id, guild_id) for user_id in user_ids if user_id in there]

    def presence_of(self, user_id: int, guild_id: int) -> Presence:
        """What a user shows to others in a guild."""
        is_there = user_id in self._online_in.get(guild_id, ())
        return _presence(user_id, guild_id, self._told[user_id].merged if is_there else OFFLINE)

    def live(self, key: int, user_id: int, guilds: Iterable[int]) -> Sequence[PresenceUpdated]:
        """A session's socket hears of events from now on; what else it has to hear of."""
        here = self._here.setdefault(user_id, _Here())
        here.guilds = frozenset(map(int, guilds))
        opening = self._openings.pop(key, None)
        session = here.sessions.get(key)
        if session is None or self._ended.pop(key, None) is not None:
            session = here.sessions[key] = self._begin(key, user_id, opening)
        elif opening is not None:
            session.is_borrowed, session.has_spoken = True, False
            self._learn(user_id, session, self._known(key, user_id))
        session.gone_at = None
        self._cut.pop(key, None)
        self._revive(user_id, session)
        self._keep(session)
        self._touch(user_id)
        if opening is not None and opening.wish is not None:
            self.change(key, user_id, opening.wish)
        if self._shed():
            return ()
        since = opening.since if opening and opening.is_new else None
        if opening and opening.is_new and since is None:
            # It was in no guild.
            since = self._number
        return self._missed(here.guilds, since)

    def change(self, key: int, user_id: int, wish: PresenceUpdate) -> None:
        """A session shows something else."""
        session, opening = self._find(key, user_id), self._openings.get(key)
        if opening is not None and (session is None or key in self._ended):
            if opening.is_new:
                opening.showing = showing_of(wish, opening.showing, self._now_ms())
            else:
                opening.wish = wish
            return
        if session is None:
            return
        session.late = wish
        self._late[key] = user_id
        self._take_late(key, user_id)

    def gone(self, key: int, user_id: int, *, for_good: bool) -> None:
        """A session has no socket any more. One that was cut may come back in a moment."""
        self._openings.pop(key, None)
        session = self._find(key, user_id)
        if session is None:
            return
        if for_good:
            self._finish(key, user_id, session)
        elif session.gone_at is None:
            session.gone_at = self._now() + self.limits.grace_s
            self._cut[key] = user_id
            self._keep(session)

    def back(self, key: int, user_id: int, device: Device) -> None:
        """A session that was cut has a socket again, though it is not live yet.

        It shows what it showed last. If nobody knows that, it shows nothing until it says
        something: it may have been invisible.
        """
        self._openings[key] = _Opening(Showing("offline", device), is_new=False)
        session = self._find(key, user_id)
        if session is not None:
            session.gone_at = None
            self._cut.pop(key, None)

    def moved(self, user_ids: Iterable[int], guild_id: int, *, is_in: bool) -> None:
        """Users joined a guild or left it."""
        for user_id in user_ids:
            if is_in:
                self._come_in(user_id, guild_id)
            else:
                self._leave(user_id, guild_id)

    # The work.

    async def run(self) -> None:
        """Tell what changed, soon and then once in a tick, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self.limits.tick_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self.tell()
            except Exception:  # noqa: BLE001  # the next round goes on with the others
                _log.exception("presence_not_told")
            await asyncio.sleep(self.limits.tick_s)

    async def share(self) -> None:
        """Write what changed here for other nodes, and read what changed there."""
        beat_at = self._now()
        while True:
            try:
                if self._now() >= beat_at:
                    beat_at = self._now() + self.limits.beat_s
                    await self.beat()
                await self.exchange()
            except RedisAway:
                # What is known of others stays as it is; what changes here waits.
                beat_at = self._now()
            except Exception:  # noqa: BLE001  # the next round tries again
                _log.exception("presence_not_shared")
            await asyncio.sleep(self.limits.poll_s)

    async def tell(self) -> None:
        """Tell as much as may be told now."""
        now = self._now()
        self._expire(now)
        for key, user_id in list(self._late.items()):
            self._take_late(key, user_id)
        if not self._may_tell(now):
            return
        told: dict[int, list[PresenceUpdated]] = {}
        users = list(islice(self._changed, _AT_ONCE))
        looked_at, heard_of = 0, 0
        while looked_at < len(users) and self._budget > 0 and heard_of < self.limits.users:
            heard_of += self._tell_of(users[looked_at], told)
            looked_at += 1
        for user_id in users[:looked_at]:
            del self._changed[user_id]
        for guild_id, events in told.items():
            await self._sockets.tell_guild(guild_id, events)
        for user_id in users[:looked_at]:
            # Behind what all are told, in the same write: the client keeps this one.
            self._tell_hidden(user_id)
        while self._joined and self._budget > 0:
            user_id, guild_id = next(iter(self._joined))
            del self._joined[user_id, guild_id]
            here = self._here.get(user_id)
            if here is None or guild_id not in here.guilds:
                continue
            events = [_updated(presence) for presence in self._list(guild_id)]
            self._budget -= len(events)
            self._sockets.tell_user(user_id, events)
        self._is_spent = self._budget <= 0

    def _may_tell(self, now: float) -> bool:
        """Whether there is something left of what may be told.

        Once nothing is left there is a longer rest: a write to a socket costs about the same
        whatever it carries, so fewer of them carry more.
        """
        most, whole = self.limits.frames_per_s, self.limits.frames_per_s / 2
        self._budget = min(whole, self._budget + (now - self._filled_at) * most)
        self._filled_at = now
        if self._is_spent and self._budget < whole:
            return False
        self._is_spent = False
        return not self._shed()

    async def beat(self) -> None:
        """Live on in the store; write everything anew if it was lost there."""
        if self._is_whole:
            self._is_whole = await self._store.beat()
        if not self._is_whole:
            self._unwritten.clear()
            parts = {user_id: self._parts[user_id][self._node] for user_id in self._here}
            await self._store.replace(parts)
            self._is_whole = True
            for here in self._here.values():
                for session in here.sessions.values():
                    self._keep(session)

    async def exchange(self) -> None:
        """Write some of what changed here; take in what changed on other nodes."""
        some = list(islice(self._unwritten, self.limits.users))
        if some:
            for user_id in some:
                del self._unwritten[user_id]
            try:
                parts = {u: self._parts.get(u, {}).get(self._node) for u in some}
                self._is_whole = await self._store.put(parts) and self._is_whole
            except RedisAway:
                self._unwritten.update(dict.fromkeys(some))
                raise
        await self._remember_elsewhere()
        for number, change in enumerate(await self._store.changes(), 1):
            self._hear(change)
            if number % _STEP == 0:
                await asyncio.sleep(0)
        await self._look_up()

    async def _remember_elsewhere(self) -> None:
        """Keep what sessions show where other nodes find it, also when this one is gone."""
        some = dict(islice(self._unkept.items(), _KEEPS))
        if not some:
            return
        await self._store.keep(some.values())
        for key, kept in some.items():
            if self._unkept.get(key) is kept:
                del self._unkept[key]

    async def _look_up(self) -> None:
        """Ask for what sessions showed that were resumed here, and that no node has any more."""
        some = dict(islice(self._sought.items(), _KEEPS))
        if not some:
            return
        found = {session.key: session for session in await self._store.kept(list(some))}
        for key, user_id in some.items():
            self._sought.pop(key, None)
            if key in found:
                self._learn_late(key, user_id, found[key])

    def _hear(self, change: Change) -> None:
        parts = self._parts.setdefault(change.user_id, {})
        before = parts.get(change.node)
        if change.part is None:
            parts.pop(change.node, None)
        else:
            parts[change.node] = change.part
        if not parts:
            del self._parts[change.user_id]
        words = change.part.sessions if change.part else ()
        now_there = {session.key for session in words}
        for session in before.sessions if before else ():
            if session.key not in now_there:
                self._remember(session)
        for word in words:
            self._learn_late(word.key, change.user_id, word)
        self._changed[change.user_id] = None
        self._news.set()

    # Sessions.

    def _find(self, key: int, user_id: int) -> _Session | None:
        here = self._here.get(user_id)
        return None if here is None else here.sessions.get(key)

    def _begin(self, key: int, user_id: int, opening: _Opening | None) -> _Session:
        """A session that this node does not have: new, or as it was last."""
        showing = opening.showing if opening else Showing("offline")
        is_new = opening is not None and opening.is_new
        at = self._now_ms() if is_new else 0
        session = _Session(
            SessionPresence(key, showing.status, showing.device, showing.activities, at),
            is_borrowed=not is_new,
        )
        if not is_new and not self._learn(user_id, session, self._known(key, user_id)):
            self._sought[key] = user_id
        return session

    def _known(self, key: int, user_id: int) -> SessionPresence | None:
        """The last word on a session: of the other nodes, or from before it was gone."""
        words = [word for word in latest(self._elsewhere(user_id)) if word.key == key]
        last = self._last.pop(key, None)
        if last is not None:
            words.append(last)
        return max(words, key=lambda word: (not word.is_ended, word.at), default=None)

    def _learn(self, user_id: int, session: _Session, known: SessionPresence | None) -> bool:
        """Show what a session showed before, unless its client has said something since.

        Whether anything is known of it.
        """
        if known is None or known.is_ended:
            return False
        self._sought.pop(known.key, None)
        own = session.presence
        if known.at <= own.at:
            return True
        if session.has_spoken:
            # Once: two sockets of one session must not outdo each other for ever.
            session.is_borrowed = False
            at = self._next_at(user_id, known.key, known.at)
            session.presence = msgspec.structs.replace(own, at=at)
        else:
            session.presence = known
        self._keep(session)
        return True

    def _learn_late(self, key: int, user_id: int, known: SessionPresence) -> None:
        """Hear what a session showed before, after it went on here."""
        session = self._find(key, user_id)
        if session is None or not session.is_borrowed or key in self._ended:
            return
        before = session.presence
        self._learn(user_id, session, known)
        if session.presence is not before:
            self._touch(user_id)

    def _revive(self, user_id: int, session: _Session) -> None:
        """A session goes on that has ended on another node: that it does is the later word."""
        own = session.presence
        if own.at and any(
            word.key == own.key and word.is_ended for word in latest(self._elsewhere(user_id))
        ):
            at = self._next_at(user_id, own.key, own.at)
            session.presence = msgspec.structs.replace(own, at=at)

    def _next_at(self, user_id: int, key: int, after: int) -> int:
        """Now, or later if what was said before was said so: the clocks of nodes differ."""
        parts = self._parts.get(user_id, {}).values()
        words = (word.at for part in parts for word in part.sessions if word.key == key)
        return max(self._now_ms(), after + 1, *(at + 1 for at in words))

    def _keep(self, session: _Session) -> None:
        """Have the store keep what a session shows, once something is known of it."""
        if session.presence.at:
            _put_last(self._unkept, to_keep(session.presence), self.limits.kept)

    def _remember(self, gone: SessionPresence) -> None:
        known = self._last.get(gone.key)
        if gone.at and not gone.is_ended and (known is None or known.at <= gone.at):
            _put_last(self._last, to_keep(gone), self.limits.kept)

    def _take_late(self, key: int, user_id: int) -> None:
        """Make a change, if it does not come too soon after others."""
        session, now = self._find(key, user_id), self._now()
        if session is None or session.late is None:
            self._late.pop(key, None)
            return
        ahead_s = (self.limits.changes - 1) * self.limits.change_s
        if session.whole_at - now > ahead_s:
            return
        session.whole_at = max(session.whole_at, now) + self.limits.change_s
        del self._late[key]
        if self._make(user_id, session):
            self._keep(session)
            self._touch(user_id)

    def _make(self, user_id: int, session: _Session) -> bool:
        """Make the change that waits, and say whether it is one."""
        shown = session.presence
        before = Showing(shown.status, shown.device, shown.activities)
        after = showing_of(session.late, before, self._now_ms())
        session.late = None
        session.has_spoken = True
        if after == before and shown.at:
            return False
        session.presence = SessionPresence(
            shown.key,
            after.status,
            after.device,
            after.activities,
            self._next_at(user_id, shown.key, shown.at),
        )
        return True

    def _expire(self, now: float) -> None:
        for waiting in (self._cut, self._ended):
            while waiting:
                key, user_id = next(iter(waiting.items()))
                session = self._find(key, user_id)
                if session is not None and session.gone_at is not None and session.gone_at > now:
                    break
                self._end(key, user_id)

    def _finish(self, key: int, user_id: int, session: _Session) -> None:
        """End a session; where another node knows it as well, by a word that is later."""
        if all(known.key != key for known in latest(self._elsewhere(user_id))):
            self._end(key, user_id)
            return
        self._remember_end(user_id, session)
        shown = session.presence
        at = self._next_at(user_id, key, shown.at)
        session.presence = SessionPresence(key, "offline", shown.device, (), at, is_ended=True)
        session.gone_at = self._now() + _ENDED_S
        self._cut.pop(key, None)
        self._ended[key] = user_id
        self._touch(user_id)

    def _end(self, key: int, user_id: int) -> None:
        self._cut.pop(key, None)
        self._ended.pop(key, None)
        self._late.pop(key, None)
        self._sought.pop(key, None)
        here, session = self._here.get(user_id), self._find(key, user_id)
        if here is None or session is None:
            return
        self._remember_end(user_id, session)
        del here.sessions[key]
        if not here.sessions:
            del self._here[user_id]
        self._touch(user_id)

    def _remember_end(self, user_id: int, session: _Session) -> None:
        """Remember what a session shows that ends, or was about to show."""
        if session.late is not None and self._make(user_id, session):
            self._keep(session)
        self._remember(session.presence)

    def _touch(self, user_id: int) -> None:
        """What this node knows of a user is not what it was."""
        parts = self._parts.setdefault(user_id, {})
        part = self._own(user_id)
        if part is None:
            parts.pop(self._node, None)
        else:
            parts[self._node] = part
        if not parts:
            del self._parts[user_id]
        self._changed[user_id] = None
        self._unwritten[user_id] = None
        self._news.set()

    def _elsewhere(self, user_id: int) -> list[UserPresence]:
        """What other nodes know of a user."""
        parts = self._parts.get(user_id, {})
        return [part for node, part in parts.items() if node != self._node]

    def _own(self, user_id: int) -> UserPresence | None:
        here = self._here.get(user_id)
        if here is None:
            return None
        newest = islice(reversed(here.sessions.values()), _MAX_SESSIONS)
        return UserPresence(tuple(here.guilds), tuple(session.presence for session in newest))

    # Guilds.

    def _come_in(self, user_id: int, guild_id: int) -> None:
        here = self._here.get(user_id)
        if here is not None:
            here.guilds |= {guild_id}
            self._touch(user_id)
            self._joined[user_id, guild_id] = None
            if len(self._joined) > self.limits.joined:
                del self._joined[next(iter(self._joined))]
        self._correct(user_id, lambda guilds: guilds | {guild_id})

    def _leave(self, user_id: int, guild_id: int) -> None:
        """Show somebody in a guild no more, whether or not there is time to tell."""
        self._joined.pop((user_id, guild_id), None)
        told = self._told.get(user_id)
        if told is not None:
            self._told[user_id] = told._replace(guilds=told.guilds - {guild_id})
        self._unlist(user_id, guild_id)
        here = self._here.get(user_id)
        if here is not None:
            here.guilds -= {guild_id}
            self._touch(user_id)
        self._correct(user_id, lambda guilds: guilds - {guild_id})

    def _correct(self, user_id: int, change: Callable[[frozenset[int]], frozenset[int]]) -> None:
        """Change what other nodes said of a user's guilds: the log is as good a word."""
        parts = self._parts.get(user_id, {})
        for node, part in parts.items():
            if node != self._node:
                guilds = tuple(change(frozenset(part.guilds)))
                parts[node] = msgspec.structs.replace(part, guilds=guilds)
        if parts:
            self._changed[user_id] = None
            self._news.set()

    def _unlist(self, user_id: int, guild_id: int) -> None:
        members = self._online_in.get(guild_id)
        if members is None or user_id not in members:
            return
        members.discard(user_id)
        if not members:
            del self._online_in[guild_id]
        self._lists.pop(guild_id, None)

    # Telling.

    def _tell_of(self, user_id: int, told: dict[int, list[PresenceUpdated]]) -> bool:
        """Add what the guilds of a user have to be told, and say whether there is anything."""
        before = self._told.get(user_id, _NOTHING_TOLD)
        after = self._state_of(user_id)
        if after == before:
            return False
        self._index(user_id, before, after)
        if self.watched:
            self.stirred |= self.watched & (before.guilds | after.guilds)
        heard: set[int] = set()
        for guild_id in after.guilds:
            known = before.merged if guild_id in before.guilds else OFFLINE
            if after.merged == known or self._is_crowd(guild_id):
                continue
            heard.add(guild_id)
            event = _updated(_presence(user_id, guild_id, after.merged))
            told.setdefault(guild_id, []).append(event)
            self._budget -= self._sockets.reach(guild_id)
        if heard:
            self._number += 1
            self._recent.append(_Past(self._number, self._now(), user_id, frozenset(heard)))
        return bool(heard)

    def _tell_hidden(self, user_id: int) -> None:
        """Tell somebody who is invisible that they are. To others they are offline."""
        told = self._told.get(user_id)
        if told is None or not told.is_hidden:
            return
        hidden = [
            PresenceUpdated(
                presence=_presence(user_id, guild_id, OFFLINE, is_hidden=True),
                to=Audience(users=(Snowflake(user_id),)),
            )
            for guild_id in told.guilds
        ]
        self._sockets.tell_user(user_id, hidden)

    def _state_of(self, user_id: int) -> _Told:
        """What is to be told of a user, from what all nodes know."""
        parts = self._parts.get(user_id)
        if not parts:
            return _Told(OFFLINE, self._told.get(user_id, _NOTHING_TOLD).guilds, is_hidden=False)
        own = parts.get(self._node)
        # This node follows the log; the others' word of a guild counts where all agree.
        guilds = (
            frozenset(own.guilds)
            if own is not None
            else frozenset.intersection(*(frozenset(part.guilds) for part in parts.values()))
        )
        merged = merge(latest(parts.values()))
        return _Told(merged, guilds, is_hidden=merged is OFFLINE)

    def _index(self, user_id: int, before: _Told, after: _Told) -> None:
        is_on, was_on = after.merged is not OFFLINE, before.merged is not OFFLINE
        self.online += is_on - was_on
        if is_on or after.is_hidden:
            self._told[user_id] = after
        else:
            self._told.pop(user_id, None)
        for guild_id in before.guilds - after.guilds if is_on else before.guilds:
            self._unlist(user_id, guild_id)
        if is_on:
            for guild_id in after.guilds:
                self._online_in.setdefault(guild_id, set()).add(user_id)

    def is_there(self, user_id: int) -> bool:
        """Whether somebody has a connection, on any node and whatever it shows."""
        return user_id in self._parts

    def online_in(self, guild_id: int) -> int:
        """How many members of a guild are shown as online, on all nodes."""
        return len(self._online_in.get(guild_id, ()))

    def _is_crowd(self, guild_id: int) -> bool:
        return len(self._online_in.get(guild_id, ())) > self.limits.crowd

    def _list(self, guild_id: int) -> list[Presence]:
        """Who is there in a guild; nobody in a crowd."""
        if self._is_crowd(guild_id):
            return []
        return [
            _presence(user_id, guild_id, self._told[user_id].merged)
            for user_id in self._online_in.get(guild_id, ())
        ]

    def _missed(self, guilds: frozenset[int], since: int | None) -> list[PresenceUpdated]:
        """What changed since a change, or lately: the newest of each user, told to one socket."""
        oldest = self._now() - self.limits.recall_s
        missed: list[PresenceUpdated] = []
        seen: set[int] = set()
        for past in reversed(self._recent):
            is_old = past.at < oldest if since is None else past.number <= since
            if is_old or len(missed) >= self.limits.recall:
                break
            if past.user_id in seen:
                continue
            seen.add(past.user_id)
            # Of who is there, all guilds of now and no others; of who went, those that heard it.
            told = self._told.get(past.user_id, _Told(OFFLINE, past.guilds, is_hidden=False))
            missed += [
                _updated(_presence(past.user_id, guild_id, told.merged))
                for guild_id in told.guilds & guilds
                if not self._is_crowd(guild_id)
            ]
        self._budget -= len(missed)
        return missed

    def _now(self) -> float:
        return self._clock.monotonic()

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _put_last(kept: OrderedDict[int, SessionPresence], session: SessionPresence, most: int) -> None:
    kept[session.key] = session
    kept.move_to_end(session.key)
    while len(kept) > most:
        kept.popitem(last=False)


def showing_of(wish: PresenceUpdate | None, before: Showing, now_ms: int) -> Showing:
    """What a session shows after its client said something of itself."""
    if wish is None:
        return before
    status: Status = wish.status or "online"
    activities = activities_of(wish, before.activities, now_ms)
    return Showing(status, before.device, activities)


def _presence(user_id: int, guild_id: int, merged: Merged, *, is_hidden: bool = False) -> Presence:
    return Presence(
        user=PresentUser(Snowflake(user_id)),
        guild_id=Snowflake(guild_id),
        status="invisible" if is_hidden else merged.status,
        activities=merged.activities,
        client_status=merged.client_status,
    )


def _updated(presence: Presence) -> PresenceUpdated:
    return PresenceUpdated(presence=presence, to=Audience(guild_id=presence.guild_id))
