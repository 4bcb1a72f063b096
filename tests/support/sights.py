"""Sights for unit tests: guilds with as many channels and roles as the test names."""

from collections.abc import Iterable, Mapping

from internal.chat.ws.sight import Sight
from internal.guild.model import (
    ChannelOverwrite,
    GuildChannel,
    GuildSources,
    Role,
    RoleColors,
    Thread,
    ThreadMember,
)
from internal.permission.model import EVERYONE_DEFAULT, Overwrite
from internal.utils.snowflake import Snowflake

OWNER = 99


def role(role_id: int, bits: int) -> Role:
    return Role(
        id=Snowflake(role_id), name=f"role {role_id}", colors=RoleColors(), permissions=str(bits)
    )


def channel(guild_id: int, channel_id: int, *rules: Overwrite) -> GuildChannel:
    return GuildChannel(
        id=Snowflake(channel_id),
        guild_id=Snowflake(guild_id),
        name=f"channel {channel_id}",
        position=0,
        permission_overwrites=tuple(
            ChannelOverwrite(
                id=Snowflake(rule.id),
                type=int(rule.is_member),
                allow=str(rule.allow),
                deny=str(rule.deny),
            )
            for rule in rules
        ),
    )


def sight(
    guild_id: int,
    *channels: GuildChannel,
    everyone: int = EVERYONE_DEFAULT,
    roles: Mapping[int, int] | None = None,
    threads: Iterable[tuple[Thread, tuple[ThreadMember, ...]]] = (),
) -> Sight:
    """The sight of a guild with these channels; its roles by their bits, beside @everyone."""
    bits = {guild_id: everyone, **(roles or {})}
    return Sight.of(
        GuildSources(
            guild_id=Snowflake(guild_id),
            owner_id=Snowflake(OWNER),
            roles=tuple(role(role_id, one) for role_id, one in bits.items()),
            channels=channels,
            threads=tuple(threads),
        )
    )
