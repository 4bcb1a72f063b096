"""Bans: who may not come back to a guild."""

from typing import Annotated, ClassVar, Final

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.user.model import User
from internal.utils.snowflake import Snowflake

MAX_BULK_BAN: Final = 200
_DAY_S: Final = 24 * 3600
_WEEK_S: Final = 7 * _DAY_S

Seconds = Annotated[int, msgspec.Meta(ge=0, le=_WEEK_S)]


# Requests.


class BanUser(msgspec.Struct, frozen=True, kw_only=True):
    """How far back the messages of who is banned are deleted."""

    delete_message_seconds: Seconds | None = None
    # The same in days, as older clients send it.
    delete_message_days: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None

    @property
    def seconds(self) -> int:
        if self.delete_message_seconds is not None:
            return self.delete_message_seconds
        return (self.delete_message_days or 0) * _DAY_S


class BulkBan(msgspec.Struct, frozen=True, kw_only=True):
    user_ids: Annotated[list[Snowflake], msgspec.Meta(min_length=1, max_length=MAX_BULK_BAN)]
    delete_message_seconds: Seconds | None = None


class BanPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of bans, by the ids of the banned. Of the two anchors `before` goes first."""

    before: Snowflake | None = None
    after: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000


# Objects.


class Ban(msgspec.Struct, frozen=True, kw_only=True):
    user: User
    reason: str | None


class BulkBanned(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each one."""

    banned_users: tuple[Snowflake, ...]
    # Those who were banned already, too.
    failed_users: tuple[Snowflake, ...]


# Events.


class BanAdded(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_BAN_ADD"
    guild_id: Snowflake
    user: User

    @override
    def audience(self) -> Audience:
        return Audience(guild_id=self.guild_id)


class BanRemoved(BanAdded, frozen=True, kw_only=True):
    type: ClassVar[str] = "GUILD_BAN_REMOVE"
