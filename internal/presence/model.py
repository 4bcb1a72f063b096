"""Presence: who is there, on what, and doing what. Told to who is live, kept nowhere for good."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

Status: TypeAlias = Literal["online", "idle", "dnd", "invisible", "offline"]
Visible: TypeAlias = Literal["online", "idle", "dnd"]
Device: TypeAlias = Literal["desktop", "mobile", "web"]

MAX_ACTIVITIES: Final = 5
# Of several sessions the one that stands first here is shown. The others show nothing.
_RANKS: Final[Mapping[Status, int]] = {"dnd": 0, "online": 1, "idle": 2}

_MOBILE: Final = re.compile(r"\b(android|ios|mobile)\b", re.IGNORECASE)
_DESKTOP: Final = re.compile(r"\b(desktop|discord client)\b", re.IGNORECASE)

_MAX_KEPT_BYTES: Final = 512
_encode = msgspec.msgpack.Encoder().encode

_Words = Annotated[str, msgspec.Meta(max_length=128, pattern=NO_NUL)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


# What clients say.


class ActivityTimes(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an activity began and will end, in Unix milliseconds."""

    start: _Time | msgspec.UnsetType = msgspec.UNSET
    end: _Time | msgspec.UnsetType = msgspec.UNSET


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody plays, listens to, watches. More than this is not kept."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=NO_NUL)]
    type: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0
    # When the server heard of it, in Unix milliseconds; what clients send here is replaced.
    created_at: int = 0
    url: Annotated[str, msgspec.Meta(max_length=512, pattern=NO_NUL)] | None = None
    state: _Words | None = None
    details: _Words | None = None
    timestamps: ActivityTimes | msgspec.UnsetType = msgspec.UNSET


class PresenceUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of itself: the body of opcode 3, and `presence` in IDENTIFY."""

    status: Status | None = None
    activities: Annotated[list[Activity], msgspec.Meta(max_length=MAX_ACTIVITIES)] | None = None
    # Some libraries name their first activity so.
    game: Activity | None = None
    # Clients tell how long they have been idle, and whether they want to be called all the same.
    # Both are checked; nobody is told.
    since: float | None = None
    afk: bool | None = None


# What is known of a user.


class Showing(msgspec.Struct, frozen=True):
    """What a session shows when it begins."""

    status: Status = "online"
    device: Device = "web"
    activities: tuple[Activity, ...] = ()


class SessionPresence(msgspec.Struct, frozen=True, array_like=True):
    """What one session shows."""

    key: int
    status: Status
    device: Device
    activities: tuple[Activity, ...] = ()
    # Unix milliseconds. Of a session that was on two nodes, the later word counts; 0 when nothing
    # is known of it yet.
    at: int = 0
    # It has ended; that it shows nothing is not its client's word.
    is_ended: bool = False


class UserPresence(msgspec.Struct, frozen=True, array_like=True):
    """What one node knows of a user: the sessions there, and the guilds that the user is in."""

    guilds: tuple[int, ...] = ()
    sessions: tuple[SessionPresence, ...] = ()


class Change(NamedTuple):
    """What another node has to say of a user; None when nothing any more."""

    node: str
    user_id: int
    part: UserPresence | None


class ClientStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The status by the kind of device; a device without one is absent."""

    desktop: Visible | msgspec.UnsetType = msgspec.UNSET
    mobile: Visible | msgspec.UnsetType = msgspec.UNSET
    web: Visible | msgspec.UnsetType = msgspec.UNSET


class Merged(msgspec.Struct, frozen=True):
    """What the sessions of a user come to, as others see it."""

    status: Status = "offline"
    activities: tuple[Activity, ...] = ()
    client_status: ClientStatus = ClientStatus()


OFFLINE: Final = Merged()


def merge(sessions: Iterable[SessionPresence]) -> Merged:
    """Do not disturb before online before idle; on each device, and over all of them."""
    shown = sorted(
        (session for session in sessions if session.status in _RANKS),
        key=lambda session: (_RANKS[session.status], -session.at, session.key),
    )
    if not shown:
        return OFFLINE
    devices: dict[str, Status] = {}
    activities: dict[Activity, None] = {}
    for session in shown:
        devices.setdefault(session.device, session.status)
        activities.update(dict.fromkeys(session.activities))
    return Merged(
        status=shown[0].status,
        activities=tuple(activities)[:MAX_ACTIVITIES],
        client_status=ClientStatus(**cast("Mapping[str, Visible]", devices)),
    )


def activities_of(
    wish: PresenceUpdate, known: Iterable[Activity], now_ms: int
) -> tuple[Activity, ...]:
    """The activities that a client names, each since the server heard of it first."""
    named = wish.activities if wish.activities is not None else [wish.game] if wish.game else []
    bare = [msgspec.structs.replace(activity, created_at=0) for activity in named]
    since = {msgspec.structs.replace(one, created_at=0): one.created_at for one in known}
    return tuple(
        msgspec.structs.replace(activity, created_at=since.get(activity, now_ms))
        for activity in dict.fromkeys(bare)
    )


def to_keep(session: SessionPresence) -> SessionPresence:
    """What is kept of a session that is away: its activities only if they are small."""
    if len(_encode(session.activities)) <= _MAX_KEPT_BYTES:
        return session
    return msgspec.structs.replace(session, activities=())


def latest(parts: Iterable[UserPresence]) -> list[SessionPresence]:
    """The sessions of a user on all nodes, each as it was heard of last."""
    found: dict[int, SessionPresence] = {}
    for part in parts:
        for session in part.sessions:
            known = found.get(session.key)
            if known is None or known.at < session.at:
                found[session.key] = session
    return list(found.values())


def device_of(browser: str) -> Device:
    """The kind of device, by what a client calls itself."""
    if _MOBILE.search(browser):
        return "mobile"
    return "desktop" if _DESKTOP.search(browser) else "web"


# What is told.


class PresentUser(msgspec.Struct, frozen=True):
    """Who it is; who they are is told elsewhere."""

    id: Snowflake


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A member's presence, in PRESENCE_UPDATE and among those of GUILD_CREATE."""

    user: PresentUser
    guild_id: Snowflake
    status: Status
    activities: tuple[Activity, ...]
    client_status: ClientStatus


class PresenceUpdated(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "PRESENCE_UPDATE"
    presence: Presence
    # Somebody invisible is told so; nobody else is.
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> Presence:
        return self.presence


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceLimits:
    """The bounds of presence."""

    # A session that was cut counts as there for so long: most resume within moments.
    grace_s: float = 10.0
    # What so many sessions showed last is remembered beyond that.
    kept: int = 20_000
    # Changes within this are told as one.
    tick_s: float = 0.25
    # Users whose changes are told in one tick, and are written to the store at once.
    users: int = 250
    # Frames to sockets; beyond them changes wait, and only the last state is told.
    frames_per_s: float = 10_000.0
    # A guild with more people online than this is told of nobody's presence.
    crowd: int = 1000
    # Changes of oneself that a session may make: so many at once, then one in so many seconds.
    changes: float = 5.0
    change_s: float = 4.0
    # What a socket that was not live is told of when it is: changes this old, and so many.
    recall_s: float = 120.0
    recall: int = 200
    # People who joined a guild and wait to be told who is there.
    joined: int = 5000
    # How often other nodes are asked for changes, and told that this one lives.
    poll_s: float = 0.25
    beat_s: float = 1.0
