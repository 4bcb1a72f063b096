"""HTTP for the rules of automatic moderation."""

from aiohttp import web

from internal.guild.automod.model import CreateRule, UpdateRule
from internal.guild.automod.service import AutomodService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body
from internal.utils.response import no_content, ok

_create = decoder(CreateRule)
_update = decoder(UpdateRule)


class AutomodHandler:
    def __init__(self, automod: AutomodService) -> None:
        self._automod = automod

    async def post(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish, reason = await read_body(request, _create), audit_reason(request)
        return ok(await self._automod.create(actor, guild_id, wish, reason=reason))

    async def get_all(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._automod.rules(actor, guild_id))

    async def get(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._automod.rule(actor, guild_id, path_id(request, "rule_id")))

    async def patch(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        rule_id, reason = path_id(request, "rule_id"), audit_reason(request)
        wish = await read_body(request, _update)
        return ok(await self._automod.update(actor, guild_id, rule_id, wish, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        rule_id, reason = path_id(request, "rule_id"), audit_reason(request)
        await self._automod.delete(actor, guild_id, rule_id, reason=reason)
        return no_content()
