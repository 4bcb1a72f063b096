"""What the gateway tells a session when it opens."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from typing_extensions import override

from internal.db.postgres import Conn
from internal.events import Audience, Event
from internal.guild.model import GuildSources, GuildState, Member, Role
from internal.presence.model import Presence
from internal.user.model import OwnUser
from internal.utils.actor import Actor
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL


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


class GuildTold(Event, frozen=True, kw_only=True):
    """A session is about to be told a guild as it is now, ahead of what it had missed there.

    Should it break off in the midst of that, it resumes from a position at which it knows more of
    the guild than was so. This reshapes nothing, but says so, as the remedy is the same: who
    resumes from before it is told the guild afresh.
    """

    type: ClassVar[str] = "guild_told"
    user_id: Snowflake
    guild_id: Snowflake

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user_id,), guild_id=self.guild_id)

    @override
    def reshapes(self) -> Snowflake | None:
        return self.user_id


class TakenSession(msgspec.Struct, frozen=True):
    """The payload of SessionTaken."""

    key: int
    take: int


class RequestMembers(msgspec.Struct, frozen=True, kw_only=True):
    """The body of opcode 8: members by the beginning of a name, by their ids, or all of them."""

    guild_id: Snowflake
    query: Annotated[str, msgspec.Meta(max_length=100, pattern=NO_NUL)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    presences: bool = False
    # One, or a list of them.
    user_ids: Annotated[list[str | int], msgspec.Meta(max_length=100)] | str | int | None = None
    nonce: str | None = None

    def __post_init__(self) -> None:
        if self.query is None and self.user_ids is None:
            raise ValueError("either query or user_ids is needed")
        # Refused here rather than where they are used.
        _ = self.ids

    @property
    def ids(self) -> list[Snowflake]:
        named = self.user_ids
        listed = named if isinstance(named, list) else [] if named is None else [named]
        return [
            Snowflake.parse(one) if isinstance(one, str) else Snowflake.checked(one)
            for one in listed
        ]

    @property
    def is_for_all(self) -> bool:
        return self.user_ids is None and not self.query and not self.limit


class MembersChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of GUILD_MEMBERS_CHUNK."""

    guild_id: Snowflake
    members: Sequence[object]
    chunk_index: int
    chunk_count: int
    not_found: Sequence[Snowflake] | msgspec.UnsetType = msgspec.UNSET
    presences: Sequence[Presence] | msgspec.UnsetType = msgspec.UNSET
    nonce: str | msgspec.UnsetType = msgspec.UNSET


class RateLimitOf(msgspec.Struct, frozen=True, kw_only=True):
    """Which request it was that came too soon."""

    guild_id: Snowflake
    nonce: str | msgspec.UnsetType = msgspec.UNSET


class RequestLimited(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of RATE_LIMITED: a request that is not answered."""

    opcode: int
    # Seconds.
    retry_after: float
    meta: RateLimitOf


# From one place of a list to another, both included.
_Place = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
ListRange: TypeAlias = tuple[_Place, _Place]
MOST_RANGES: Final = 5
LONGEST_RANGE: Final = 100


class LookAtMembers(msgspec.Struct, frozen=True, kw_only=True):
    """The body of opcode 102. Without ranges one looks no more."""

    guild_id: Snowflake
    channel_id: Snowflake
    ranges: Annotated[list[ListRange], msgspec.Meta(max_length=MOST_RANGES)] = []

    def __post_init__(self) -> None:
        if any(not 0 <= end - start < LONGEST_RANGE for start, end in self.ranges):
            raise ValueError("a range is of 1 to 100 places")


class ListedMember(Member, frozen=True, kw_only=True):
    """A member in a list, with what it shows now."""

    presence: Presence


class ListGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A heading of a list: a role that is shown apart, `online` or `offline`."""

    id: str
    count: int


class ListOfMembers(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of GUILD_MEMBER_LIST_UPDATE, but for `ops`."""

    guild_id: Snowflake
    channel_id: Snowflake
    member_count: int
    online_count: int
    groups: Sequence[ListGroup]


class ListItem(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at a place of a list: a heading or a member."""

    group: ListGroup | msgspec.UnsetType = msgspec.UNSET
    member: ListedMember | msgspec.UnsetType = msgspec.UNSET


class ListOp(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a list as it is now."""

    op: Literal["SYNC"] = "SYNC"
    range: ListRange
    items: Sequence[ListItem]


class MemberListUpdate(ListOfMembers, frozen=True, kw_only=True):
    """The payload of GUILD_MEMBER_LIST_UPDATE."""

    ops: Sequence[ListOp]


class SentNonce(msgspec.Struct):
    """The nonce of a send, to be given back with its outcome whatever that is."""

    nonce: Annotated[str, msgspec.Meta(max_length=128)] | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything a session begins with, as of one moment."""

    user: OwnUser
    # The payloads of GUILD_CREATE, each with what decides who sees what there.
    guilds: Sequence[tuple[GuildState, GuildSources]]
    private_channels: Sequence[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDoors:
    """What the gateway asks of guilds about their members. It has checked who may know."""

    # Those of some accounts that are members.
    among: Callable[[Conn, Snowflake, Sequence[Snowflake]], Awaitable[list[Member]]]
    # So many whose names begin so.
    starting_with: Callable[[Conn, Snowflake, str, int], Awaitable[list[Member]]]
    # So many in the order of their ids, from behind the first id up to the second.
    between: Callable[[Conn, Snowflake, Snowflake, Snowflake, int], Awaitable[list[Member]]]
    # The ids at which pieces of so many end, but for the last piece.
    bounds: Callable[[Conn, Snowflake, int], Awaitable[list[Snowflake]]]
    # How many there are, and the roles of the guild.
    rolls: Callable[[Conn, Snowflake], Awaitable[tuple[int, list[Role]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What the gateway asks of the features; the composition root fills it."""

    # Who a token says it is; the snapshot tells whether that session lives.
    recognise: Callable[[str], Actor]
    # Counts an IDENTIFY; raises SlowDown when an account makes too many.
    admit: Callable[[Actor], Awaitable[None]]
    # Whether the login session is still there, in this snapshot.
    is_alive: Callable[[Conn, Actor], Awaitable[bool]]
    # The number is how many members a guild may have to be told with them.
    state_of: Callable[[Conn, Snowflake, int], Awaitable[State]]
    # The guilds that somebody is in, with the roles there.
    memberships: Callable[[Conn, Snowflake], Awaitable[dict[int, tuple[int, ...]]]]
    # Some of somebody's guilds as GUILD_CREATE tells them, and what decides who sees what there.
    guilds_of: Callable[
        [Conn, Snowflake, Sequence[Snowflake]], Awaitable[list[tuple[GuildState, GuildSources]]]
    ]
    sources_of: Callable[[Conn, Sequence[Snowflake]], Awaitable[dict[Snowflake, GuildSources]]]
    # Logs that a session of the user goes on at another socket, by its key and the take's name.
    # False when there is no other node that could have the older socket.
    take: Callable[[Snowflake, int, int], Awaitable[bool]]
    # Takes the JSON of a send; gives the message back, or raises AppError.
    send: Callable[[Actor, bytes], Awaitable[object]]
    members: MemberDoors


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
    # Multiplies how often one socket may ask for members.
    requests_scale: float = 1.0
    cursor_s: float = field(default=7 * 86400.0)
