"""The hub: which live sockets hear of what, and the writing to all of them at once.

It holds no rules. Entries of the log come in, in order; each is encoded once, and what one socket
gets within a loop tick leaves in one write. A socket that does not keep up leaves the index.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, cast

import structlog

from internal.chat.ws import events
from internal.chat.ws.client import Client
from internal.chat.ws.model import TakenSession
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
        self._by_guild: dict[int, set[Client]] = {}
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

    @property
    def users(self) -> int:
        """How many people have a live socket here."""
        return len(self._by_user)

    def attach(self, client: Client) -> None:
        """Tell a socket everything behind `pos` from now on. It must have been told up to it."""
        client.is_live = True
        self._by_user.setdefault(client.user_id, set()).add(client)
        for guild_id in client.guilds:
            self._by_guild.setdefault(guild_id, set()).add(client)

    def detach(self, client: Client) -> None:
        """Stop telling. What is pending is still sent; `client.guilds` stay as they are."""
        if not client.is_live:
            return
        client.is_live = False
        _drop(self._by_user, client.user_id, client)
        for guild_id in client.guilds:
            _drop(self._by_guild, guild_id, client)

    def publish(self, entries: Sequence[Entry]) -> None:
        """Tell the audience of each entry, in order."""
        run: list[bytes] = []
        run_guild: int | None = None
        for entry in entries:
            self.pos = entry.pos
            if entry.users is None:
                if entry.guild_id != run_guild and run:
                    self._spread(run_guild, run)
                    run = []
                run_guild = entry.guild_id
                frame = events.frame_of(entry)
                if frame is not None:
                    run.append(frame)
                continue
            if run:
                self._spread(run_guild, run)
                run = []
            self._tell_users(entry, entry.users)
        if run:
            self._spread(run_guild, run)

    def whisper(self, whisper: Whisper) -> None:
        """Tell something that is not logged to whoever is live; others never hear of it."""
        frame = events.dispatch(whisper.kind, self.pos, whisper.payload)
        if whisper.users is None:
            self._spread(whisper.guild_id, [frame])
            return
        for user_id in whisper.users:
            for client in self._by_user.get(user_id, _NOBODY):
                client.push(frame)
                self.deliveries += 1

    def reach(self, guild_id: int) -> int:
        """How many live sockets hear of what a guild hears of."""
        return len(self._by_guild.get(guild_id, _NOBODY))

    async def tell_guild(self, guild_id: int, events_: Sequence[Event]) -> None:
        """Tell what is not logged to the live sockets of a guild, in one piece to each.

        Not to all at once: what is logged comes between, and need not wait for this.
        """
        payloads = [(event.type, encode(event.payload())) for event in events_]
        members = iter(list(self._by_guild.get(guild_id, _NOBODY)))
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

    def _spread(self, guild_id: int | None, frames: list[bytes]) -> None:
        members = self._by_guild.get(guild_id or 0)
        if not members:
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        self.deliveries += len(members) * len(frames)
        dirty = self._dirty
        before = len(dirty)
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
        frame = events.frame_of(entry)
        for user_id in users:
            for client in self._by_user.get(user_id, _NOBODY):
                if frame is not None:
                    client.push(frame)
                    self.deliveries += 1
                if entry.guild_id is not None:
                    self._move(client, entry.type, entry.guild_id)

    def _move(self, client: Client, kind: str, guild_id: int) -> None:
        if kind == JOINED:
            client.guilds.add(guild_id)
            self._by_guild.setdefault(guild_id, set()).add(client)
        elif kind == LEFT:
            client.guilds.discard(guild_id)
            _drop(self._by_guild, guild_id, client)


def _keep(_what: object) -> None:
    return


def _drop(index: dict[int, set[Client]], key: int, client: Client) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(client)
        if not members:
            del index[key]
