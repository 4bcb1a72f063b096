"""Channels: where messages are, in a guild or between two people."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.guild.model import GuildChannel, PartialMember
from internal.permission.model import (
    Overwrite,
    Standing,
    Trace,
    in_channel,
    in_direct_message,
    in_private_thread,
)
from internal.user.model import User
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL, ONE_LINE

MAX_CHANNELS_OF_GUILD: Final = 500
MAX_CHANNELS_OF_CATEGORY: Final = 50
MAX_OVERWRITES: Final = 500
MAX_TOPIC: Final = 1024
# Tells a forum's members how to post, and may be long.
MAX_FORUM_TOPIC: Final = 4096
MAX_TAGS: Final = 20
MAX_RECIPIENTS: Final = 10
MAX_SLOWMODE_S: Final = 6 * 3600
# The levels of verification that ask for time, and for how much of it.
_MEDIUM: Final = 2
_HIGH: Final = 3
_REGISTERED_FOR: Final = timedelta(minutes=5)
_MEMBER_FOR: Final = timedelta(minutes=10)
# READY tells all direct messages of an account, so that what comes after it is about known ones:
# there can't be more than these.
MAX_DIRECT_MESSAGES: Final = 1000
# Of these, so many are left for those that one opens oneself: strangers can't use them up.
OWN_DIRECT_MESSAGES: Final = 100

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=ONE_LINE)]
Topic = Annotated[str, msgspec.Meta(max_length=MAX_FORUM_TOPIC, pattern=NO_NUL)]
Position = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
# Seconds between two messages of one member.
Slowmode = Annotated[int, msgspec.Meta(ge=0, le=MAX_SLOWMODE_S)]
# Minutes without a message, the documented ones.
ArchiveAfter: TypeAlias = Literal[60, 1440, 4320, 10080]
# A set of permissions: a string of digits, or a number as some libraries send it.
Bits: TypeAlias = (
    Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}\Z")]
)
EmojiName = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=NO_NUL)]


class ChannelType(IntEnum):
    """The documented numbers."""

    TEXT = 0
    DIRECT_MESSAGE = 1
    GROUP = 3
    CATEGORY = 4
    ANNOUNCEMENT = 5
    ANNOUNCEMENT_THREAD = 10
    PUBLIC_THREAD = 11
    PRIVATE_THREAD = 12
    FORUM = 15


THREADS: Final = frozenset(
    {ChannelType.ANNOUNCEMENT_THREAD, ChannelType.PUBLIC_THREAD, ChannelType.PRIVATE_THREAD}
)
# The channels that may have threads, and the kind of those that start from a message there.
THREAD_PARENTS: Final = {
    ChannelType.TEXT: ChannelType.PUBLIC_THREAD,
    ChannelType.ANNOUNCEMENT: ChannelType.ANNOUNCEMENT_THREAD,
    ChannelType.FORUM: ChannelType.PUBLIC_THREAD,
}
# What stands in the list of a guild.
OF_GUILD: Final = frozenset(
    {ChannelType.TEXT, ChannelType.CATEGORY, ChannelType.ANNOUNCEMENT, ChannelType.FORUM}
)
GROUPS: Final = frozenset({ChannelType.GROUP})
# These hold other channels or threads, and no messages of their own.
WITHOUT_MESSAGES: Final = frozenset({ChannelType.CATEGORY, ChannelType.FORUM})


# Requests.

Recipients = Annotated[list[Snowflake], msgspec.Meta(min_length=1, max_length=100)]


class OverwriteWish(msgspec.Struct, frozen=True, kw_only=True):
    """A rule of a channel for a role (type 0) or a member (type 1)."""

    id: Snowflake
    # Without it, that of a role if there is such a one, else that of a member.
    type: Literal[0, 1] | None = None
    allow: Bits | None = None
    deny: Bits | None = None


class TagWish(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of a forum. One that is there already bears its id."""

    id: Snowflake | None = None
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=50, pattern=ONE_LINE)]
    moderated: bool | None = None
    emoji_id: Snowflake | None = None
    emoji_name: EmojiName | None = None


