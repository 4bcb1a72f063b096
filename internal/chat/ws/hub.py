"""The hub: which live sockets hear of what, and the writing to all of them at once.

What each may see of a guild, the guild's sight says. Entries of the log come in, in order; each is
encoded once, and what one socket gets within a loop tick leaves in one write. A socket that does
not keep up leaves the index.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias, cast

import structlog

from internal.chat.ws import events
from internal.chat.ws.client import Client
from internal.chat.ws.model import TakenSession
from internal.chat.ws.sight import (
    COUNTED_TYPES,
    SIGHT_TYPES,
    Kind,
    News,
    Sight,
    gate_of,
    news_for,
    roles_of,
)
from internal.chat.ws.view import JOINED, LEFT, ended_sessions, taken_session
from internal.eventlog.bus import Whisper
from internal.eventlog.model import Entry
from internal.events import Event
from internal.utils.json import encode

_log = structlog.get_logger(__name__)
# What joining may add to the time of a delivery.
_LONGEST_REST_S: Final = 0.005
# Sockets that are told something unlogged in one go: what comes next waits a millisecond for it.
_SLICE: Final = 100
_NOBODY: frozenset[Client] = frozenset()


# Guilds that nobody here is in at the moment, but whose sight is kept for who comes back.
_MOST_IDLE_ROOMS: Final = 1000

# The sockets that hear of something: sets of them, or None for everyone in the room.
Audience: TypeAlias = tuple[set[Client], ...] | None


class Room:
    """The live sockets of a guild, by what they may see of it."""

    __slots__ = ("_audiences", "clients", "kinds", "sight", "since")

    def __init__(self, sight: Sight, since: int) -> None:
        self.sight = sight
        # The position behind which the sight is as it is.
        self.since = since
        self.clients: set[Client] = set()
        self.kinds: dict[Kind, set[Client]] = {}
        self._audiences: dict[int, Audience] = {}

    def add(self, client: Client) -> None:
        self.clients.add(client)
        kind = self._kind_of(client)
        members = self.kinds.get(kind)
        if members is None:
            self._audiences.clear()
            members = self.kinds[kind] = set()
        members.add(client)

    def remove(self, client: Client) -> None:
        self.clients.discard(client)
        kind = self._kind_of(client)
        members = self.kinds.get(kind)
        if members is not None:
            members.discard(client)
            if not members:
                del self.kinds[kind]
                self._audiences.clear()

    def audience(self, gate: int | None) -> Audience:
        """Who hears of what happens in a channel, or in the guild as a whole."""
        if gate is None:
            return None
        if gate not in self._audiences:
            self._audiences[gate] = self._find_audience(gate)
        return self._audiences[gate]

    def hears(self, client: Client, gate: int) -> bool:
        roles = client.guilds.get(self.sight.guild_id)
        return roles is not None and self.sight.sees(client.user_id, roles, gate)

    def reshape(self, sight: Sight, pos: int) -> list[tuple[Iterable[Client], list[News]]]:
        """Go on to another sight; who is to be told what of it, ahead of what made it so."""
        before, self.sight, self.since = self.sight, sight, pos
        if sight.is_like(before):
            return []
        old_kinds, self.kinds = self.kinds, {}
        self._audiences.clear()
        told: list[tuple[Iterable[Client], list[News]]] = []
        for old, members in old_kinds.items():
            parts: dict[Kind, set[Client]] = {}
            for client in members:
                parts.setdefault(sight.kind_of(client.user_id, old[0]), set()).add(client)
            for new, part in parts.items():
                self.kinds.setdefault(new, set()).update(part)
                told += self._news(before, old, new, part)
        return told

    def _news(
        self, before: Sight, old: Kind, new: Kind, members: set[Client]
    ) -> Iterable[tuple[Iterable[Client], list[News]]]:
        gained = self.sight.gained(before, old, new)
        lost = self.sight.lost(before, old, new)
        if not gained and not lost:
            return
        insiders = [c for c in members if self.sight.is_in_threads(c.user_id, gained)]
        yield members.difference(insiders), [*lost, *self.sight.introduce(gained, None)]
        for client in insiders:
            yield (client,), [*lost, *self.sight.introduce(gained, client.user_id)]

    def _kind_of(self, client: Client) -> Kind:
        return self.sight.kind_of(client.user_id, client.guilds.get(self.sight.guild_id, ()))

    def _find_audience(self, gate: int) -> Audience:
        if gate not in self.sight.channels:
            return ()
        seeing = [m for kind, m in self.kinds.items() if gate not in self.sight.hidden(kind)]
        return None if len(seeing) == len(self.kinds) else tuple(seeing)


class _Run:
    """Consecutive frames for the same sockets, which are joined before they are spread."""

    __slots__ = ("_audience", "_frames", "_room", "_spread")

    def __init__(self, spread: Callable[[Room, Audience, list[bytes]], None]) -> None:
        self._spread = spread
        self._room: Room | None = None
        self._audience: Audience = None
        self._frames: list[bytes] = []

    def add(self, room: Room, audience: Audience, frame: bytes) -> None:
        if room is not self._room or audience is not self._audience:
            self.end()
            self._room, self._audience = room, audience
        self._frames.append(frame)

    def end(self) -> None:
        if self._frames and self._room is not None:
            self._spread(self._room, self._audience, self._frames)
            self._frames = []


class Hub:
    """The live sockets of this node, by user and by guild."""

    def __init__(self) -> None:
        # The position up to which every live socket has been told.
        self.pos = 0
        self.deliveries = 0
        self.writes = 0
        self._end_all: Callable[[Iterable[int]], None] = _keep
        self._take: Callable[[TakenSession], None] = _keep
        self._by_user: dict[int, set[Client]] = {}
        self._rooms: dict[int, Room] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._cold: Callable[[Client, int], None] = _keep
        self._dirty: list[Client] = []
        self._flush_planned = False
        self._rest_until = 0.0
        self._loop = asyncio.get_running_loop()

    def when_logins_end(self, end_all: Callable[[Iterable[int]], None]) -> None:
        """Call `end_all` with the ids of login sessions that have ended."""
        self._end_all = end_all

    def when_sessions_are_taken(self, take: Callable[[TakenSession], None]) -> None:
        """Call `take` with the gateway sessions that go on at another node."""
        self._take = take

    def when_guilds_are_unknown(self, cold: Callable[[Client, int], None]) -> None:
        """Call `cold` with a socket that came into a guild this node knows nothing of.

        With it comes the position before that: it has to be detached, and caught up from there.
        """
        self._cold = cold

    @property
    def users(self) -> int:
        """How many people have a live socket here."""
        return len(self._by_user)

    def sight_at(self, guild_id: int, pos: int) -> Sight | None:
        """The sight of a guild behind a position, if this node knows it."""
        room = self._rooms.get(guild_id)
        return room.sight if room is not None and room.since <= pos <= self.pos else None

    def knows(self, guild_id: int) -> bool:
        """Whether this node follows what is seen of a guild."""
        return guild_id in self._rooms

    def sights_of(self, client: Client) -> dict[int, Sight]:
        """What there is to see of a live socket's guilds now."""
        return {guild_id: self._rooms[guild_id].sight for guild_id in client.guilds}

    def attach(self, client: Client, sights: Mapping[int, Sight]) -> None:
        """Tell a socket everything behind `pos` from now on. It must have been told up to it.

        `sights` are those of its guilds behind `pos`; they are kept where there is none yet.
        """
        client.is_live = True
        self._by_user.setdefault(client.user_id, set()).add(client)
        for guild_id in client.guilds:
            room = self._rooms.get(guild_id)
            if room is None:
                room = self._rooms[guild_id] = Room(sights[guild_id], self.pos)
            self._idle.pop(guild_id, None)
            room.add(client)

    def detach(self, client: Client) -> None:
        """Stop telling. What is pending is still sent; `client.guilds` stay as they are."""
        if not client.is_live:
            return
        client.is_live = False
        members = self._by_user.get(client.user_id)
        if members is not None:
            members.discard(client)
            if not members:
                del self._by_user[client.user_id]
        for guild_id in client.guilds:
            self._leave(guild_id, client)

    def _leave(self, guild_id: int, client: Client) -> None:
        room = self._rooms.get(guild_id)
        if room is None:
            return
        room.remove(client)
        if not room.clients:
            self._idle[guild_id] = None
            if len(self._idle) > _MOST_IDLE_ROOMS:
                oldest, _ = self._idle.popitem(last=False)
                del self._rooms[oldest]

    def publish(self, entries: Sequence[Entry]) -> None:
        """Tell the audience of each entry, in order."""
        run = _Run(self._spread)
        for entry in entries:
            self.pos = entry.pos
            room = self._rooms.get(entry.guild_id or 0)
            if entry.users is not None:
                run.end()
                self._tell_users(entry, entry.users)
                if room is not None:
                    room.sight.tally.count(entry)
                    self._advance(room, entry)
            elif room is not None:
                self._tell_room(room, entry, run)
        run.end()

    def _tell_room(self, room: Room, entry: Entry, run: "_Run") -> None:
        gate = gate_of(entry)
        audience: Audience = None
        if entry.type == "CHANNEL_DELETE":
            # Those who saw it: afterwards nobody does.
            audience = room.audience(gate)
        if entry.type in SIGHT_TYPES:
            # What follows from it goes ahead of it, and behind all that was before.
            run.end()
            self._advance(room, entry)
        elif entry.type in COUNTED_TYPES:
            room.sight.tally.count(entry)
        if entry.type != "CHANNEL_DELETE":
            audience = room.audience(gate)
        frame = events.frame_of(entry)
        if frame is not None:
            run.add(room, audience, frame)

    def _advance(self, room: Room, entry: Entry) -> None:
        """Let an event change what is seen of a guild, and tell what follows from that."""
        after = room.sight.after(entry)
        if after is not room.sight:
            for clients, news in room.reshape(after, entry.pos):
                self._tell_news(clients, news, entry.pos - 1)
        if entry.reshapes and not entry.is_internal:
            self._move_member(room, entry, entry.reshapes)

    def _move_member(self, room: Room, entry: Entry, user_id: int) -> None:
        """A member has other roles."""
        now, sight = roles_of(entry), room.sight
        room.since = entry.pos
        for client in self._by_user.get(user_id, _NOBODY):
            roles = client.guilds.get(sight.guild_id)
            if roles is None or roles == now:
                continue
            room.remove(client)
            client.guilds[sight.guild_id] = now
            room.add(client)
            news = news_for(sight, sight, user_id, roles, now)
            self._tell_news((client,), news, entry.pos - 1)

    def _tell_news(self, clients: Iterable[Client], news: Sequence[News], pos: int) -> None:
        if not news:
            return
        data = b"".join([events.dispatch(kind, pos, payload) for kind, payload in news])
        for client in clients:
            client.push(data)
            self.deliveries += len(news)

    def whisper(self, whisper: Whisper) -> None:
        """Tell something that is not logged to whoever is live; others never hear of it."""
        frame = events.dispatch(whisper.kind, self.pos, whisper.payload)
        room = self._rooms.get(whisper.guild_id or 0)
        if whisper.users is None:
            if room is not None:
                self._spread(room, room.audience(whisper.parent_id or whisper.channel_id), [frame])
            return
        for user_id in whisper.users:
            for client in self._by_user.get(user_id, _NOBODY):
                if whisper.parent_id and not (room and room.hears(client, whisper.parent_id)):
                    continue
                client.push(frame)
                self.deliveries += 1

    def reach(self, guild_id: int) -> int:
        """How many live sockets hear of what a guild hears of."""
        room = self._rooms.get(guild_id)
        return 0 if room is None else len(room.clients)

    async def tell_guild(self, guild_id: int, events_: Sequence[Event]) -> None:
        """Tell what is not logged to the live sockets of a guild, in one piece to each.

        Not to all at once: what is logged comes between, and need not wait for this.
        """
        payloads = [(event.type, encode(event.payload())) for event in events_]
        room = self._rooms.get(guild_id)
        members = iter(list(_NOBODY if room is None else room.clients))
        while some := list(islice(members, _SLICE)):
            # The position is that of now: it must not go back on any socket.
            data = b"".join([events.dispatch(kind, self.pos, d) for kind, d in payloads])
            for client in some:
                if client.is_live and guild_id in client.guilds:
                    client.push(data)
                    self.deliveries += len(payloads)
            await asyncio.sleep(0)

    def tell_user(self, user_id: int, events_: Sequence[Event]) -> None:
        """Tell what is not logged to the live sockets of a user."""
        clients = self._by_user.get(user_id)
        if clients and events_:
            data = b"".join([self._unlogged(event) for event in events_])
            for client in clients:
                client.push(data)
                self.deliveries += len(events_)

    def tell(self, client: Client, events_: Sequence[Event]) -> None:
        """Tell what is not logged to one live socket."""
        for event in events_:
            client.push(self._unlogged(event))
            self.deliveries += 1

    def _unlogged(self, event: Event) -> bytes:
        return events.dispatch(event.type, self.pos, encode(event.payload()))

    def dirty(self, client: Client) -> None:
        """A socket has something pending: write it at the end of this tick."""
        self._dirty.append(client)
        if not self._flush_planned:
            self._plan_flush()

    def flush(self) -> None:
        """Write what is pending. Sockets with the same list of frames share the joined bytes."""
        began = self._loop.time()
        self._flush_planned = False
        dirty, self._dirty = self._dirty, []
        # By the identities of the pieces; kept with them, so that no identity is used again.
        joined: dict[tuple[int, ...], tuple[bytes, list[bytes]]] = {}
        for client in dirty:
            pending, client.pending = client.pending, None
            transport = client.transport
            if pending is None or transport is None:
                continue
            if type(pending) is list:
                key = tuple(map(id, pending))
                known = joined.get(key)
                if known is None:
                    known = joined[key] = b"".join(pending), pending
                data = known[0]
            else:
                data = cast("bytes", pending)
            try:
                transport.write(data)
            except Exception:  # noqa: BLE001  # one broken transport must not cost the others
                _log.exception("socket_write_failed")
                transport.abort()
            self.writes += 1
        ended = self._loop.time()
        self._rest_until = ended + min(ended - began, _LONGEST_REST_S)

    def _plan_flush(self) -> None:
        """Flush at the end of this tick; under load, not before as long a rest as the last took.

        A write costs the same whatever it carries, so a hub that writes half of the time carries
        more with each. One that has time to spare never waits.
        """
        self._flush_planned = True
        rest_s = self._rest_until - self._loop.time()
        if rest_s > 0:
            self._loop.call_later(rest_s, self.flush)
        else:
            self._loop.call_soon(self.flush)

    def _spread(self, room: Room, audience: Audience, frames: list[bytes]) -> None:
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        dirty = self._dirty
        before = len(dirty)
        for members in (room.clients,) if audience is None else audience:
            self.deliveries += len(members) * len(frames)
            for client in members:
                pending = client.pending
                if pending is None:
                    client.pending = data
                    dirty.append(client)
                elif type(pending) is list:
                    pending.append(data)
                else:
                    client.pending = [cast("bytes", pending), data]
        if len(dirty) > before and not self._flush_planned:
            self._plan_flush()

    def _tell_users(self, entry: Entry, users: Iterable[int]) -> None:
        if entry.is_internal:
            if ended := ended_sessions(entry):
                self._end_all(ended)
            if taken := taken_session(entry):
                self._take(taken)
            return
        room = self._rooms.get(entry.guild_id or 0)
        is_join = entry.guild_id is not None and entry.type == JOINED
        frame = events.frame_of(entry)
        for user_id in users:
            for client in list(self._by_user.get(user_id, _NOBODY)):
                if is_join and room is None:
                    self._cold(client, entry.pos - 1)
                    continue
                if entry.parent_id and not (room and room.hears(client, entry.parent_id)):
                    continue
                if frame is not None:
                    client.push(frame)
                    self.deliveries += 1
                if entry.guild_id is not None:
                    self._move(client, entry.type, entry.guild_id)

    def _move(self, client: Client, kind: str, guild_id: int) -> None:
        if kind == JOINED:
            room = self._rooms[guild_id]
            client.guilds[guild_id] = ()
            self._idle.pop(guild_id, None)
            room.add(client)
        elif kind == LEFT and guild_id in client.guilds:
            self._leave(guild_id, client)
            del client.guilds[guild_id]


def _keep(*_what: object) -> None:
    return
