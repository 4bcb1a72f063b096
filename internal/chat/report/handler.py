"""HTTP for reports."""

from aiohttp import web

from internal.chat.report.model import ReportMessage, ReportPage, ResolveReport
from internal.chat.report.service import ReportService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import created, ok

_report = decoder(ReportMessage)
_resolve = decoder(ResolveReport)


class ReportHandler:
    def __init__(self, reports: ReportService) -> None:
        self._reports = reports

    async def post(self, request: web.Request) -> web.Response:
        """201 for a new report, 200 for the one that is open."""
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        message_id = path_id(request, "message_id")
        wish = await read_body(request, _report)
        report, is_new = await self._reports.report(actor, channel_id, message_id, wish)
        return created(report) if is_new else ok(report)

    async def get_page(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._reports.page(actor, guild_id, read_query(request, ReportPage)))

    async def patch(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        report_id, reason = path_id(request, "report_id"), audit_reason(request)
        wish = await read_body(request, _resolve)
        return ok(await self._reports.resolve(actor, guild_id, report_id, wish, reason=reason))
