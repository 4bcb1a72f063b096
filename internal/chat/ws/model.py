"""What the gateway tells a session when it opens."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import msgspec
from typing_extensions import override

from internal.db.postgres import Conn
from internal.events import Audience, Event
from internal.guild.model import GuildState
from internal.user.model import OwnUser
from internal.utils.actor import Actor
from internal.utils.snowflake import Snowflake


class UnavailableGuild(msgspec.Struct, frozen=True):
    """A guild that READY announces and a GUILD_CREATE then tells."""

    id: Snowflake
    unavailable: Literal[True] = True


class Application(msgspec.Struct, frozen=True):
    """Who the session belongs to, in the words of client libraries."""

    id: Snowflake
    flags: int = 0


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of READY."""

    v: int = 10
    user: OwnUser
    guilds: list[UnavailableGuild]
    private_channels: Sequence[object]
    session_id: str
    resume_gateway_url: str
    # Libraries end without it. It is a bot's; for a person it is the person.
    application: Application
    relationships: list[object] = []
    presences: list[object] = []


class SessionTaken(Event, frozen=True, kw_only=True):
    """A gateway session goes on at another socket: whatever node has an older one closes it."""

    type: ClassVar[str] = "session_taken"
    user_id: Snowflake
    key: int
    take: int

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user_id,))

    @override
    def payload(self) -> "TakenSession":
        return TakenSession(key=self.key, take=self.take)


class TakenSession(msgspec.Struct, frozen=True):
    """The payload of SessionTaken."""

    key: int
    take: int


class SentNonce(msgspec.Struct):
    """The nonce of a send, to be given back with its outcome whatever that is."""

    nonce: Annotated[str, msgspec.Meta(max_length=128)] | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything a session begins with, as of one moment."""

    user: OwnUser
    # The payloads of GUILD_CREATE, each with the guild's id.
    guilds: Sequence[tuple[Snowflake, GuildState]]
    private_channels: Sequence[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What the gateway asks of the features; the composition root fills it."""

    # Who a token says it is; the snapshot tells whether that session lives.
    recognise: Callable[[str], Actor]
    # Counts an IDENTIFY; raises SlowDown when an account makes too many.
    admit: Callable[[Actor], Awaitable[None]]
    # Whether the login session is still there, in this snapshot.
    is_alive: Callable[[Conn, Actor], Awaitable[bool]]
    state_of: Callable[[Conn, Snowflake], Awaitable[State]]
    memberships: Callable[[Conn, Snowflake], Awaitable[set[int]]]
    # Logs that a session of the user goes on at another socket, by its key and the take's name.
    # False when there is no other node that could have the older socket.
    take: Callable[[Snowflake, int, int], Awaitable[bool]]
    # Takes the JSON of a send; gives the message back, or raises AppError.
    send: Callable[[Actor, bytes], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of the gateway."""

    heartbeat_s: float
    replay: int
    retention_s: float
    slow_reader_bytes: int
    sockets: int
    # Sockets of one address that have not said who they are.
    strangers_per_address: int
    drain_window_s: float
    identify_s: float = 10.0
    # READYs that are built at once; the others wait, so many and so long.
    openings: int = 4
    openings_waiting: int = 2_000
    opening_wait_s: float = 10.0
    # Replays that are prepared at once. Whoever comes back waits, however many they are.
    replays: int = 8
    replay_wait_s: float = 30.0
    # A slow reader that reads nothing for this long is closed, and one that is not level with the
    # others after `catch_up_s`.
    lag_s: float = 60.0
    catch_up_s: float = 600.0
    message_bytes: int = 64 * 1024
    # Sends of one socket that wait; then it is not read any more. Beyond the rate it is closed.
    sends_waiting: int = 64
    send_burst: float = 200.0
    sends_per_s: float = 20.0
    cursor_s: float = field(default=7 * 86400.0)
