"""Invites: codes that let people into a guild."""

from datetime import datetime
from typing import Annotated, ClassVar, Final, Protocol

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

MAX_INVITES_OF_GUILD: Final = 1000
_DAY_S: Final = 24 * 3600
_WEEK_S: Final = 7 * _DAY_S


# Requests.


class CreateInvite(msgspec.Struct, frozen=True, kw_only=True):
    """How long an invite is good, for how many, and whether who comes by it stays."""

    max_age: Annotated[int, msgspec.Meta(ge=0, le=_WEEK_S)] | None = None
    max_uses: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    temporary: bool | None = None
    # Whether to make another one though one's own of the same kind is there.
    unique: bool | None = None

    @property
    def seconds(self) -> int:
        return _DAY_S if self.max_age is None else self.max_age


class InvitePage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of invites, by their codes."""

    after: Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[0-9A-Za-z]*\Z")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_INVITES_OF_GUILD)] = MAX_INVITES_OF_GUILD


class InviteQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to say how many members there are. When it expires is always said."""

    with_counts: bool = False
    with_expiration: bool = True


# Objects.


class InvitedGuild(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a guild to who has an invite to it."""

    id: Snowflake
    name: str
    splash: str | None = None
    banner: str | None = None
    description: str | None
    icon: str | None
    features: tuple[str, ...]
    verification_level: int
    vanity_url_code: str | None = None
    nsfw_level: int = 0
    nsfw: bool = False
    premium_subscription_count: int = 0


class InvitedChannel(msgspec.Struct, frozen=True, kw_only=True):
    id: Snowflake
    type: int
    name: str


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """An invite, as whoever knows its code may see it."""

    type: int = 0
    code: str
    guild_id: Snowflake
    guild: InvitedGuild
    channel: InvitedChannel
    inviter: User
    flags: int = 0
    expires_at: Timestamp | msgspec.UnsetType | None = None
    approximate_member_count: int | msgspec.UnsetType = msgspec.UNSET
    approximate_presence_count: int | msgspec.UnsetType = msgspec.UNSET


class InviteDetails(Invite, frozen=True, kw_only=True):
    """An invite with what only its guild is told of it."""

    uses: int
    max_uses: int
    max_age: int
    temporary: bool
    created_at: Timestamp


class AcceptedInvite(Invite, frozen=True, kw_only=True):
    # False for who was a member already.
    new_member: bool


class InviteRow(msgspec.Struct, frozen=True, kw_only=True):
    """An invite as it is stored, with those whom it shows."""

    code: str
    guild_id: Snowflake
    channel: InvitedChannel
    inviter: User
    max_age: int
    max_uses: int
    uses: int
    temporary: bool
    created_at: datetime
    expires_at: datetime | None


class SeenChannel(Protocol):
    """A channel that the actor may see."""

    @property
    def channel_id(self) -> Snowflake: ...
    @property
    def type(self) -> int: ...
    @property
    def guild_id(self) -> Snowflake | None: ...


# Events.


class NewInvite(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: Snowflake
    guild_id: Snowflake
    code: str
    inviter: User
    created_at: Timestamp
    expires_at: Timestamp | None
    max_age: int
    max_uses: int
    uses: int
    temporary: bool


class InviteCreated(Event, frozen=True, kw_only=True):
    """For those who manage the guild or its channels, as they were when it was made."""

    type: ClassVar[str] = "INVITE_CREATE"
    invite: NewInvite
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        # Of those, who may see the channel.
        return Audience(
            users=self.users, guild_id=self.invite.guild_id, parent_id=self.invite.channel_id
        )

    @override
    def payload(self) -> NewInvite:
        return self.invite


class GoneInvite(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: Snowflake
    guild_id: Snowflake
    code: str


class InviteDeleted(Event, frozen=True, kw_only=True):
    """It was taken back, used up, or expired."""

    type: ClassVar[str] = "INVITE_DELETE"
    invite: GoneInvite
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        # Of those, who may see the channel.
        return Audience(
            users=self.users, guild_id=self.invite.guild_id, parent_id=self.invite.channel_id
        )

    @override
    def payload(self) -> GoneInvite:
        return self.invite
