"""Bugs to be built into a server, by name: the checker must find each of them.

Each replaces one thing inside the server before it starts. None is reachable without this folder.
Burdens are none: a server that bears one keeps its promise, only with less luck.
"""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from internal import app
from internal.auth.session.model import SessionEnded
from internal.channel import model as channel_model
from internal.channel import repository as channels
from internal.chat.message import repository as messages
from internal.chat.message import service as message_service
from internal.chat.message.model import MessageDeleted
from internal.chat.ws import hub, view
from internal.chat.ws.client import Client
from internal.chat.ws.hub import Audience, Hub, Room
from internal.chat.ws.service import GatewayService
from internal.chat.ws.sight import News
from internal.chat.ws.view import Span, View
from internal.db import cluster
from internal.db.postgres import Conn, Database
from internal.eventlog import bus, outbox, repository
from internal.eventlog.bus import RedisBus
from internal.eventlog.model import Entry
from internal.eventlog.ring import Ring
from internal.eventlog.tailer import Tailer
from internal.events import Event
from internal.guild import service as guild_service
from internal.guild.model import MemberLeft
from internal.permission.model import Permission
from internal.utils.snowflake import Snowflake

BUGS: Final[dict[str, Callable[[], None]]] = {}
BURDENS: Final[dict[str, Callable[[], None]]] = {}

# Every so many entries or batches a bug strikes.
_SKIP: Final = 1000
_FIRST: Final = 150
# The position behind which nothing is told any more.
_DEAF: Final = 120
_SELDOM: Final = 40
# Large enough for no message of a run, and small enough for bigint.
_OFFSET: Final = 1
# How long what is committed waits for its position on a node that bears that.
_LAG_S: Final = 0.3


def _bug(build: Callable[[], None]) -> Callable[[], None]:
    BUGS[build.__name__] = build
    return build


def _burden(build: Callable[[], None]) -> Callable[[], None]:
    BURDENS[build.__name__] = build
    return build


