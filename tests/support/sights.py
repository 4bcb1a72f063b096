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
    ThreadMetadata,
)
from internal.permission.model import EVERYONE_DEFAULT, Overwrite
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake

OWNER = 99
_NOW = Timestamp("2026-01-02T03:04:05.000000+00:00")


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


def thread(
    thread_id: int, parent: int, guild_id: int, *, kind: int = 11, archived: bool = False
) -> Thread:
    return Thread(
        id=Snowflake(thread_id),
        type=kind,
        guild_id=Snowflake(guild_id),
        parent_id=Snowflake(parent),
        owner_id=Snowflake(OWNER),
        name=f"thread {thread_id}",
        message_count=2,
        thread_metadata=ThreadMetadata(
            archived=archived,
            auto_archive_duration=60,
            archive_timestamp=_NOW,
            locked=False,
            create_timestamp=_NOW,
        ),
    )


def membership(thread_id: int, user_id: int) -> ThreadMember:
    return ThreadMember(id=Snowflake(thread_id), user_id=Snowflake(user_id), join_timestamp=_NOW)


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
