"""Guilds: communities with members, roles and channels."""

from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.permission.model import Overwrite, Permission, Standing
from internal.presence.model import Presence
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL, ONE_LINE

MAX_GUILDS_OF_USER: Final = 200
MAX_MEMBERS: Final = 1_000_000
# Above this many members a guild is large: GUILD_CREATE carries one's own membership and no other.
LARGE: Final = 250
# Deleting a guild or a channel deletes so many of its messages at once; the rest is purged later,
# so that nobody waits for millions.
DELETED_AT_ONCE: Final = 1000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=ONE_LINE)]
Description = Annotated[str, msgspec.Meta(max_length=300, pattern=NO_NUL)]
# The largest picture, and what it comes to as a `data:` address.
MAX_ICON: Final = 256 << 10
Picture = Annotated[str, msgspec.Meta(max_length=MAX_ICON * 4 // 3 + 64)]
VerificationLevel = Annotated[int, msgspec.Meta(ge=0, le=4)]
Notifications = Annotated[int, msgspec.Meta(ge=0, le=1)]
ContentFilter = Annotated[int, msgspec.Meta(ge=0, le=2)]
SystemChannelFlags = Annotated[int, msgspec.Meta(ge=0, le=63)]
Feature = Annotated[str, msgspec.Meta(max_length=100)]
Features = Annotated[list[Feature], msgspec.Meta(max_length=100)]
Locale = Literal[
    "ar", "bg", "cs", "da", "de", "el", "en-GB", "en-US", "es-419", "es-ES", "fi", "fr",
    "he", "hi", "hr", "hu", "id", "it", "ja", "ko", "lt", "nl", "no", "pl", "pt-BR", "ro",
    "ru", "sv-SE", "th", "tr", "uk", "vi", "zh-CN", "zh-TW",
]  # fmt: skip


# Requests.


class CreateGuild(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    description: Description | None = None
    discoverable: bool = False
    icon: Picture | None = None
    verification_level: VerificationLevel | None = None
    default_message_notifications: Notifications | None = None
    explicit_content_filter: ContentFilter | None = None
    system_channel_flags: SystemChannelFlags | None = None


class UpdateGuild(msgspec.Struct, frozen=True, kw_only=True):
    name: Name | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType | None = msgspec.UNSET
    discoverable: bool | msgspec.UnsetType = msgspec.UNSET
    # Of these only DISCOVERABLE can be changed; the others come from the server.
    features: Features | msgspec.UnsetType | None = msgspec.UNSET
    owner_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    icon: Picture | msgspec.UnsetType | None = msgspec.UNSET
    # Null brings back what a new guild has.
    verification_level: VerificationLevel | msgspec.UnsetType | None = msgspec.UNSET
    default_message_notifications: Notifications | msgspec.UnsetType | None = msgspec.UNSET
    explicit_content_filter: ContentFilter | msgspec.UnsetType | None = msgspec.UNSET
    system_channel_id: Snowflake | msgspec.UnsetType | None = msgspec.UNSET
    system_channel_flags: SystemChannelFlags | msgspec.UnsetType | None = msgspec.UNSET
    rules_channel_id: Snowflake | msgspec.UnsetType | None = msgspec.UNSET
    preferred_locale: Locale | msgspec.UnsetType | None = msgspec.UNSET


class GuildCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to say how many of the members are there, too."""

    with_counts: bool = False


class GuildPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of guilds. With neither `before` nor `after`, the first one."""

    before: Snowflake | None = None
    after: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 200


class MemberPage(msgspec.Struct, frozen=True, kw_only=True):
    after: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


# Objects.


class PartialMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member without the account, as messages carry it beside their author."""

    nick: str | None = None
    avatar: str | None = None
    roles: tuple[Snowflake, ...] = ()
    joined_at: Timestamp
    premium_since: Timestamp | None = None
    deaf: bool = False
    mute: bool = False
    pending: bool = False
    flags: int = 0
    communication_disabled_until: Timestamp | None = None


class Member(PartialMember, frozen=True, kw_only=True):
    user: User


class RoleTags(msgspec.Struct, frozen=True, kw_only=True):
    """What a managed role belongs to."""

    bot_id: Snowflake | msgspec.UnsetType = msgspec.UNSET


class RoleColors(msgspec.Struct, frozen=True, kw_only=True):
    primary_color: int = 0
    secondary_color: int | None = None
    tertiary_color: int | None = None


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A role. That of @everyone has the id of its guild."""

    id: Snowflake
    name: str
    color: int = 0
    colors: RoleColors
    hoist: bool = False
    icon: str | None = None
    unicode_emoji: str | None = None
    position: int = 0
    permissions: str
    managed: bool = False
    mentionable: bool = False
    flags: int = 0
    tags: RoleTags | msgspec.UnsetType = msgspec.UNSET


class ChannelOverwrite(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel allows and denies to a role (type 0) or a member (type 1)."""

    id: Snowflake
    type: int
    allow: str
    deny: str

    def rule(self) -> Overwrite:
        """What permissions are computed from."""
        return Overwrite(self.id, self.type == 1, int(self.allow), int(self.deny))


class ForumTag(msgspec.Struct, frozen=True, kw_only=True):
    id: Snowflake
    name: str
    moderated: bool = False
    emoji_id: Snowflake | None = None
    emoji_name: str | None = None


class ReactionEmoji(msgspec.Struct, frozen=True, kw_only=True):
    emoji_id: Snowflake | None = None
    emoji_name: str | None = None


class Forum(msgspec.Struct, frozen=True, kw_only=True):
    """What only forum channels have."""

    available_tags: tuple[ForumTag, ...] = ()
    default_reaction_emoji: ReactionEmoji | None = None
    default_sort_order: int | None = None
    default_forum_layout: int = 0


class GuildChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel of a guild. Here, because it is a part of what its guild shows."""

    id: Snowflake
    type: int = 0
    guild_id: Snowflake
    name: str
    position: int
    permission_overwrites: tuple[ChannelOverwrite, ...] = ()
    topic: str | None = None
    nsfw: bool = False
    rate_limit_per_user: int = 0
    parent_id: Snowflake | None = None
    last_message_id: Snowflake | None = None
    flags: int = 0
    default_auto_archive_duration: int | msgspec.UnsetType = msgspec.UNSET
    default_thread_rate_limit_per_user: int | msgspec.UnsetType = msgspec.UNSET
    # Of forums:
    available_tags: tuple[ForumTag, ...] | msgspec.UnsetType = msgspec.UNSET
    default_reaction_emoji: ReactionEmoji | msgspec.UnsetType | None = msgspec.UNSET
    default_sort_order: int | msgspec.UnsetType | None = msgspec.UNSET
    default_forum_layout: int | msgspec.UnsetType = msgspec.UNSET

    def rules(self) -> tuple[Overwrite, ...]:
        """What the permissions of members in it are computed from."""
        return tuple(one.rule() for one in self.permission_overwrites)


class ThreadMetadata(msgspec.Struct, frozen=True, kw_only=True):
    archived: bool
    auto_archive_duration: int
    # When it was archived or taken out again last.
    archive_timestamp: Timestamp
    locked: bool
    # Of private threads: whether members who don't moderate may add others.
    invitable: bool | msgspec.UnsetType = msgspec.UNSET
    create_timestamp: Timestamp


class ThreadMember(msgspec.Struct, frozen=True, kw_only=True):
    id: Snowflake
    user_id: Snowflake
    join_timestamp: Timestamp
    flags: int = 0


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """A thread. Here, because the active ones are a part of what their guild shows."""

    id: Snowflake
    type: int
    guild_id: Snowflake
    parent_id: Snowflake
    owner_id: Snowflake
    name: str
    last_message_id: Snowflake | None = None
    rate_limit_per_user: int = 0
    message_count: int = 0
    total_message_sent: int = 0
    member_count: int = 0
    flags: int = 0
    applied_tags: tuple[Snowflake, ...] = ()
    thread_metadata: ThreadMetadata
    # One's own membership, where it is told to a member of it.
    member: ThreadMember | msgspec.UnsetType = msgspec.UNSET
    newly_created: bool | msgspec.UnsetType = msgspec.UNSET


class AddedThreadMember(ThreadMember, frozen=True, kw_only=True):
    """A member of a thread as the others are told of it; who is there is told elsewhere."""

    member: Member
    presence: None = None


class ThreadMembers(msgspec.Struct, frozen=True, kw_only=True):
    """Who came into a thread or went, and how many are in it since."""

    id: Snowflake
    guild_id: Snowflake
    member_count: int
    added_members: tuple[AddedThreadMember, ...] | msgspec.UnsetType = msgspec.UNSET
    removed_member_ids: tuple[Snowflake, ...] | msgspec.UnsetType = msgspec.UNSET


class LeftThread(msgspec.Struct, frozen=True, kw_only=True):
    """An active thread that somebody was in who left its guild."""

    id: Snowflake
    parent_id: Snowflake
    member_count: int
    # Who remains in it, if it is a private one.
    members: tuple[Snowflake, ...] | None


class Guild(msgspec.Struct, frozen=True, kw_only=True):
    """What all views of a guild have in common. Client libraries insist on each field."""

    id: Snowflake
    name: str
    description: str | None = None
    owner_id: Snowflake
    discoverable: bool = False
    features: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    icon: str | None = None
    splash: str | None = None
    discovery_splash: str | None = None
    banner: str | None = None
    application_id: Snowflake | None = None
    afk_channel_id: Snowflake | None = None
    afk_timeout: int = 300
    verification_level: int = 0
    default_message_notifications: int = 0
    explicit_content_filter: int = 0
    emojis: tuple[()] = ()
    stickers: tuple[()] = ()
    mfa_level: int = 0
    system_channel_id: Snowflake | None = None
    system_channel_flags: int = 0
    rules_channel_id: Snowflake | None = None
    public_updates_channel_id: Snowflake | None = None
    safety_alerts_channel_id: Snowflake | None = None
    vanity_url_code: str | None = None
    premium_tier: int = 0
    premium_subscription_count: int = 0
    premium_progress_bar_enabled: bool = False
    preferred_locale: str = "en-US"
    nsfw_level: int = 0
    max_presences: int | None = None
    max_members: int = MAX_MEMBERS


class GuildDetails(Guild, frozen=True, kw_only=True):
    """A guild as REST answers it; its channels stand in the answers that bring one into it."""

    approximate_member_count: int
    # Where it was asked for.
    approximate_presence_count: int | msgspec.UnsetType = msgspec.UNSET
    channels: tuple[GuildChannel, ...] | msgspec.UnsetType = msgspec.UNSET


class GuildPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What those see of a guild who think of joining it."""

    id: Snowflake
    name: str
    icon: str | None
    description: str | None
    home_header: str | None = None
    splash: str | None = None
    discovery_splash: str | None = None
    features: tuple[str, ...]
    emojis: tuple[()] = ()
    stickers: tuple[()] = ()
    approximate_member_count: int
    approximate_presence_count: int


class PublicGuild(msgspec.Struct, frozen=True, kw_only=True):
    """A guild as those who may join it see it in the list."""

    id: Snowflake
    name: str
    description: str | None
    icon: str | None = None
    banner: str | None = None
    features: tuple[str, ...] = ()
    approximate_member_count: int


class OwnGuild(PublicGuild, frozen=True, kw_only=True):
    """A guild as a member sees it in the list of one's own."""

    owner: bool
    permissions: str


class GuildState(Guild, frozen=True, kw_only=True):
    """Everything that a client needs to show a guild: the payload of GUILD_CREATE."""

    joined_at: Timestamp
    large: bool
    unavailable: bool = False
    member_count: int
    members: tuple[Member, ...]
    channels: tuple[GuildChannel, ...]
    # The active ones that the member may see.
    threads: tuple[Thread, ...] = ()
    # Filled for the session that it is told to; an event of the log has none.
    presences: tuple[Presence, ...] = ()
    voice_states: tuple[()] = ()
    stage_instances: tuple[()] = ()
    guild_scheduled_events: tuple[()] = ()
    soundboard_sounds: tuple[()] = ()


class GuildRow(msgspec.Struct, frozen=True, kw_only=True):
    """A guild as it is stored."""

    id: Snowflake
    name: str
    description: str | None
    owner_id: Snowflake
    discoverable: bool
    member_count: int
    icon: str | None = None
    verification_level: int = 0
    default_message_notifications: int = 0
    explicit_content_filter: int = 0
    system_channel_id: Snowflake | None = None
    system_channel_flags: int = 0
    rules_channel_id: Snowflake | None = None
    preferred_locale: str = "en-US"


class GuildSources(msgspec.Struct, frozen=True, kw_only=True):
    """All of a guild that decides who sees what in it, whoever looks."""

    guild_id: Snowflake
    owner_id: Snowflake
    roles: tuple[Role, ...]
    channels: tuple[GuildChannel, ...]
    # The active ones, each with its members.
    threads: tuple[tuple[Thread, tuple[ThreadMember, ...]], ...]


class Icon(msgspec.Struct, frozen=True, kw_only=True):
    """The picture of a guild. It has one address as long as it is the same."""

    hash: str
    media_type: str
    data: bytes


class OwnMembership(msgspec.Struct, frozen=True, kw_only=True):
    """What a guild's state depends on for one of its members."""

    user_id: Snowflake
    joined_at: Timestamp
    # Also those that are no more.
    roles: tuple[Snowflake, ...]


# How high a role stands: by position and, of the same one, the older one above.
Rank: TypeAlias = tuple[int, int]


class GuildAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A guild that the actor is in, and what the actor may do there."""

    guild: GuildRow
    member: Member
    permissions: int
    standing: Standing
    # That of the highest role.
    rank: Rank

    @property
    def is_owner(self) -> bool:
        return self.guild.owner_id == self.member.user.id

    def may(self, needs: Permission) -> bool:
        return self.permissions & int(needs) == int(needs)

    def outranks(self, rank: Rank) -> bool:
        """Whether the actor may act on a role of this rank, or on who has nothing above it."""
        return self.is_owner or self.rank > rank

    def may_act_on(self, other: "GuildAccess") -> bool:
        """Whether the actor stands above another member. Nobody stands above the owner."""
        return not other.is_owner and self.outranks(other.rank)


# Events.


class GuildCreated(Event, frozen=True, kw_only=True):
    """A guild appeared for one account: it made the guild or joined it."""

    type: ClassVar[str] = "GUILD_CREATE"
    user_id: Snowflake
    state: GuildState

    @override
    def audience(self) -> Audience:
        return Audience(users=(self.user_id,), guild_id=self.state.id)

    @override
    def payload(self) -> GuildState:
        return self.state


class GuildUpdated(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_UPDATE"
    guild: Guild
    is_handed_over: bool = False

    @override
    def reshapes(self) -> Snowflake | None:
        return Snowflake(0) if self.is_handed_over else None

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.guild.id)

    @override
    def payload(self) -> Guild:
        return self.guild


class GoneGuild(msgspec.Struct, frozen=True, kw_only=True):
    """A guild that is gone for good; `unavailable: true` would mean that it comes back."""

    id: Snowflake
    unavailable: bool = False


class GuildDeleted(Event, frozen=True, kw_only=True):
    """A guild is gone for these accounts: deleted, or left by them."""

    type: ClassVar[str] = "GUILD_DELETE"
    guild_id: Snowflake
    users: tuple[Snowflake, ...]
    # Its channels when it was deleted: what was said in them is told no more.
    channels: tuple[Snowflake, ...] = ()

    @override
    def audience(self) -> Audience:
        return Audience(users=self.users, guild_id=self.guild_id)

    @override
    def retracts_channels(self) -> tuple[Snowflake, ...]:
        return self.channels

    @override
    def payload(self) -> GoneGuild:
        return GoneGuild(id=self.guild_id)


class MemberOfGuild(Member, frozen=True, kw_only=True):
    guild_id: Snowflake


class MemberJoined(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_MEMBER_ADD"
    member: MemberOfGuild

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.member.guild_id)

    @override
    def payload(self) -> MemberOfGuild:
        return self.member


class MemberUpdated(MemberJoined, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_MEMBER_UPDATE"
    # Whether the roles are others than before.
    has_other_roles: bool = False

    @override
    def reshapes(self) -> Snowflake | None:
        return self.member.user.id if self.has_other_roles else None


class MemberLeft(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_MEMBER_REMOVE"
    guild_id: Snowflake
    user: User

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.guild_id)


class ThreadMembersUpdated(Event, frozen=True, kw_only=True):
    """Here, because who leaves a guild leaves its threads."""

    type: ClassVar[str] = "THREAD_MEMBERS_UPDATE"
    change: ThreadMembers
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> ThreadMembers:
        return self.change