class EmojiWish(msgspec.Struct, frozen=True, kw_only=True):
    emoji_id: Snowflake | None = None
    emoji_name: EmojiName | None = None


Tags = Annotated[list[TagWish], msgspec.Meta(max_length=MAX_TAGS)]


class CreateChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a channel. The guild may stand in the path instead."""

    guild_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    name: Name
    type: Literal[0, 4, 5, 15] | None = 0
    topic: Topic | None = None
    nsfw: bool | None = False
    position: Position | None = None
    rate_limit_per_user: Slowmode | None = None
    parent_id: Snowflake | None = None
    permission_overwrites: list[OverwriteWish] | None = None
    default_auto_archive_duration: ArchiveAfter | None = None
    default_thread_rate_limit_per_user: Slowmode | None = None
    # Of forums:
    available_tags: Tags | None = None
    default_reaction_emoji: EmojiWish | None = None
    default_sort_order: Literal[0, 1] | None = None
    default_forum_layout: Literal[0, 1, 2] | None = None


class UpdateChannel(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel, group or thread is to be; what its kind does not have is passed over."""

    # A group may do without one.
    name: Name | msgspec.UnsetType | None = msgspec.UNSET
    type: Literal[0, 4, 5, 15] | msgspec.UnsetType = msgspec.UNSET
    topic: Topic | msgspec.UnsetType | None = msgspec.UNSET
    nsfw: bool | msgspec.UnsetType | None = msgspec.UNSET
    position: Position | msgspec.UnsetType | None = msgspec.UNSET
    rate_limit_per_user: Slowmode | msgspec.UnsetType | None = msgspec.UNSET
    parent_id: Snowflake | msgspec.UnsetType | None = msgspec.UNSET
    # Take over the overwrites of the category.
    lock_permissions: bool | None = None
    permission_overwrites: list[OverwriteWish] | msgspec.UnsetType | None = msgspec.UNSET
    default_auto_archive_duration: ArchiveAfter | msgspec.UnsetType | None = msgspec.UNSET
    default_thread_rate_limit_per_user: Slowmode | msgspec.UnsetType | None = msgspec.UNSET
    # Of forums; 16: a post needs a tag.
    flags: Literal[0, 16] | msgspec.UnsetType | None = msgspec.UNSET
    available_tags: Tags | msgspec.UnsetType | None = msgspec.UNSET
    default_reaction_emoji: EmojiWish | msgspec.UnsetType | None = msgspec.UNSET
    default_sort_order: Literal[0, 1] | msgspec.UnsetType | None = msgspec.UNSET
    default_forum_layout: Literal[0, 1, 2] | msgspec.UnsetType | None = msgspec.UNSET


class OpenDirectMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to talk to: one by `recipient_id` or in a list, or several, which makes a group."""

    recipient_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    recipient_ids: Recipients | msgspec.UnsetType = msgspec.UNSET
    recipients: Recipients | msgspec.UnsetType = msgspec.UNSET

    def others(self, actor: Snowflake) -> list[Snowflake]:
        """All who are named, each once and without the actor if there is somebody else."""
        named = [*(self.recipients or ()), *(self.recipient_ids or ())]
        if self.recipient_id is not msgspec.UNSET:
            named.append(self.recipient_id)
        distinct = list(dict.fromkeys(named))
        return [one for one in distinct if one != actor] or distinct


class DirectMessagePage(msgspec.Struct, frozen=True, kw_only=True):
    before: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100


# Objects.


class DirectMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A channel between two people, or a group of some, as one of them sees it.

    The others are the recipients, by id. `last_message_id` is absent from CHANNEL_UPDATE: they may
    be sending while one of them changes, so an id in it could be older than what was told.
    """

    id: Snowflake
    type: int = ChannelType.DIRECT_MESSAGE
    recipients: tuple[User, ...]
    last_message_id: Snowflake | msgspec.UnsetType | None = None
    flags: int = 0
    # Of groups:
    owner_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    icon: str | msgspec.UnsetType | None = msgspec.UNSET


class ThreadAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread is to who has access to it."""

    archived: bool
    locked: bool
    # Whether the actor is a member of it.
    is_member: bool
    # Everyone who is, of a private one; None for others, which all may see who see the channel.
    members: tuple[Snowflake, ...] | None = None


def decide(
    standing: Standing | None,
    overwrites: Sequence[Overwrite],
    thread: ThreadAccess | None,
    trace: Trace | None = None,
) -> int:
    """What somebody may do in a channel; the only place where that is worked out.

    Without a standing it is a direct message or a group.
    """
    if standing is None:
        return in_direct_message(trace)
    bits = in_channel(standing, overwrites, is_thread=thread is not None, trace=trace)
    if thread is None or thread.members is None:
        return bits
    return in_private_thread(bits, is_member=thread.is_member, trace=trace)


class ChannelAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that the actor may see, and what the actor is and may do there."""

    channel_id: Snowflake
    type: int
    user: User
    permissions: int
    slowmode_s: int = 0
    verification_level: int = 0
    # In a guild:
    guild_id: Snowflake | None = None
    member: PartialMember | None = None
    standing: Standing | None = None
    # What decided in it beside the member's standing: those of a thread are its channel's.
    overwrites: tuple[Overwrite, ...] = ()
    # The category of a channel; the channel of a thread.
    parent_id: Snowflake | None = None
    owner_id: Snowflake | None = None
    thread: ThreadAccess | None = None
    # In a direct message, the smaller id first; in a group, everyone in it.
    participants: tuple[Snowflake, ...] | None = None

    @property
    def is_thread(self) -> bool:
        return self.thread is not None

    @property
    def lock_key(self) -> Snowflake | None:
        """What keeps this access true while it is held: the guild's lock, or the group's.

        None in a direct message, which nobody is ever removed from.
        """
        return self.channel_id if self.type == ChannelType.GROUP else self.guild_id

    def is_verified(self, now: datetime) -> bool:
        """Whether the actor is known for as long as the guild wants it before anything is sent.

        Who has a role is known to the guild. Level 1 asks for a verified address and level 4 for a
        verified number: there are none of these here, so 1 asks for nothing and 4 for what 3 does.
        """
        if self.member is None or self.standing is None or self.verification_level < _MEDIUM:
            return True
        if self.standing.is_owner or self.standing.roles:
            return True
        if now - self.user.id.created_at < _REGISTERED_FOR:
            return False
        joined_at = datetime.fromisoformat(self.member.joined_at)
        return self.verification_level < _HIGH or now - joined_at >= _MEMBER_FOR

    def audience(self) -> Audience:
        """Everyone who may see the channel. Of a private thread, its members."""
        if self.thread is None:
            return Audience(
                users=self.participants, guild_id=self.guild_id, channel_id=self.channel_id
            )
        return Audience(
            users=self.thread.members,
            guild_id=self.guild_id,
            channel_id=self.channel_id,
            parent_id=self.parent_id,
        )


# Events.


class ChannelCreated(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "CHANNEL_CREATE"
    channel: GuildChannel

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.channel.guild_id, channel_id=self.channel.id)

    @override
    def payload(self) -> GuildChannel:
        return self.channel


class ChannelUpdated(ChannelCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "CHANNEL_UPDATE"
    # Whether the overwrites are others than before.
    has_other_overwrites: bool = False

    @override
    def reshapes(self) -> Snowflake | None:
        return Snowflake(0) if self.has_other_overwrites else None


class ChannelDeleted(ChannelCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "CHANNEL_DELETE"
    # Those in it, which are gone with it.
    threads: tuple[Snowflake, ...] = ()

    @override
    def retracts_channels(self) -> tuple[Snowflake, ...]:
        return (self.channel.id, *self.threads)


class DirectMessageOpened(Event, frozen=True, kw_only=True):
    """A direct message appeared for one who is in it: each is told of it in the own view."""

    type: ClassVar[str] = "CHANNEL_CREATE"
    user_id: Snowflake
    channel: DirectMessage

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user_id,), channel_id=self.channel.id)

    @override
    def payload(self) -> DirectMessage:
        return self.channel


class DirectMessageUpdated(DirectMessageOpened, frozen=True, kw_only=True):
    """Somebody in it looks different, or it does itself."""

    type: ClassVar[str] = "CHANNEL_UPDATE"
