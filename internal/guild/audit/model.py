"""The audit log: who did what in a guild's administration, and why."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, ClassVar, Final

import msgspec
from typing_extensions import override

from internal.events import Audience, Event
from internal.user.model import User
from internal.utils.snowflake import Snowflake

MAX_REASON: Final = 512


class Action(IntEnum):
    """The documented numbers of the kinds of acts."""

    GUILD_UPDATE = 1
    CHANNEL_CREATE = 10
    CHANNEL_UPDATE = 11
    CHANNEL_DELETE = 12
    CHANNEL_OVERWRITE_CREATE = 13
    CHANNEL_OVERWRITE_UPDATE = 14
    CHANNEL_OVERWRITE_DELETE = 15
    MEMBER_KICK = 20
    MEMBER_PRUNE = 21
    MEMBER_BAN_ADD = 22
    MEMBER_BAN_REMOVE = 23
    MEMBER_UPDATE = 24
    MEMBER_ROLE_UPDATE = 25
    BOT_ADD = 28
    ROLE_CREATE = 30
    ROLE_UPDATE = 31
    ROLE_DELETE = 32
    INVITE_CREATE = 40
    INVITE_UPDATE = 41
    INVITE_DELETE = 42
    MESSAGE_DELETE = 72
    MESSAGE_BULK_DELETE = 73
    THREAD_CREATE = 110
    THREAD_UPDATE = 111
    THREAD_DELETE = 112
    AUTO_MODERATION_RULE_CREATE = 140
    AUTO_MODERATION_RULE_UPDATE = 141
    AUTO_MODERATION_RULE_DELETE = 142
    AUTO_MODERATION_BLOCK_MESSAGE = 143
    AUTO_MODERATION_FLAG_TO_CHANNEL = 144
    AUTO_MODERATION_USER_COMMUNICATION_DISABLED = 145
    # Ours: a message that was reported, and what became of the report.
    REPORT_RESOLVE = 1000


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is another than before; what was not there then, or is not now, is absent."""

    key: str
    old_value: Any = msgspec.UNSET
    new_value: Any = msgspec.UNSET


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """An act to be written down. Without an actor the server itself did it."""

    guild_id: Snowflake
    actor: Snowflake | None
    action: Action
    target: Snowflake | None = None
    changes: tuple[Change, ...] = ()
    options: Mapping[str, object] = {}
    reason: str | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One act."""

    id: Snowflake
    user_id: Snowflake | None
    target_id: Snowflake | None
    action_type: int
    changes: tuple[Change, ...] | msgspec.UnsetType = msgspec.UNSET
    options: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the log, newest first, or with `after` oldest first."""

    user_id: Snowflake | None = None
    action_type: Annotated[int, msgspec.Meta(ge=0, le=32767)] | None = None
    target_id: Snowflake | None = None
    before: Snowflake | None = None
    after: Snowflake | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class AuditLog(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the log, and the accounts that are named in it."""

    audit_log_entries: tuple[AuditEntry, ...]
    users: tuple[User, ...]
    # Client libraries look for these, too.
    application_commands: tuple[()] = ()
    auto_moderation_rules: tuple[()] = ()
    guild_scheduled_events: tuple[()] = ()
    integrations: tuple[()] = ()
    threads: tuple[()] = ()
    webhooks: tuple[()] = ()


class EntryOfGuild(AuditEntry, frozen=True, kw_only=True):
    guild_id: Snowflake


class AuditEntryCreated(Event, frozen=True, kw_only=True):
    """For those who may read the log, as they were when it was written."""

    type: ClassVar[str] = "GUILD_AUDIT_LOG_ENTRY_CREATE"
    entry: EntryOfGuild
    users: tuple[Snowflake, ...]

    @override
    def audience(self) -> Audience:
        return Audience(users=self.users, guild_id=self.entry.guild_id)

    @override
    def payload(self) -> EntryOfGuild:
        return self.entry
