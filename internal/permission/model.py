"""Permissions: what a member may do, as bits, and the arithmetic that decides it. No I/O."""

from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import Final, Literal, NamedTuple, TypeAlias


class Permission(IntFlag):
    """The publicly documented bits. On the wire a set of them is a decimal string."""

    CREATE_INSTANT_INVITE = 1 << 0
    KICK_MEMBERS = 1 << 1
    BAN_MEMBERS = 1 << 2
    ADMINISTRATOR = 1 << 3
    MANAGE_CHANNELS = 1 << 4
    MANAGE_GUILD = 1 << 5
    ADD_REACTIONS = 1 << 6
    VIEW_AUDIT_LOG = 1 << 7
    PRIORITY_SPEAKER = 1 << 8
    STREAM = 1 << 9
    VIEW_CHANNEL = 1 << 10
    SEND_MESSAGES = 1 << 11
    SEND_TTS_MESSAGES = 1 << 12
    MANAGE_MESSAGES = 1 << 13
    EMBED_LINKS = 1 << 14
    ATTACH_FILES = 1 << 15
    READ_MESSAGE_HISTORY = 1 << 16
    MENTION_EVERYONE = 1 << 17
    USE_EXTERNAL_EMOJIS = 1 << 18
    VIEW_GUILD_INSIGHTS = 1 << 19
    CONNECT = 1 << 20
    SPEAK = 1 << 21
    MUTE_MEMBERS = 1 << 22
    DEAFEN_MEMBERS = 1 << 23
    MOVE_MEMBERS = 1 << 24
    USE_VAD = 1 << 25
    CHANGE_NICKNAME = 1 << 26
    MANAGE_NICKNAMES = 1 << 27
    MANAGE_ROLES = 1 << 28
    MANAGE_WEBHOOKS = 1 << 29
    MANAGE_GUILD_EXPRESSIONS = 1 << 30
    USE_APPLICATION_COMMANDS = 1 << 31
    REQUEST_TO_SPEAK = 1 << 32
    MANAGE_EVENTS = 1 << 33
    MANAGE_THREADS = 1 << 34
    CREATE_PUBLIC_THREADS = 1 << 35
    CREATE_PRIVATE_THREADS = 1 << 36
    USE_EXTERNAL_STICKERS = 1 << 37
    SEND_MESSAGES_IN_THREADS = 1 << 38
    USE_EMBEDDED_ACTIVITIES = 1 << 39
    MODERATE_MEMBERS = 1 << 40
    VIEW_CREATOR_MONETIZATION_ANALYTICS = 1 << 41
    USE_SOUNDBOARD = 1 << 42
    CREATE_GUILD_EXPRESSIONS = 1 << 43
    CREATE_EVENTS = 1 << 44
    USE_EXTERNAL_SOUNDS = 1 << 45
    SEND_VOICE_MESSAGES = 1 << 46
    SEND_POLLS = 1 << 49
    USE_EXTERNAL_APPS = 1 << 50
    PIN_MESSAGES = 1 << 51
    BYPASS_SLOWMODE = 1 << 52


NOTHING: Final = Permission(0)
# Sets of bits are plain ints: arithmetic on IntFlag costs a microsecond an operation.
ALL: Final = sum(Permission)

# What @everyone may do in a new guild: take part, but not call everyone together.
EVERYONE_DEFAULT: Final = int(
    Permission.CREATE_INSTANT_INVITE
    | Permission.ADD_REACTIONS
    | Permission.STREAM
    | Permission.VIEW_CHANNEL
    | Permission.SEND_MESSAGES
    | Permission.EMBED_LINKS
    | Permission.ATTACH_FILES
    | Permission.READ_MESSAGE_HISTORY
    | Permission.USE_EXTERNAL_EMOJIS
    | Permission.CONNECT
    | Permission.SPEAK
    | Permission.USE_VAD
    | Permission.CHANGE_NICKNAME
    | Permission.USE_APPLICATION_COMMANDS
    | Permission.REQUEST_TO_SPEAK
    | Permission.CREATE_PUBLIC_THREADS
    | Permission.CREATE_PRIVATE_THREADS
    | Permission.USE_EXTERNAL_STICKERS
    | Permission.SEND_MESSAGES_IN_THREADS
    | Permission.USE_EMBEDDED_ACTIVITIES
    | Permission.USE_SOUNDBOARD
    | Permission.USE_EXTERNAL_SOUNDS
    | Permission.SEND_VOICE_MESSAGES
    | Permission.SEND_POLLS
)

