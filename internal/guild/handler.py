"""HTTP for guilds and their members."""

from aiohttp import web

from internal.guild.model import CreateGuild, GuildCounts, GuildPage, MemberPage, UpdateGuild
from internal.guild.service import GuildService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import created, no_content, ok

_create = decoder(CreateGuild)
_update = decoder(UpdateGuild)


class GuildHandler:
    def __init__(self, guilds: GuildService) -> None:
        self._guilds = guilds

    async def post(self, request: web.Request) -> web.Response:
        wish = await read_body(request, _create)
        return created(await self._guilds.create(request[ACTOR].user_id, wish))

    async def get_public(self, request: web.Request) -> web.Response:
        return ok(await self._guilds.public(read_query(request, GuildPage)))

    async def get_mine(self, request: web.Request) -> web.Response:
        page = read_query(request, GuildPage)
        return ok(await self._guilds.mine(request[ACTOR].user_id, page))

    async def get(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        with_counts = read_query(request, GuildCounts).with_counts
        return ok(await self._guilds.details(actor, guild_id, with_counts=with_counts))

    async def get_preview(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._guilds.preview(actor, guild_id))

    async def get_icon(self, request: web.Request) -> web.Response:
        """The picture as it was given, whatever the address calls its kind."""
        icon_hash = request.match_info["icon"].partition(".")[0]
        icon = await self._guilds.icon(path_id(request, "guild_id"), icon_hash)
        known = {tag.value for tag in request.if_none_match or ()} & {icon.hash, "*"}
        # Another picture has another address.
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        if known:
            answer = web.Response(status=304, headers=headers)
        else:
            answer = web.Response(body=icon.data, content_type=icon.media_type, headers=headers)
        answer.etag = icon.hash
        return answer

    async def patch(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        wish, reason = await read_body(request, _update), audit_reason(request)
        return ok(await self._guilds.update(actor, guild_id, wish, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        await self._guilds.delete(request[ACTOR].user_id, path_id(request, "guild_id"))
        return no_content()

    async def post_join(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._guilds.join(actor, guild_id))

    async def post_leave(self, request: web.Request) -> web.Response:
        await self._guilds.leave(request[ACTOR].user_id, path_id(request, "guild_id"))
        return no_content()

    async def get_members(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._guilds.members(actor, guild_id, read_query(request, MemberPage)))

    async def get_member(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._guilds.member(actor, guild_id, path_id(request, "user_id")))
