"""The bus between nodes: entries of the log as they are drained, and what is never logged.

It makes nodes quick, never right: each follows the log in PostgreSQL all the same, so that
whatever is lost here costs a moment's delay, or an ephemeral event.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol, TypeAlias
from uuid import uuid4

import msgspec
import structlog
from redis.exceptions import RedisError

from internal.db.redis import Client, Redis, RedisAway
from internal.eventlog.model import Entry
from internal.events import Event
from internal.utils.json import encode

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# More bytes than this wait for no publication: other nodes read them from the log.
_MOST_BYTES: Final = 1 << 20
_MOST_WHISPERS: Final = 1_000
# A listener that hears nothing for so long, not even the answer to its pings, is on a dead
# connection.
_SILENCE_S: Final = 2.0
_PING_S: Final = 0.5
_RETRY_S: Final = 0.25


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the log on its way to another node."""

    pos: int
    outbox_id: int
    type: str
    users: list[int] | None
    guild_id: int | None
    channel_id: int | None
    subject: int | None
    retracts: list[int] | None
    retracts_channels: list[int] | None
    revises: int | None
    payload: bytes | None
    created_at: datetime
    parent_id: int | None = None
    reshapes: int | None = None

    def __getitem__(self, column: str) -> Any:
        return getattr(self, column)


class Drained(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """The log has grown up to `head`. Without rows it is a mere hint to look."""

    epoch: int
    head: int
    rows: list[Row] = []


class Whisper(msgspec.Struct, frozen=True, array_like=True, tag="w"):
    """An event that is not logged, for whoever of its audience is live now."""

    kind: str
    users: list[int] | None
    guild_id: int | None
    channel_id: int | None
    payload: bytes
    parent_id: int | None = None


Message: TypeAlias = Drained | Whisper


class Packet(msgspec.Struct, frozen=True, array_like=True):
    """What one node publishes at once."""

    node: str
    messages: list[Message]


class Ears(msgspec.Struct, frozen=True, kw_only=True):
    """What a node does with what it hears. None of these may block or raise."""

    drained: Callable[[Drained], None]
    whisper: Callable[[Whisper], None]


class Bus(Protocol):
    """What nodes tell each other."""

    node: str

    def connect(self, ears: Ears) -> None:
        """Hand on what is heard to `ears` from now on."""
        ...

    def drained(self, epoch: int, entries: Sequence[Entry]) -> None:
        """Tell other nodes of entries that this node drained. They must be committed."""
        ...

    def whisper(self, event: Event) -> None:
        """Tell an event to whoever of its audience is live, on this node and on others."""
        ...

    async def run(self) -> None:
        """Do the bus's work until cancelled."""
        ...


def whispered(event: Event) -> Whisper:
    audience = event.audience()
    return Whisper(
        event.type,
        None if audience.users is None else list(audience.users),
        audience.guild_id,
        audience.channel_id,
        encode(event.payload()),
        audience.parent_id,
    )


def entries_of(rows: Sequence[Row]) -> list[Entry]:
    return [Entry(row) for row in rows]


class LocalBus:
    """The bus of one node, who has nobody else to tell."""

    def __init__(self) -> None:
        self.node = uuid4().hex
        self._ears: Ears | None = None

    def connect(self, ears: Ears) -> None:
        self._ears = ears

    def drained(self, epoch: int, entries: Sequence[Entry]) -> None:
        """Nobody else follows the log."""

    def whisper(self, event: Event) -> None:
        if self._ears is not None:
            self._ears.whisper(whispered(event))

    async def run(self) -> None:
        await asyncio.Event().wait()


# Ids are a subclass of int, which msgspec leaves to us.
_encode = msgspec.msgpack.Encoder(enc_hook=int).encode
_decode = msgspec.msgpack.Decoder(Packet).decode


class RedisBus:
    """The bus by Redis's PUBLISH: at most once, to whoever listens just then."""

    def __init__(self, redis: Redis, *, count_dropped: Callable[[str], None]) -> None:
        self.node = uuid4().hex
        self._redis = redis
        self._channel = redis.key("bus")
        self._count_dropped = count_dropped
        self._ears: Ears | None = None
        self._drained: list[Drained] = []
        self._drained_bytes = 0
        self._whispers: deque[Whisper] = deque()
        self._news = asyncio.Event()

    def connect(self, ears: Ears) -> None:
        self._ears = ears

    def drained(self, epoch: int, entries: Sequence[Entry]) -> None:
        size = sum(entry.size for entry in entries)
        head = entries[-1].pos
        if self._drained_bytes + size > _MOST_BYTES:
            # Others read it from the log: they only have to know that there is something.
            self._drained = [Drained(epoch, head)]
        else:
            self._drained.append(Drained(epoch, head, [_row(entry) for entry in entries]))
        self._drained_bytes += size
        self._news.set()

    def whisper(self, event: Event) -> None:
        whisper = whispered(event)
        if self._ears is not None:
            self._ears.whisper(whisper)
        if len(self._whispers) >= _MOST_WHISPERS:
            self._whispers.popleft()
            self._count_dropped("whisper")
        self._whispers.append(whisper)
        self._news.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            group.create_task(self._listen())

    # Telling.

    async def _publish(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            packet = _encode(Packet(self.node, self._take_all()))
            try:
                await self._redis.call(partial(_publish, channel=self._channel, packet=packet))
            except RedisAway:
                self._count_dropped("packet")

    def _take_all(self) -> list[Message]:
        messages: list[Message] = [*self._drained, *self._whispers]
        self._drained, self._drained_bytes = [], 0
        self._whispers.clear()
        return messages

    # Listening.

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.listener() as pubsub:
                    await self._hear(pubsub)
            except (RedisError, OSError, TimeoutError) as fault:
                _log.warning("bus_deaf", reason=type(fault).__name__)
            await asyncio.sleep(_RETRY_S)

    async def _hear(self, pubsub: Any) -> None:
        """Hear until the connection is lost or dead."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_SILENCE_S):
            await pubsub.subscribe(self._channel)
        _log.info("bus_listens")
        heard_at = loop.time()
        ping_at = 0.0
        while loop.time() - heard_at < _SILENCE_S:
            # Each of these may have to connect again, and that has no end by itself.
            async with asyncio.timeout(_SILENCE_S):
                if loop.time() >= ping_at:
                    ping_at = loop.time() + _PING_S
                    await pubsub.ping()
                message = await pubsub.get_message(timeout=_PING_S)
            if message is None:
                continue
            heard_at = loop.time()
            if message["type"] == "message":
                self._hand_on(message["data"])
        raise TimeoutError

    def _hand_on(self, data: bytes) -> None:
        if self._ears is None:
            return
        try:
            packet = _decode(data)
        except msgspec.MsgspecError:
            # Of another release, or of somebody else: the log tells what matters.
            self._count_dropped("unreadable")
            return
        if packet.node == self.node:
            return
        for message in packet.messages:
            match message:
                case Drained():
                    self._ears.drained(message)
                case Whisper():
                    self._ears.whisper(message)


async def _publish(client: Client, *, channel: str, packet: bytes) -> None:
    await client.publish(channel, packet)


def _row(entry: Entry) -> Row:
    return Row(
        entry.pos,
        entry.outbox_id,
        entry.type,
        None if entry.users is None else list(entry.users),
        entry.guild_id,
        entry.channel_id,
        entry.subject,
        entry.retracts,
        entry.retracts_channels,
        entry.revises,
        entry.payload,
        entry.created_at,
        entry.parent_id,
        entry.reshapes,
    )
