"""HTTP for roles."""

from aiohttp import web

from internal.guild.role.model import CreateRole, MoveRoles, UpdateRole
from internal.guild.role.service import RoleService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body
from internal.utils.response import no_content, ok

_create = decoder(CreateRole)
_update = decoder(UpdateRole)
_move = decoder(MoveRoles)


class RoleHandler:
    def __init__(self, roles: RoleService) -> None:
        self._roles = roles

    async def post(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish = await read_body(request, _create)
        reason = audit_reason(request)
        return ok(await self._roles.create(actor, guild_id, wish, reason=reason))

    async def get_of_guild(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._roles.of_guild(actor, guild_id))

    async def get(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._roles.get(actor, guild_id, path_id(request, "role_id")))

    async def get_member_counts(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._roles.member_counts(actor, guild_id))

    async def patch(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        role_id, reason = path_id(request, "role_id"), audit_reason(request)
        wish = await read_body(request, _update)
        return ok(await self._roles.update(actor, guild_id, role_id, wish, reason=reason))

    async def patch_positions(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wishes, reason = await read_body(request, _move), audit_reason(request)
        return ok(await self._roles.move(actor, guild_id, wishes, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        role_id, reason = path_id(request, "role_id"), audit_reason(request)
        await self._roles.delete(actor, guild_id, role_id, reason=reason)
        return no_content()
