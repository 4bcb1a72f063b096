"""Threads: side conversations in a channel of a guild, and the posts of forums."""

from typing import Annotated, ClassVar, Final, Literal

import msgspec
from typing_extensions import override

from internal.channel.model import Name, Slowmode
from internal.events import Audience, Event
from internal.guild.model import Member, Thread, ThreadMember
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

MAX_ACTIVE_THREADS: Final = 1000
MAX_PRIVATE_MEMBERS: Final = 1000
MAX_TAGS_OF_THREAD: Final = 5
# So many members of a thread that is taken out of the archive are told that they are in it.
MAX_REMINDED: Final = MAX_PRIVATE_MEMBERS
# Unless its channel says otherwise: three days.
DEFAULT_ARCHIVE_MINUTES: Final = 4320

# The documented flags: of a forum's post, and of a forum.
PINNED: Final = 1 << 1
REQUIRE_TAG: Final = 1 << 4

ArchiveMinutes = Literal[60, 1440, 4320, 10080]
Content = Annotated[str, msgspec.Meta(max_length=2000, pattern=NO_NUL)]
Flags = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Tags = Annotated[list[Snowflake], msgspec.Meta(max_length=MAX_TAGS_OF_THREAD)]
PageSize = Annotated[int, msgspec.Meta(ge=2, le=100)]


# Requests.


class StartFromMessage(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    auto_archive_duration: ArchiveMinutes | None = None
    rate_limit_per_user: Slowmode | None = None


class FirstMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What a post of a forum begins with."""

    content: Content | None = None
    flags: Flags | None = None


class StartThread(StartFromMessage, frozen=True, kw_only=True):
    """A wish for a thread without a message or, with `message`, for a post of a forum."""

    type: Literal[10, 11, 12] | None = None
    invitable: bool | None = None
    applied_tags: Tags | None = None
    message: FirstMessage | None = None


class UpdateThread(msgspec.Struct, frozen=True, kw_only=True):
    """What is absent or null stays as it is."""

    name: Name | None = None
    archived: bool | None = None
    locked: bool | None = None
    invitable: bool | None = None
    auto_archive_duration: ArchiveMinutes | None = None
    rate_limit_per_user: Slowmode | None = None
    flags: Flags | None = None
    applied_tags: Tags | None = None


class ThreadMemberQuery(msgspec.Struct, frozen=True, kw_only=True):
    with_member: bool = False


class ThreadMemberPage(ThreadMemberQuery, frozen=True, kw_only=True):
    after: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100


class ArchivePage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of archived threads, what was archived last first; `before` is a time."""

    before: str | None = None
    limit: PageSize = 50


class OwnArchivePage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of archived threads, the newest first; `before` is an id."""

    before: Snowflake | None = None
    limit: PageSize = 50


# Objects.


class NewPost(Thread, frozen=True, kw_only=True):
    """A post of a forum with the message that it begins with."""

    message: object


class ThreadParticipant(ThreadMember, frozen=True, kw_only=True):
    """A member of a thread and, where that was asked for, the member of the guild."""

    member: Member | msgspec.UnsetType = msgspec.UNSET


class ThreadList(msgspec.Struct, frozen=True, kw_only=True):
    """Threads, and one's own memberships of them."""

    threads: tuple[Thread, ...]
    members: tuple[ThreadMember, ...]
    has_more: bool = False


class GoneThread(msgspec.Struct, frozen=True, kw_only=True):
    id: Snowflake
    guild_id: Snowflake
    parent_id: Snowflake
    type: int


class OwnThreadMember(ThreadMember, frozen=True, kw_only=True):
    guild_id: Snowflake


# Events.


class ThreadCreated(Event, frozen=True, kw_only=True):
    """A thread is there: a new one for all who see its channel, an old one for who was added."""

    type: ClassVar[str] = "THREAD_CREATE"
    thread: Thread
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> Thread:
        return self.thread


class ThreadUpdated(ThreadCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "THREAD_UPDATE"


class ThreadDeleted(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "THREAD_DELETE"
    gone: GoneThread
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> GoneThread:
        return self.gone

    @override
    def retracts_channels(self) -> tuple[Snowflake, ...]:
        return (self.gone.id,)


class ThreadMemberUpdated(Event, frozen=True, kw_only=True):
    """One's own membership, told when a thread comes back from the archive."""

    type: ClassVar[str] = "THREAD_MEMBER_UPDATE"
    member: OwnThreadMember
    parent_id: Snowflake

    @override
    def audience(self) -> Audience:
        return Audience(
            users=(self.member.user_id,),
            guild_id=self.member.guild_id,
            channel_id=self.member.id,
            parent_id=self.parent_id,
        )

    @override
    def payload(self) -> OwnThreadMember:
        return self.member
