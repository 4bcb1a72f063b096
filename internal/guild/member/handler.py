"""HTTP for what is done to members."""

from aiohttp import web

from internal.guild.member.model import (
    ChangeRoles,
    MemberSearch,
    Prune,
    Pruned,
    PruneQuery,
    UpdateMember,
    UpdateOwnMember,
)
from internal.guild.member.service import MemberService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import no_content, ok

_update = decoder(UpdateMember)
_update_own = decoder(UpdateOwnMember)
_change_roles = decoder(ChangeRoles)
_prune = decoder(Prune)


class MemberHandler:
    def __init__(self, members: MemberService) -> None:
        self._members = members

    async def get_search(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._members.search(actor, guild_id, read_query(request, MemberSearch)))

    async def patch_own(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish, reason = await read_body(request, _update_own), audit_reason(request)
        return ok(await self._members.update_own(actor, guild_id, wish, reason=reason))

    async def patch(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        user_id, reason = path_id(request, "user_id"), audit_reason(request)
        wish = await read_body(request, _update)
        return ok(await self._members.update(actor, guild_id, user_id, wish, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        user_id, reason = path_id(request, "user_id"), audit_reason(request)
        await self._members.kick(actor, guild_id, user_id, reason=reason)
        return no_content()

    async def put_role(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        user_id, role_id = path_id(request, "user_id"), path_id(request, "role_id")
        reason = audit_reason(request)
        await self._members.give_role(actor, guild_id, user_id, role_id, reason=reason)
        return no_content()

    async def delete_role(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        user_id, role_id = path_id(request, "user_id"), path_id(request, "role_id")
        reason = audit_reason(request)
        await self._members.take_role(actor, guild_id, user_id, role_id, reason=reason)
        return no_content()

    async def post_roles(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish, reason = await read_body(request, _change_roles), audit_reason(request)
        return ok(await self._members.change_roles(actor, guild_id, wish, reason=reason))

    async def get_prune(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish = read_query(request, PruneQuery)
        return ok(Pruned(pruned=await self._members.count_prunable(actor, guild_id, wish)))

    async def post_prune(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish, reason = await read_body(request, _prune), audit_reason(request)
        return ok(Pruned(pruned=await self._members.prune(actor, guild_id, wish, reason=reason)))