# What each of the two may do in a direct message. Nobody moderates the other.
DIRECT_MESSAGE: Final = int(
    Permission.ADD_REACTIONS
    | Permission.VIEW_CHANNEL
    | Permission.SEND_MESSAGES
    | Permission.EMBED_LINKS
    | Permission.ATTACH_FILES
    | Permission.READ_MESSAGE_HISTORY
    | Permission.USE_EXTERNAL_EMOJIS
    | Permission.USE_EXTERNAL_STICKERS
    | Permission.SEND_VOICE_MESSAGES
    | Permission.SEND_POLLS
    | Permission.PIN_MESSAGES
)

# What a member who is timed out still may do.
TIMED_OUT: Final = int(Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY)

_ADMINISTRATOR: Final = int(Permission.ADMINISTRATOR)
_VIEW_CHANNEL: Final = int(Permission.VIEW_CHANNEL)
_SEND_MESSAGES: Final = int(Permission.SEND_MESSAGES)
_SEND_IN_THREADS: Final = int(Permission.SEND_MESSAGES_IN_THREADS)
_MANAGE_THREADS: Final = int(Permission.MANAGE_THREADS)
# Ways of sending: without SEND_MESSAGES none of them means anything.
_SENDING: Final = int(
    Permission.SEND_TTS_MESSAGES
    | Permission.EMBED_LINKS
    | Permission.ATTACH_FILES
    | Permission.MENTION_EVERYONE
    | Permission.SEND_VOICE_MESSAGES
    | Permission.SEND_POLLS
)


class Overwrite(NamedTuple):
    """What a channel allows and denies to one role or one member."""

    id: int
    is_member: bool
    allow: int
    deny: int


class Standing(NamedTuple):
    """What a guild knows of one member that decides what the member may do.

    `roles` are the ids and bits of the member's own roles; the one of @everyone has the guild's id.
    """

    user_id: int
    guild_id: int
    everyone: int
    roles: Sequence[tuple[int, int]] = ()
    is_owner: bool = False
    is_timed_out: bool = False


StepKind: TypeAlias = Literal[
    "owner",
    "everyone",
    "role",
    "administrator",
    "category",
    "everyone_overwrite",
    "role_overwrite",
    "member_overwrite",
    "timeout",
    "no_view_channel",
    "send_in_threads",
    "no_send_messages",
    "private_thread",
    "direct_message",
]


class Step(NamedTuple):
    """One step of a decision: whose rule it was, and the bits after it."""

    kind: StepKind
    id: int | None
    allow: int
    deny: int
    permissions: int


# Takes the steps of a decision, as they are made.
Trace: TypeAlias = Callable[[Step], None]


def in_guild(standing: Standing, trace: Trace | None = None) -> int:
    """What a member may do in a guild: the union of @everyone and the member's own roles.

    The owner and administrators may do everything; who is timed out, next to nothing.
    """
    bits = _base(standing, trace)
    if bits & _ADMINISTRATOR or not standing.is_timed_out:
        return bits
    return _step(trace, "timeout", standing.user_id, 0, bits & ~TIMED_OUT, bits & TIMED_OUT)