def _replace(owner: object, name: str, part: object) -> None:
    """Put another part in. One that is not there was renamed, and the bug would be none."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} any more")
    setattr(owner, name, part)


@_bug
def naive_cursor() -> None:
    """The id of the insert is the position: what is committed late lies behind the cursor."""
    write = outbox.write
    numbers = itertools.count()

    async def slow_write(conn: Conn, events: Sequence[Event]) -> None:
        await write(conn, events)
        # A commit that takes its time, as on a busy disk.
        if next(numbers) % _SELDOM == 0:
            await conn.execute("SELECT pg_sleep(0.05)")

    async def drain(conn: Conn, limit: int) -> list[Entry]:
        rows = await conn.fetch(
            """
            WITH fresh AS (
                SELECT o.*
                  FROM event_outbox AS o
                 CROSS JOIN log_head AS h
                 WHERE o.id + $2 > h.pos
                 ORDER BY o.id
                 LIMIT $1
            ), gone AS (
                DELETE FROM event_outbox AS o USING fresh WHERE o.id = fresh.id
            ), moved AS (
                INSERT INTO event_log (
                       pos, outbox_id, type, users, guild_id, channel_id,
                       subject, retracts, retracts_channels, revises, payload, created_at,
                       parent_id, reshapes
                )
                SELECT f.id + $2, f.id, f.type, f.users, f.guild_id, f.channel_id,
                       f.subject, f.retracts, f.retracts_channels, f.revises, f.payload,
                       f.created_at, f.parent_id, f.reshapes
                  FROM fresh AS f
                RETURNING *
            ), head AS (
                UPDATE log_head
                   SET pos = m.pos
                  FROM (SELECT max(pos) AS pos FROM moved) AS m
                 WHERE m.pos IS NOT NULL
            )
            SELECT * FROM moved ORDER BY pos
            """,
            limit,
            _OFFSET,
        )
        return [Entry(row) for row in rows]

    outbox.write = slow_write
    _replace(repository, "drain", drain)


@_bug
def asynchronous_commit() -> None:
    """What was acknowledged is on disk a moment later, or never."""
    app._SERVER_SETTINGS["synchronous_commit"] = "off"
    # The moment, made long enough for a test.
    cluster.SETTINGS["wal_writer_delay"] = "2s"


@_bug
def skipping_tailer() -> None:
    """One entry in a thousand is not handed on."""
    take = Tailer._take

    def take_most(self: Tailer, entries: Sequence[Entry]) -> None:
        kept = [entry for entry in entries if entry.pos % _SKIP != _FIRST]
        if kept:
            take(self, kept)
        self.pos = entries[-1].pos

    _replace(Tailer, "_take", take_most)


@_bug
def unfiltered_replay() -> None:
    """A resume replays all that was logged, whoever asks."""
    concerns = View._concerns

    def concerns_all(self: View, entry: Entry) -> bool:
        return self._span is not None or concerns(self, entry)

    _replace(View, "_concerns", concerns_all)
    _replace(Span, "tells", lambda _self, entry: not entry.is_internal)


@_bug
def forgetful_replay() -> None:
    """A resume asks who is a member now, and not who was one then."""

    def tells(self: Span, entry: Entry) -> bool:
        return entry.guild_id in self._guilds if entry.users is None else not entry.is_internal

    _replace(Span, "tells", tells)


@_bug
def forgotten_nonce() -> None:
    """The retry of a send is a second send."""
    _replace(message_service, "_key", lambda *_wish, **_rest: None)


@_bug
def unscrubbed_deletion() -> None:
    """What was deleted stays in the log, and in memory."""
    _replace(MessageDeleted, "retracts", lambda _self: ())


@_bug
def unscrubbed_memory() -> None:
    """What was deleted is blanked in the log, but not in memory, which resumes are served from."""
    _replace(Ring, "_take_back", lambda _self, _entry: None)


@_bug
def double_delivery() -> None:
    """Now and then live readers are told a thing twice."""
    publish = Hub.publish
    numbers = itertools.count(1)

    def publish_twice(self: Hub, entries: Sequence[Entry]) -> None:
        publish(self, entries)
        if next(numbers) % _SELDOM == 0:
            publish(self, entries)

    _replace(Hub, "publish", publish_twice)


@_bug
def swapped_delivery() -> None:
    """What comes together is told in the wrong order, to all alike."""
    publish = Hub.publish

    def publish_backwards(self: Hub, entries: Sequence[Entry]) -> None:
        publish(self, entries[::-1])
        self.pos = entries[-1].pos

    _replace(Hub, "publish", publish_backwards)


@_bug
def renumbered_delivery() -> None:
    """Now and then somebody is told another position than all others."""
    push = Client.push
    numbers = itertools.count(1)

    def push_renumbered(self: Client, data: bytes) -> None:
        if b'"t":"MESSAGE_CREATE"' in data and next(numbers) % _SELDOM == 0:
            # As long as before: a frame that was cut would be another bug.
            data = re.sub(rb'"s":(\d*)\d', rb'"s":\g<1>5', data, count=1)
        push(self, data)

    _replace(Client, "push", push_renumbered)
    _replace(Hub, "_spread", _spread_singly)


def _spread_singly(_self: Hub, room: Room, audience: Audience, frames: Sequence[bytes]) -> None:
    for members in (room.clients,) if audience is None else audience:
        for client in members:
            for frame in frames:
                client.push(frame)


@_bug
def late_events() -> None:
    """Now and then the events of a transaction are written a while after it was acknowledged."""
    write = outbox.write
    begin = Database.__init__
    numbers = itertools.count(1)
    databases: list[Database] = []
    writing: set[asyncio.Task[None]] = set()

    def remember(self: Database, *rest: Any) -> None:
        begin(self, *rest)
        databases.append(self)

    async def write_later(events: Sequence[Event]) -> None:
        await asyncio.sleep(0.3)
        async with databases[0].read() as conn:
            await write(conn, events)

    async def write_sometime(conn: Conn, events: Sequence[Event]) -> None:
        if next(numbers) % _SELDOM:
            await write(conn, events)
            return
        task = asyncio.create_task(write_later(list(events)))
        writing.add(task)
        task.add_done_callback(writing.discard)

    _replace(Database, "__init__", remember)
    _replace(outbox, "write", write_sometime)


@_bug
def early_delivery() -> None:
    """Things are told before it is certain that they happened."""
    insert_all = messages.insert_all
    numbers = itertools.count(1)

    async def insert_and_forget(conn: Conn, messages: Sequence[Any]) -> None:
        # Told, acknowledged, and not stored.
        if next(numbers) % _SELDOM != 0:
            await insert_all(conn, messages)

    _replace(messages, "insert_all", insert_and_forget)


@_bug
def answers_500() -> None:
    """Now and then a send fails by an exception that nobody expects."""
    insert_all = messages.insert_all
    numbers = itertools.count(1)

    async def insert_or_break(conn: Conn, messages: Sequence[Any]) -> None:
        if next(numbers) % _SELDOM == 0:
            raise KeyError("nobody expects this")
        await insert_all(conn, messages)

    _replace(messages, "insert_all", insert_or_break)


@_bug
def silent_departure() -> None:
    """Nobody is told who has left."""
    audience = MemberLeft.audience
    nobody = (Snowflake(0),)

    def to_nobody(self: MemberLeft) -> Any:
        found = audience(self)
        return type(found)(users=nobody, guild_id=found.guild_id)

    _replace(MemberLeft, "audience", to_nobody)


@_bug
def repeatable_drain() -> None:
    """After a while drains run in REPEATABLE READ, which `drain()` refuses: the outbox stays."""
    drain = repository.drain

    async def drain_repeatably(conn: Conn, limit: int) -> list[Entry]:
        if (await repository.head(conn)).pos < _DEAF:
            return await drain(conn, limit)
        async with conn.transaction(isolation="repeatable_read"):
            return await drain(conn, limit)

    _replace(repository, "drain", drain_repeatably)


@_bug
def revocation_in_memory() -> None:
    """Only the node that ended a login session knows of it."""
    write = outbox.write
    ended_sessions = view.ended_sessions
    own: set[int] = set()

    async def write_and_remember(conn: Conn, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, SessionEnded):
                own.update(map(int, event.session_ids))
        await write(conn, events)

    def ended_here(entry: Entry) -> list[int]:
        return [login for login in ended_sessions(entry) if login in own]

    _replace(outbox, "write", write_and_remember)
    for module in (view, hub, app):
        _replace(module, "ended_sessions", ended_here)


@_bug
def undurable_bus() -> None:
    """Now and then a node tells others of what it never wrote, at the position that comes next."""
    drained = RedisBus.drained
    numbers = itertools.count(1)

    def drained_and_more(self: RedisBus, epoch: int, entries: Sequence[Entry]) -> None:
        drained(self, epoch, entries)
        said = [entry for entry in entries if entry.type == "MESSAGE_CREATE"]
        if said and next(numbers) % _SELDOM == 0:
            row = msgspec.structs.replace(bus._row(said[-1]), pos=entries[-1].pos + 1)
            self._drained.append(bus.Drained(epoch, row.pos, [row]))

    _replace(RedisBus, "drained", drained_and_more)


@_bug
def immortal_zombies() -> None:
    """A session that goes on at another node leaves its socket where it was."""
    _replace(GatewayService, "taken", lambda *_told: None)


@_bug
def abrupt_stop() -> None:
    """A node that stops cuts everybody off without a word."""

    async def cut(self: GatewayService) -> None:
        self.refuse_newcomers()
        for client in list(self.clients):
            client.abort()

    _replace(GatewayService, "drain", cut)


@_bug
def deaf_after_a_while() -> None:
    """Live readers are told nothing any more, and not that anything is wrong."""
    publish = Hub.publish

    def publish_at_first(self: Hub, entries: Sequence[Entry]) -> None:
        if entries[-1].pos < _DEAF:
            publish(self, entries)
        else:
            self.pos = entries[-1].pos

    _replace(Hub, "publish", publish_at_first)


@_bug
def blind_to_roles() -> None:
    """Who is told what is decided by the roles that people had when they came."""
    _replace(Hub, "_move_member", lambda *_change: None)


@_bug
def replay_without_sight() -> None:
    """A resume replays what happened in a guild, whether its channels may be seen or not."""
    _replace(Span, "_sees", lambda _self, _entry: True)


@_bug
def no_reload() -> None:
    """A resume across a change of what somebody sees is replayed as if nothing had changed."""
    begin = View.__init__

    def begin_at_once(self: View, *rest: Any, **more: Any) -> None:
        begin(self, *rest, **{**more, "reload": ()})

    _replace(View, "__init__", begin_at_once)


@_bug
def silent_sight() -> None:
    """Who comes to see a channel, or sees it no more, hears nothing of that."""
    _replace(Hub, "_tell_news", lambda *_news: None)


@_bug
def news_in_place() -> None:
    """What follows from an event has the event's own position: a cut between would be a hole."""
    tell_news = Hub._tell_news

    def tell_in_place(self: Hub, clients: Iterable[Client], news: Sequence[News], pos: int) -> None:
        tell_news(self, clients, news, pos + 1)

    _replace(Hub, "_tell_news", tell_in_place)


@_bug
def open_doors() -> None:
    """READY shows every channel of a guild to each of its members."""
    _replace(guild_service, "_sees", lambda _standing, _channel: True)


@_bug
def unasked_send() -> None:
    """Whoever is in a guild may send to any of its channels."""
    decide = channel_model.decide

    def decide_kindly(*rest: Any, **more: Any) -> int:
        return decide(*rest, **more) | int(Permission.VIEW_CHANNEL | Permission.SEND_MESSAGES)

    _replace(channels, "decide", decide_kindly)


@_burden
def lagging_log() -> None:
    """What is committed gets its position late: there is always something on its way to the log."""
    drain = repository.drain

    async def drain_late(conn: Conn, limit: int) -> list[Entry]:
        await asyncio.sleep(_LAG_S)
        return await drain(conn, limit)

    _replace(repository, "drain", drain_late)
