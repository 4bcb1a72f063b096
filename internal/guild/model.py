"""Guilds: communities with members, roles and channels."""

from typing import Annotated, ClassVar, Final

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.permission.model import Permission
from internal.presence.model import Presence
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL, ONE_LINE

MAX_GUILDS_OF_USER: Final = 200
MAX_MEMBERS: Final = 1_000_000
# Above this many members a guild is large: GUILD_CREATE carries no more than these and one's own.
LARGE: Final = 250
# Deleting a guild or a channel deletes so many of its messages at once; the rest is purged later,
# so that nobody waits for millions.
DELETED_AT_ONCE: Final = 1000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=ONE_LINE)]
Description = Annotated[str, msgspec.Meta(max_length=300, pattern=NO_NUL)]


# Requests.


class CreateGuild(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    description: Description | None = None
    discoverable: bool = False


class UpdateGuild(msgspec.Struct, frozen=True, kw_only=True):
    name: Name | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType | None = msgspec.UNSET
    discoverable: bool | msgspec.UnsetType = msgspec.UNSET
    owner_id: Snowflake | msgspec.UnsetType = msgspec.UNSET


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


class GuildChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel of a guild. Here, because it is a part of what its guild shows."""

    id: Snowflake
    type: int = 0
    guild_id: Snowflake
    name: str
    position: int
    permission_overwrites: tuple[()] = ()
    topic: str | None = None
    nsfw: bool = False
    rate_limit_per_user: int = 0
    parent_id: Snowflake | None = None
    last_message_id: Snowflake | None = None
    flags: int = 0


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
    channels: tuple[GuildChannel, ...] | msgspec.UnsetType = msgspec.UNSET


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
    threads: tuple[()] = ()
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


class GuildAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A guild that the actor is in, and what the actor may do there."""

    guild: GuildRow
    member: Member
    permissions: int

    @property
    def is_owner(self) -> bool:
        return self.guild.owner_id == self.member.user.id

    def may(self, needs: Permission) -> bool:
        return self.permissions & int(needs) == int(needs)


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


class MemberLeft(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_MEMBER_REMOVE"
    guild_id: Snowflake
    user: User

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.guild_id)
