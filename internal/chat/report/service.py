"""The rules of reports: who may report what, and who hears of it."""

from typing import Final

import msgspec

from internal.channel.model import ChannelAccess, ChannelType
from internal.channel.service import ChannelService
from internal.chat.message.service import MessageService
from internal.chat.report import repository
from internal.chat.report.model import (
    Filed,
    MessageReported,
    MessageReportUpdated,
    Readable,
    Report,
    ReportMessage,
    ReportPage,
    Resolution,
    ResolveReport,
)
from internal.db.postgres import Conn, Database
from internal.errors import Unavailable, UnknownReport, WrongChannelType
from internal.guild.audit.model import Act, Action
from internal.guild.audit.service import AuditTrail, changes_between
from internal.guild.model import GuildAccess
from internal.guild.service import GuildService
from internal.permission.model import Permission, allows, in_channel
from internal.utils.clock import Clock
from internal.utils.json import Timestamp
from internal.utils.snowflake import NewId, Snowflake

_READ: Final = Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY
_MODERATE: Final = Permission.MANAGE_MESSAGES
# What one needs in a channel to see what was reported from it, and from private threads in it.
_IN_CHANNEL: Final = _READ | _MODERATE
_IN_PRIVATE_THREADS: Final = _IN_CHANNEL | Permission.MANAGE_THREADS


class ReportService:
    def __init__(  # noqa: PLR0913  # a report is about all of these
        self,
        db: Database,
        guilds: GuildService,
        channels: ChannelService,
        messages: MessageService,
        *,
        audit: AuditTrail,
        new_id: NewId,
        clock: Clock,
    ) -> None:
        self._db = db
        self._guilds = guilds
        self._channels = channels
        self._messages = messages
        self._audit = audit
        self._new_id = new_id
        self._clock = clock

    async def report(
        self,
        actor: Snowflake,
        channel_id: Snowflake,
        message_id: Snowflake,
        wish: ReportMessage,
    ) -> tuple[Report, bool]:
        """Report a message that one may read, and say whether that is news.

        As long as one's report of it is open, reporting it again gives the same.
        """
        async with self._channels.hold(actor, channel_id, _READ) as (tx, access):
            if access.guild_id is None:
                # There is nobody to report it to.
                raise WrongChannelType
            message = await self._messages.known(tx.conn, channel_id, message_id)
            report_id = self._new_id()
            report = Report(
                id=report_id,
                guild_id=access.guild_id,
                channel_id=channel_id,
                message_id=message_id,
                reporter=access.user,
                reason=wish.reason,
                category=wish.category,
                created_at=Timestamp.at(report_id.created_at),
                message=message,
            )
            filed = _file(report, access)
            if not await repository.insert(tx.conn, filed):
                known = await repository.find_open(tx.conn, actor, message_id)
                if known is None:  # resolved between the two statements
                    raise Unavailable(retry_after=0)
                return known.report, False
            tx.emit(MessageReported(filed=filed, users=await self._moderators(tx.conn, filed)))
            return report, True

    async def page(self, actor: Snowflake, guild_id: Snowflake, page: ReportPage) -> list[Report]:
        async with self._db.read() as conn:
            access = await self._guilds.access(conn, actor, guild_id, _MODERATE)
            reader = await self._readable(conn, access)
            return [filed.report for filed in await repository.page(conn, guild_id, page, reader)]

    async def resolve(
        self,
        actor: Snowflake,
        guild_id: Snowflake,
        report_id: Snowflake,
        wish: ResolveReport,
        *,
        reason: str | None = None,
    ) -> Report:
        """Say what became of a report. To say it again changes nothing and tells nobody."""
        async with self._guilds.change(actor, guild_id, _MODERATE) as (tx, access):
            reader = await self._readable(tx.conn, access)
            filed = await repository.find(tx.conn, guild_id, report_id, reader)
            if filed is None:
                raise UnknownReport
            old, now = filed.report, self._clock.now()
            if (old.status, old.note) == (wish.status, wish.note):
                return old
            resolution = Resolution(status=wish.status, note=wish.note, resolver_id=actor, at=now)
            await repository.resolve(tx.conn, guild_id, report_id, resolution)
            report = msgspec.structs.replace(
                old,
                status=wish.status,
                note=wish.note,
                resolver=access.member.user,
                resolved_at=Timestamp.at(now),
            )
            filed = msgspec.structs.replace(filed, report=report)
            users = await self._moderators(tx.conn, filed)
            tx.emit(MessageReportUpdated(filed=filed, users=users))
            await self._audit.record(
                tx,
                Act(
                    guild_id=guild_id,
                    actor=actor,
                    action=Action.REPORT_RESOLVE,
                    target=report.message.author.id,
                    # Not the note, which is for who reads reports.
                    changes=changes_between(old, report, "status"),
                    options={
                        "report_id": report_id,
                        "channel_id": report.channel_id,
                        "message_id": report.message_id,
                    },
                    reason=reason,
                ),
            )
        return report

    async def _moderators(self, conn: Conn, filed: Filed) -> tuple[Snowflake, ...]:
        """Whom an event of a report is for; never the one who wrote the message."""
        guild_id, root_id = filed.report.guild_id, filed.root_id
        users = await self._guilds.holders_of(conn, guild_id, _MODERATE)
        found = await self._channels.access_of(conn, [(user_id, root_id) for user_id in users])
        needs = _IN_PRIVATE_THREADS if filed.is_private else _IN_CHANNEL
        author_id = filed.report.message.author.id
        # Events of a channel that is gone reach nobody.
        return tuple(
            user_id
            for (user_id, _), there in found.items()
            if user_id != author_id and allows(there.permissions, needs)
        )

    async def _readable(self, conn: Conn, access: GuildAccess) -> Readable:
        """What of a guild's reports somebody sees: those of the channels that one moderates."""
        actor = access.member.user.id
        if access.may(Permission.ADMINISTRATOR):
            return Readable(user_id=actor, channels=None, private_threads=None)
        bits = {
            channel.id: in_channel(access.standing, channel.rules())
            for channel in await self._guilds.channels_of(conn, actor, access.guild.id)
        }
        return Readable(
            user_id=actor,
            channels=tuple(one for one in bits if allows(bits[one], _IN_CHANNEL)),
            private_threads=tuple(one for one in bits if allows(bits[one], _IN_PRIVATE_THREADS)),
        )


def _file(report: Report, access: ChannelAccess) -> Filed:
    root_id = access.parent_id if access.is_thread else None
    return Filed(
        report=report,
        root_id=report.channel_id if root_id is None else root_id,
        is_private=access.type == ChannelType.PRIVATE_THREAD,
    )
