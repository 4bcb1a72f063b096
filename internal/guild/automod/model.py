"""Automatic moderation: rules that look at messages before people do."""

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.permission.model import Standing
from internal.user.model import User
from internal.utils.snowflake import Snowflake
from internal.utils.validator import NO_NUL, ONE_LINE

KEYWORD: Final = 1
SPAM: Final = 3
MENTION_SPAM: Final = 5
# How many rules of each kind a guild may have.
MAX_RULES: Final = {KEYWORD: 6, SPAM: 1, MENTION_SPAM: 1}

BLOCK: Final = 1
ALERT: Final = 2
TIMEOUT: Final = 3
_MAX_TIMEOUT_S: Final = 28 * 24 * 3600

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=ONE_LINE)]
Keyword = Annotated[str, msgspec.Meta(min_length=1, max_length=60, pattern=NO_NUL)]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=260, pattern=NO_NUL)]
ExemptRoles = Annotated[list[Snowflake], msgspec.Meta(max_length=20)]
ExemptChannels = Annotated[list[Snowflake], msgspec.Meta(max_length=50)]


class TriggerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule looks for. What its kind does not have is absent."""

    keyword_filter: (
        Annotated[list[Keyword], msgspec.Meta(max_length=1000)] | msgspec.UnsetType | None
    ) = msgspec.UNSET
    regex_patterns: (
        Annotated[list[Pattern], msgspec.Meta(max_length=10)] | msgspec.UnsetType | None
    ) = msgspec.UNSET
    allow_list: (
        Annotated[list[Keyword], msgspec.Meta(max_length=100)] | msgspec.UnsetType | None
    ) = msgspec.UNSET
    mention_total_limit: Annotated[int, msgspec.Meta(ge=0, le=50)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )
    mention_raid_protection_enabled: bool | msgspec.UnsetType | None = msgspec.UNSET


class ActionMetadata(msgspec.Struct, frozen=True, kw_only=True):
    # Of a block: what the author is told.
    custom_message: (
        Annotated[str, msgspec.Meta(max_length=300, pattern=NO_NUL)] | msgspec.UnsetType | None
    ) = msgspec.UNSET
    # Of an alert.
    channel_id: Snowflake | msgspec.UnsetType | None = msgspec.UNSET
    # Of a timeout.
    duration_seconds: (
        Annotated[int, msgspec.Meta(ge=1, le=_MAX_TIMEOUT_S)] | msgspec.UnsetType | None
    ) = msgspec.UNSET


class AutomodAction(msgspec.Struct, frozen=True, kw_only=True):
    """What is done: 1 blocks the message, 2 alerts a channel, 3 times its author out."""

    type: Literal[1, 2, 3]
    metadata: ActionMetadata = ActionMetadata()


Actions = Annotated[list[AutomodAction], msgspec.Meta(min_length=1, max_length=5)]


# Requests.


class CreateRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule to be. Of the documented kinds there are 1, 3 and 5."""

    name: Name
    event_type: Literal[1]
    trigger_type: Annotated[int, msgspec.Meta(ge=1, le=6)]
    trigger_metadata: TriggerMetadata | None = None
    actions: Actions
    enabled: bool | None = None
    exempt_roles: ExemptRoles | None = None
    exempt_channels: ExemptChannels | None = None


class UpdateRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule is to be. Its kind stays."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    event_type: Literal[1] | msgspec.UnsetType = msgspec.UNSET
    trigger_metadata: TriggerMetadata | msgspec.UnsetType | None = msgspec.UNSET
    actions: Actions | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType | None = msgspec.UNSET
    exempt_roles: ExemptRoles | msgspec.UnsetType | None = msgspec.UNSET
    exempt_channels: ExemptChannels | msgspec.UnsetType | None = msgspec.UNSET


# Objects.


class AutomodRule(msgspec.Struct, frozen=True, kw_only=True):
    id: Snowflake
    guild_id: Snowflake
    name: str
    creator_id: Snowflake
    event_type: int = 1
    trigger_type: int
    trigger_metadata: TriggerMetadata
    actions: tuple[AutomodAction, ...]
    enabled: bool
    exempt_roles: tuple[Snowflake, ...]
    exempt_channels: tuple[Snowflake, ...]

    def action(self, kind: int) -> ActionMetadata | None:
        return next((one.metadata for one in self.actions if one.type == kind), None)


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is about to be said."""

    guild_id: Snowflake
    channel_id: Snowflake
    # The category of the channel, or the channel of the thread.
    parent_id: Snowflake | None
    standing: Standing
    content: str
    # What was said before is not said again by being changed.
    is_edit: bool = False


class Match(msgspec.Struct, frozen=True):
    """A rule that something falls under, and by what."""

    rule: AutomodRule
    keyword: str | None = None
    content: str | None = None


class Finding(msgspec.Struct, frozen=True):
    """The rules that something falls under."""

    matches: tuple[Match, ...] = ()
    # There was no time to look: it has to come again.
    is_overdue: bool = False

    @property
    def is_blocked(self) -> bool:
        return any(match.rule.action(BLOCK) is not None for match in self.matches)

    @property
    def custom_message(self) -> str | None:
        """What the author is told, by the first rule that says anything."""
        blocks = (match.rule.action(BLOCK) for match in self.matches)
        said = (block.custom_message for block in blocks if block is not None)
        return next((one for one in said if one), None)


NO_FINDING: Final = Finding()
OVERDUE: Final = Finding(is_overdue=True)


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found and is to be acted upon."""

    id: Snowflake
    guild_id: Snowflake
    rule_id: Snowflake
    author_id: Snowflake
    channel_id: Snowflake
    # None for a message that was blocked.
    message_id: Snowflake | None
    # What a repetition is known by.
    key: str | None
    content: str
    matched_keyword: str | None
    matched_content: str | None


class OpenHit(msgspec.Struct, frozen=True, kw_only=True):
    """A hit with what acting upon it takes."""

    hit: Hit
    rule: AutomodRule
    author: User
    timed_out_until: datetime | None


# Events.


class RuleCreated(Event, frozen=True, kw_only=True):
    """For those who manage the guild."""

    type: ClassVar[str] = "AUTO_MODERATION_RULE_CREATE"
    rule: AutomodRule
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        return Audience(users=self.users, guild_id=self.rule.guild_id)

    @override
    def payload(self) -> AutomodRule:
        return self.rule


class RuleUpdated(RuleCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "AUTO_MODERATION_RULE_UPDATE"


class RuleDeleted(RuleCreated, frozen=True, kw_only=True):
    type: ClassVar[str] = "AUTO_MODERATION_RULE_DELETE"


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One action that was taken."""

    guild_id: Snowflake
    action: AutomodAction
    rule_id: Snowflake
    rule_trigger_type: int
    user_id: Snowflake
    channel_id: Snowflake
    message_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    alert_system_message_id: Snowflake | msgspec.UnsetType = msgspec.UNSET
    content: str
    matched_keyword: str | None
    matched_content: str | None


class ActionExecuted(Event, frozen=True, kw_only=True):
    """For those who manage the guild."""

    type: ClassVar[str] = "AUTO_MODERATION_ACTION_EXECUTION"
    execution: Execution
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        return Audience(users=self.users, guild_id=self.execution.guild_id)

    @override
    def payload(self) -> Execution:
        return self.execution
