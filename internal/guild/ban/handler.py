"""HTTP for bans."""

from aiohttp import web

from internal.guild.ban.model import BanPage, BanUser, BulkBan
from internal.guild.ban.service import BanService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import no_content, ok

_decode_ban = decoder(BanUser)
_bulk_ban = decoder(BulkBan)


class BanHandler:
    def __init__(self, bans: BanService) -> None:
        self._bans = bans

    async def get_page(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._bans.page(actor, guild_id, read_query(request, BanPage)))

    async def get(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._bans.get(actor, guild_id, path_id(request, "user_id")))

    async def put(self, request: web.Request) -> web.Response:
        """Ban; how far back messages go with it stands in the body or in the query."""
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        user_id, reason = path_id(request, "user_id"), audit_reason(request)
        asked = read_query(request, BanUser)
        said = await read_body(request, _ban)
        wish = asked if said == BanUser() else said
        await self._bans.ban(actor, guild_id, user_id, wish, reason=reason)
        return no_content()

    async def post_bulk(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish, reason = await read_body(request, _bulk_ban), audit_reason(request)
        return ok(await self._bans.bulk_ban(actor, guild_id, wish, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        user_id, reason = path_id(request, "user_id"), audit_reason(request)
        await self._bans.unban(actor, guild_id, user_id, reason=reason)
        return no_content()


def _ban(raw: bytes | str) -> BanUser:
    """The body of a ban, which may be left out."""
    return _decode_ban(raw) if raw else BanUser()
