"""The channels of a guild together: their order, their categories and their overwrites."""

from typing import Annotated, Literal

import msgspec

from internal.channel.model import Bits, Position
from internal.guild.model import GuildChannel
from internal.permission.model import Permission
from internal.utils.snowflake import Snowflake

# Whether somebody sees a channel, or the private threads in it, depends on these.
_SHAPING = int(Permission.VIEW_CHANNEL | Permission.MANAGE_THREADS)


class PutOverwrite(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel is to allow and deny to a role (type 0) or a member (type 1)."""

    type: Literal[0, 1]
    allow: Bits | None = None
    deny: Bits | None = None


class MoveChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A new place for a channel."""

    id: Snowflake
    position: Position | None = None
    # Take over the overwrites of the category.
    lock_permissions: bool | None = None
    parent_id: Snowflake | msgspec.UnsetType | None = msgspec.UNSET


# As many as a guild has channels.
MoveChannels = Annotated[list[MoveChannel], msgspec.Meta(min_length=1, max_length=500)]


def reshapes(old: GuildChannel, new: GuildChannel) -> bool:
    """Whether others may see the channel after a change of its overwrites."""
    return _shape(old) != _shape(new)


def _shape(channel: GuildChannel) -> dict[Snowflake, tuple[int, int, int]]:
    rules = ((one.id, one.type, one.rule()) for one in channel.permission_overwrites)
    shape = {id_: (kind, rule.allow & _SHAPING, rule.deny & _SHAPING) for id_, kind, rule in rules}
    return {id_: part for id_, part in shape.items() if part[1] or part[2]}
