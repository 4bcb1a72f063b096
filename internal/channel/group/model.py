"""Groups: messages among up to ten people, one of whom owns the group."""

from typing import ClassVar

import msgspec
from typing_extensions import override

from internal.channel.model import DirectMessage
from internal.events import Audience, Event
from internal.user.model import User
from internal.utils.snowflake import Snowflake


class RecipientOfGroup(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: Snowflake
    user: User


class RecipientAdded(Event, frozen=True, kw_only=True):
    """Somebody was added to a group; told to those who were in it before."""

    type: ClassVar[str] = "CHANNEL_RECIPIENT_ADD"
    recipient: RecipientOfGroup
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        return Audience(users=self.users, channel_id=self.recipient.channel_id)

    @override
    def payload(self) -> RecipientOfGroup:
        return self.recipient


class RecipientRemoved(RecipientAdded, frozen=True, kw_only=True):
    """Somebody left a group or was removed; told to those who remain."""

    type: ClassVar[str] = "CHANNEL_RECIPIENT_REMOVE"


class GroupLeft(Event, frozen=True, kw_only=True):
    """A group is gone for one account, and with the last one altogether."""

    type: ClassVar[str] = "CHANNEL_DELETE"
    user_id: Snowflake
    channel: DirectMessage
    is_last: bool

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user_id,), channel_id=self.channel.id)

    @override
    def retracts_channels(self) -> tuple[Snowflake, ...]:
        return (self.channel.id,) if self.is_last else ()

    @override
    def payload(self) -> DirectMessage:
        return self.channel
