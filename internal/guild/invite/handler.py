"""HTTP for invites."""

from aiohttp import web

from internal.guild.invite.model import CreateInvite, InvitePage, InviteQuery
from internal.guild.invite.service import InviteService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import ok

_decode_create = decoder(CreateInvite)


class InviteHandler:
    def __init__(self, invites: InviteService) -> None:
        self._invites = invites

    async def post(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        wish, reason = await read_body(request, _create), audit_reason(request)
        return ok(await self._invites.create(actor, channel_id, wish, reason=reason))

    async def get(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        return ok(await self._invites.preview(code, read_query(request, InviteQuery)))

    async def get_of_channel(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        page = read_query(request, InvitePage)
        return ok(await self._invites.of_channel(actor, channel_id, page))

    async def get_of_guild(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._invites.of_guild(actor, guild_id, read_query(request, InvitePage)))

    async def post_accept(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        return ok(await self._invites.accept(request[ACTOR].user_id, code))

    async def delete(self, request: web.Request) -> web.Response:
        actor, code = request[ACTOR].user_id, request.match_info["code"]
        return ok(await self._invites.delete(actor, code, reason=audit_reason(request)))


def _create(raw: bytes | str) -> CreateInvite:
    """The body, which may be left out."""
    return _decode_create(raw) if raw else CreateInvite()
