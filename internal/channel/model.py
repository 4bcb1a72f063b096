"""Channels: where messages are, in a guild or between two people."""

from enum import IntEnum
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.guild.model import GuildChannel, PartialMember
from internal.user.model import User
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL, ONE_LINE

MAX_CHANNELS_OF_GUILD: Final = 500
MAX_SLOWMODE_S: Final = 6 * 3600
# READY tells all direct messages of an account, so that what comes after it is about known ones:
# there can't be more than these.
MAX_DIRECT_MESSAGES: Final = 1000
# Of these, so many are left for those that one opens oneself: strangers can't use them up.
OWN_DIRECT_MESSAGES: Final = 100

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=ONE_LINE)]
Topic = Annotated[str, msgspec.Meta(max_length=1024, pattern=NO_NUL)]
Position = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
# Seconds between two messages of one member.
Slowmode = Annotated[int, msgspec.Meta(ge=0, le=MAX_SLOWMODE_S)]


class ChannelType(IntEnum):
    TEXT = 0
    DIRECT_MESSAGE = 1


# Requests.


class CreateChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a channel. The guild may stand in the path instead."""

    guild_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    name: Name
    type: Literal[0] = 0
    topic: Topic | None = None
    nsfw: bool = False
    position: Position | None = None
    rate_limit_per_user: Slowmode | None = None


class UpdateChannel(msgspec.Struct, frozen=True, kw_only=True):
    name: Name | msgspec.UnsetType = msgspec.UNSET
    topic: Topic | msgspec.UnsetType | None = msgspec.UNSET
    nsfw: bool | msgspec.UnsetType = msgspec.UNSET
    position: Position | msgspec.UnsetType = msgspec.UNSET
    rate_limit_per_user: Slowmode | msgspec.UnsetType = msgspec.UNSET


class OpenDirectMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to talk to: `recipient_id`, or a list of one as some clients send it."""

    recipient_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    recipients: (
        Annotated[list[Snowflake], msgspec.Meta(min_length=1, max_length=1)] | msgspec.UnsetType
    ) = msgspec.UNSET


class DirectMessagePage(msgspec.Struct, frozen=True, kw_only=True):
    before: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100


# Objects.


class DirectMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A channel between two people, as one of them sees it: the other is the recipient.

    `last_message_id` is absent from CHANNEL_UPDATE, which is about the recipient alone: the two
    may be sending while that one changes, so an id in it could be older than what was told.
    """

    id: Snowflake
    type: int = ChannelType.DIRECT_MESSAGE
    recipients: tuple[User, ...]
    last_message_id: Snowflake | msgspec.UnsetType | None = None
    flags: int = 0


class ChannelAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that the actor may see, and what the actor is and may do there."""

    channel_id: Snowflake
    user: User
    permissions: int
    slowmode_s: int = 0
    # In a guild:
    guild_id: Snowflake | None = None
    member: PartialMember | None = None
    # In a direct message, the smaller id first:
    participants: tuple[Snowflake, Snowflake] | None = None

    def audience(self) -> Audience:
        """Everyone who may see the channel."""
        return Audience(users=self.participants, guild_id=self.guild_id, channel_id=self.channel_id)


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


class ChannelDeleted(ChannelCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "CHANNEL_DELETE"

    @override
    def retracts_channels(self) -> tuple[Snowflake, ...]:
        return (self.channel.id,)


class DirectMessageOpened(Event, frozen=True, kw_only=True):
    """A direct message appeared for one of its two: each is told of it in the own view."""

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
    """The other one of a direct message looks different."""

    type: ClassVar[str] = "CHANNEL_UPDATE"