def in_channel(
    standing: Standing,
    overwrites: Sequence[Overwrite],
    *,
    is_thread: bool = False,
    trace: Trace | None = None,
) -> int:
    """What a member may do in a channel, in the documented order of rules.

    Roles of the guild, then the channel's overwrites: of @everyone, of the member's roles together
    (a denial by one role gives way to another's permission), of the member. A thread has those of
    its channel. Then a timeout, and what some bits deny others: who can't see a channel can do
    nothing there, who can't send can't send in any special way.
    """
    bits = _base(standing, trace)
    if bits & _ADMINISTRATOR:
        return bits
    if overwrites:
        bits = _overwritten(bits, standing, overwrites, trace)
    if standing.is_timed_out:
        bits = _step(trace, "timeout", standing.user_id, 0, bits & ~TIMED_OUT, bits & TIMED_OUT)
    if not bits & _VIEW_CHANNEL:
        return _step(trace, "no_view_channel", None, 0, bits, 0)
    if is_thread:
        # There it is the other bit that counts.
        may_send = bool(bits & _SEND_IN_THREADS)
        after = bits | _SEND_MESSAGES if may_send else bits & ~_SEND_MESSAGES
        bits = _step(trace, "send_in_threads", None, after & ~bits, bits & ~after, after)
    if not bits & _SEND_MESSAGES:
        bits = _step(trace, "no_send_messages", None, 0, bits & _SENDING, bits & ~_SENDING)
    return bits


def in_private_thread(bits: int, *, is_member: bool, trace: Trace | None = None) -> int:
    """What remains of that in a private thread: nothing, unless one is in it or manages threads."""
    if is_member or bits & _MANAGE_THREADS:
        return bits
    return _step(trace, "private_thread", None, 0, bits, 0)


def in_direct_message(trace: Trace | None = None) -> int:
    """What everyone may do who is in a direct message or a group."""
    return _step(trace, "direct_message", None, DIRECT_MESSAGE, 0, DIRECT_MESSAGE)


def _base(standing: Standing, trace: Trace | None) -> int:
    if standing.is_owner:
        return _step(trace, "owner", standing.user_id, ALL, 0, ALL)
    bits = _step(trace, "everyone", standing.guild_id, standing.everyone, 0, standing.everyone)
    for role_id, granted in standing.roles:
        bits |= granted
        if trace is not None:
            trace(Step("role", role_id, granted, 0, bits))
    return _step(trace, "administrator", None, ALL, 0, ALL) if bits & _ADMINISTRATOR else bits


def _overwritten(
    bits: int, standing: Standing, overwrites: Sequence[Overwrite], trace: Trace | None
) -> int:
    own_roles = {role_id for role_id, _ in standing.roles}
    allow = deny = 0
    own: Overwrite | None = None
    roles: list[Overwrite] = []
    for one in overwrites:
        if one.is_member:
            if one.id == standing.user_id:
                own = one
        elif one.id == standing.guild_id:
            bits = bits & ~one.deny | one.allow
            _step(trace, "everyone_overwrite", one.id, one.allow, one.deny, bits)
        elif one.id in own_roles:
            roles.append(one)
            allow |= one.allow
            deny |= one.deny
    if roles:
        if trace is not None:
            # A denial before the permissions of all roles, whichever role each is of.
            for one in roles:
                trace(Step("role_overwrite", one.id, one.allow, one.deny, bits & ~deny | allow))
        bits = bits & ~deny | allow
    if own is not None:
        bits = bits & ~own.deny | own.allow
        _step(trace, "member_overwrite", own.id, own.allow, own.deny, bits)
    return bits


def _step(
    trace: Trace | None, kind: StepKind, of: int | None, allow: int, deny: int, bits: int
) -> int:
    if trace is not None:
        trace(Step(kind, of, allow, deny, bits))
    return bits


def allows(bits: int, needs: int) -> bool:
    """Whether every bit of `needs` is among `bits`."""
    wanted = int(needs)
    return bits & wanted == wanted
