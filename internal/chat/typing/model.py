"""Typing: that somebody is writing. It is told to who is there and kept nowhere."""

from typing import ClassVar

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.guild.model import Member
from internal.utils.snowflake import Snowflake


class Typing(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: Snowflake
    user_id: Snowflake
    # Unix time in whole seconds, as client libraries expect it.
    timestamp: int
    guild_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    member: Member | msgspec.UnsetType = msgspec.UNSET


class TypingStarted(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "TYPING_START"
    typing: Typing
    to: Audience

    @override
    def audience(self) -> Audience:
        return self.to

    @override
    def payload(self) -> Typing:
        return self.typing
