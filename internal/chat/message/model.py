"""Messages: what is said in channels."""

from typing import Annotated, ClassVar, Final

import msgspec
from typing_extensions import override

from internal.chat.mention.model import NOBODY, AllowedMentions, MentionedUser, Mentions
from internal.events import Audience, Event
from internal.guild.model import PartialMember, Thread
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

MAX_CONTENT: Final = 2000
MAX_BULK_DELETE: Final = 100
MAX_NONCE: Final = 128

# The documented number of what automatic moderation shows to a guild's moderators.
AUTO_MODERATION_ACTION: Final = 24

SUPPRESS_EMBEDS: Final = 1 << 2
HAS_THREAD: Final = 1 << 5
SUPPRESS_NOTIFICATIONS: Final = 1 << 12

Content = Annotated[str, msgspec.Meta(max_length=MAX_CONTENT, pattern=NO_NUL)]
NonceText = Annotated[str, msgspec.Meta(max_length=MAX_NONCE, pattern=NO_NUL)]
NonceNumber = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Flags = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


# Requests.


class SendMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to send. The channel may stand in the path instead.

    With `enforce_nonce`, sending again with the same nonce gives the first message back.
    """

    channel_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    content: Content | None = None
    nonce: NonceText | NonceNumber | None = None
    enforce_nonce: bool = False
    tts: bool = False
    flags: Flags | None = None
    allowed_mentions: AllowedMentions | None = None


class UpdateMessage(msgspec.Struct, frozen=True, kw_only=True):
    content: Content | msgspec.UnsetType | None = msgspec.UNSET
    flags: Flags | msgspec.UnsetType | None = msgspec.UNSET
    allowed_mentions: AllowedMentions | None = None


class BulkDelete(msgspec.Struct, frozen=True, kw_only=True):
    # The bound on the number is the rule's, which has an error of its own; this one keeps a body
    # from holding a hundred thousand ids.
    messages: Annotated[list[Snowflake], msgspec.Meta(max_length=10 * MAX_BULK_DELETE)]


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a channel, newest first; of the three anchors at most one."""

    before: Snowflake | None = None
    after: Snowflake | None = None
    around: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


# Objects.


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message. Events in guilds add `guild_id` and `member`; a send adds its `nonce`."""

    id: Snowflake
    channel_id: Snowflake
    author: User
    content: str
    timestamp: Timestamp
    edited_timestamp: Timestamp | None = None
    type: int = 0
    flags: int = 0
    tts: bool = False
    mention_everyone: bool = False
    pinned: bool = False
    mentions: tuple[MentionedUser, ...] = ()
    mention_roles: tuple[Snowflake, ...] = ()
    attachments: tuple[()] = ()
    embeds: tuple[()] = ()
    components: tuple[()] = ()
    nonce: str | int | msgspec.UnsetType = msgspec.UNSET
    guild_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    member: PartialMember | msgspec.UnsetType = msgspec.UNSET
    # The one that was started from it.
    thread: Thread | msgspec.UnsetType = msgspec.UNSET


class StoredNonce(msgspec.Struct, frozen=True, kw_only=True):
    """What the first send with a nonce was, and the message that it became."""

    channel_id: Snowflake
    message_id: Snowflake
    body_hash: bytes
    # As the first answer showed them.
    author: User
    mentions: Mentions = NOBODY


class AuthorPurge(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said in a guild and is to be deleted, by a span of ids."""

    id: int
    guild_id: Snowflake
    author_id: Snowflake
    from_id: Snowflake
    below_id: Snowflake


class GoneMessage(msgspec.Struct, frozen=True, kw_only=True):
    id: Snowflake
    channel_id: Snowflake
    guild_id: Snowflake | msgspec.UnsetType = msgspec.UNSET


class GoneMessages(msgspec.Struct, frozen=True, kw_only=True):
    ids: tuple[Snowflake, ...]
    channel_id: Snowflake
    guild_id: Snowflake | msgspec.UnsetType = msgspec.UNSET


# Events.


class MessageSent(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_CREATE"
    message: Message
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> Message:
        return self.message

    @override
    def subject(self) -> Snowflake:
        return self.message.id


class MessageEdited(MessageSent, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_UPDATE"

    @override
    def revises(self) -> Snowflake:
        return self.message.id


class MessageDeleted(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_DELETE"
    gone: GoneMessage
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> GoneMessage:
        return self.gone

    @override
    def retracts(self) -> tuple[Snowflake, ...]:
        return (self.gone.id,)


class MessagesDeleted(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_DELETE_BULK"
    gone: GoneMessages
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> GoneMessages:
        return self.gone

    @override
    def retracts(self) -> tuple[Snowflake, ...]:
        return self.gone.ids
