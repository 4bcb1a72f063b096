"""Permissions: what a member may do, as bits, and the arithmetic that decides it. No I/O."""

from collections.abc import Iterable
from enum import IntFlag
from typing import Final


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

_ADMINISTRATOR: Final = int(Permission.ADMINISTRATOR)
_VIEW_CHANNEL: Final = int(Permission.VIEW_CHANNEL)
_SEND_MESSAGES: Final = int(Permission.SEND_MESSAGES)
# Ways of sending: without SEND_MESSAGES none of them means anything.
_SENDING: Final = int(
    Permission.SEND_TTS_MESSAGES
    | Permission.EMBED_LINKS
    | Permission.ATTACH_FILES
    | Permission.MENTION_EVERYONE
    | Permission.SEND_VOICE_MESSAGES
    | Permission.SEND_POLLS
)


def in_guild(*, is_owner: bool, everyone: int, roles: Iterable[int] = ()) -> int:
    """What a member may do in a guild: the union of @everyone and the member's own roles.

    The owner and administrators may do everything.
    """
    if is_owner:
        return ALL
    bits = everyone
    for role in roles:
        bits |= role
    return ALL if bits & _ADMINISTRATOR else bits


def in_channel(base: int) -> int:
    """What a member with `base` in the guild may do in a channel of it.

    Some bits deny others: who can't see a channel can do nothing there, who can't send can't
    send in any special way.
    """
    if base & _ADMINISTRATOR:
        return ALL
    if not base & _VIEW_CHANNEL:
        return 0
    if not base & _SEND_MESSAGES:
        return base & ~_SENDING
    return base


def allows(bits: int, needs: int) -> bool:
    """Whether every bit of `needs` is among `bits`."""
    wanted = int(needs)
    return bits & wanted == wanted
