"""Reports: messages that somebody wants a guild's moderators to look at."""

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from typing_extensions import override

from internal.chat.message.model import Message
from internal.events import Audience, Event
from internal.user.model import User
from internal.utils.json import Timestamp
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL

MAX_TEXT: Final = 512

Category: TypeAlias = Literal[
    "spam", "harassment", "hate", "sexual", "violence", "self_harm", "illegal", "other"
]
Status: TypeAlias = Literal["open", "resolved", "dismissed"]
Verdict: TypeAlias = Literal["resolved", "dismissed"]


# Requests.


class ReportMessage(msgspec.Struct, frozen=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT, pattern=NO_NUL)]
    category: Category = "other"


class ResolveReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a report. The note is for the other moderators."""

    status: Verdict
    note: Annotated[str, msgspec.Meta(max_length=MAX_TEXT, pattern=NO_NUL)] | None = None


class ReportPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of reports, newest first, or with `after` oldest first."""

    status: Annotated[str, msgspec.Meta(pattern=r"^(open|resolved|dismissed)\Z")] | None = None
    before: Snowflake | None = None
    after: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


# Objects.


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A report, with the message as it was then."""

    id: Snowflake
    guild_id: Snowflake
    channel_id: Snowflake
    message_id: Snowflake
    reporter: User
    reason: str
    category: Category
    created_at: Timestamp
    message: Message
    status: Status = "open"
    note: str | None = None
    resolver: User | None = None
    resolved_at: Timestamp | None = None


class Filed(msgspec.Struct, frozen=True, kw_only=True):
    """A report, and where it is from, which says who may see it."""

    report: Report
    # That of a thread, or the channel itself.
    root_id: Snowflake
    # Whether it is from a private thread.
    is_private: bool


class Readable(msgspec.Struct, frozen=True, kw_only=True):
    """Which reports of a guild somebody may see. Nobody sees those of the own messages."""

    user_id: Snowflake
    # None for all, also of channels that are gone.
    channels: tuple[Snowflake, ...] | None
    # Those of them whose private threads count, too; None for all.
    private_threads: tuple[Snowflake, ...] | None


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    status: Verdict
    note: str | None
    resolver_id: Snowflake
    at: datetime


# Events.


class MessageReported(Event, frozen=True, kw_only=True):
    """For those who moderate the channel and may read it."""

    type: ClassVar[str] = "MESSAGE_REPORT_CREATE"
    filed: Filed
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        return Audience(
            users=self.users,
            guild_id=self.filed.report.guild_id,
            channel_id=self.filed.report.channel_id,
            parent_id=self.filed.root_id,
        )

    @override
    def payload(self) -> Report:
        return self.filed.report


class MessageReportUpdated(MessageReported, frozen=True, kw_only=True):
    type: ClassVar[str] = "MESSAGE_REPORT_UPDATE"
