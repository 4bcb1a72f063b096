"""Roles: what members of a guild have in common, and may do because of it."""

from typing import Annotated, ClassVar, Final, TypeAlias

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.guild.model import Name, Rank, Role
from internal.permission.model import Permission
from internal.utils.snowflake import Snowflake
from internal.utils.validator import ONE_LINE

# That of @everyone included.
MAX_ROLES: Final = 250
DEFAULT_NAME: Final = "new role"
# Gaining or losing one of these changes which channels somebody sees.
SEEING: Final = int(Permission.VIEW_CHANNEL | Permission.ADMINISTRATOR)
# What of a role is written down when it changes.
AUDITED: Final = ("name", "permissions", "color", "hoist", "mentionable", "unicode_emoji")

Color = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)]
# Existing libraries send sets of permissions as numbers, too.
Bits: TypeAlias = (
    Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}\Z")] | Annotated[int, msgspec.Meta(ge=0)]
)
UnicodeEmoji = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=ONE_LINE)]


# Requests.


class WantedColors(msgspec.Struct, frozen=True, kw_only=True):
    """The colours of a role. There is only the first: gradients are refused."""

    primary_color: Color | None = None
    secondary_color: None = None
    tertiary_color: None = None


class UpdateRole(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a role. Null takes a colour or an emoji away; of the rest it changes nothing."""

    name: Name | msgspec.UnsetType | None = msgspec.UNSET
    permissions: Bits | msgspec.UnsetType | None = msgspec.UNSET
    color: Color | msgspec.UnsetType | None = msgspec.UNSET
    colors: WantedColors | msgspec.UnsetType | None = msgspec.UNSET
    hoist: bool | msgspec.UnsetType | None = msgspec.UNSET
    mentionable: bool | msgspec.UnsetType | None = msgspec.UNSET
    unicode_emoji: UnicodeEmoji | msgspec.UnsetType | None = msgspec.UNSET
    # Pictures of roles are not there.
    icon: msgspec.UnsetType | None = msgspec.UNSET


class CreateRole(UpdateRole, frozen=True, kw_only=True):
    """A wish for a new role; what is not said is as in the role @everyone, or empty."""


class MoveRole(msgspec.Struct, frozen=True, kw_only=True):
    """Where a role is to stand, counted from below; @everyone is at 0 and stays there."""

    id: Snowflake
    position: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None


MoveRoles: TypeAlias = Annotated[list[MoveRole], msgspec.Meta(max_length=MAX_ROLES)]


# Events.


class RoleOfGuild(msgspec.Struct, frozen=True, kw_only=True):
    guild_id: Snowflake
    role: Role


class RoleCreated(Event, frozen=True, kw_only=True):
    """A role appeared. Nobody has it yet."""

    type: ClassVar[str] = "GUILD_ROLE_CREATE"
    guild_id: Snowflake
    role: Role

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.guild_id)

    @override
    def payload(self) -> RoleOfGuild:
        return RoleOfGuild(guild_id=self.guild_id, role=self.role)


class RoleUpdated(RoleCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_ROLE_UPDATE"
    # Whether those who have it may see other channels than before.
    has_other_sight: bool = False

    @override
    def reshapes(self) -> Snowflake | None:
        return Snowflake(0) if self.has_other_sight else None


class GoneRole(msgspec.Struct, frozen=True, kw_only=True):
    guild_id: Snowflake
    role_id: Snowflake


class RoleDeleted(Event, frozen=True, kw_only=True):
    """A role is gone, from all members who had it, too: there is no event for each of them."""

    type: ClassVar[str] = "GUILD_ROLE_DELETE"
    guild_id: Snowflake
    role_id: Snowflake
    has_other_sight: bool

    @override
    def reshapes(self) -> Snowflake | None:
        return Snowflake(0) if self.has_other_sight else None

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.guild_id)

    @override
    def payload(self) -> GoneRole:
        return GoneRole(guild_id=self.guild_id, role_id=self.role_id)


def rank_of(role: Role) -> Rank:
    """How high a role stands: of two at one position, the older one above."""
    return role.position, -role.id


def reordered(roles: list[Role], wishes: dict[Snowflake, int]) -> list[Role]:
    """All roles but @everyone, lowest first, with those of `wishes` where they are wanted.

    The others keep their order and fill what is left, so that one wish alone moves one role, and
    wishes for all of them are met to the letter.
    """
    old = sorted(roles, key=rank_of)
    slots: list[Role | None] = [None] * len(old)
    moved = [role for role in old if role.id in wishes]
    for role in sorted(moved, key=lambda role: wishes[role.id]):
        wanted = min(wishes[role.id], len(old)) - 1
        # The nearest one that is free, above if there is one.
        places = (*range(wanted, len(old)), *range(wanted - 1, -1, -1))
        slots[next(place for place in places if slots[place] is None)] = role
    rest = iter(role for role in old if role.id not in wishes)
    return [next(rest) if role is None else role for role in slots]
