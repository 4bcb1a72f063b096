"""HTTP for channels, groups and direct messages."""

import msgspec
from aiohttp import web

from internal.channel.group.service import GroupService
from internal.channel.layout.service import LayoutService
from internal.channel.model import (
    ChannelType,
    CreateChannel,
    DirectMessagePage,
    OpenDirectMessage,
    UpdateChannel,
)
from internal.channel.service import ChannelService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import created, ok
from internal.utils.validator import field_error

_create = decoder(CreateChannel)
_update = decoder(UpdateChannel)
_open = decoder(OpenDirectMessage)


class ChannelHandler:
    def __init__(
        self,
        channels: ChannelService,
        layout: LayoutService,
        groups: GroupService,
    ) -> None:
        """What an id names decides who changes or deletes it; threads have their own handler."""
        self._channels = channels
        self._layout = layout
        self._groups = groups

    async def post(self, request: web.Request) -> web.Response:
        """Make a channel in the guild of the path or, without one there, of the body."""
        wish = await read_body(request, _create)
        if "guild_id" in request.match_info:
            guild_id = path_id(request, "guild_id")
        elif wish.guild_id is not msgspec.UNSET:
            guild_id = wish.guild_id
        else:
            raise field_error("guild_id", "This field is required", "BASE_TYPE_REQUIRED")
        actor, reason = request[ACTOR].user_id, audit_reason(request)
        return created(await self._layout.create(actor, guild_id, wish, reason=reason))

    async def get_of_guild(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._channels.of_guild(actor, guild_id))

    async def get(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        return ok(await self._channels.get(actor, channel_id))

    async def patch(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        reason = audit_reason(request)
        wish = await read_body(request, _update)
        if await self._channels.type_of(actor, channel_id) == ChannelType.GROUP:
            return ok(await self._groups.update(actor, channel_id, wish))
        return ok(await self._layout.update(actor, channel_id, wish, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        reason = audit_reason(request)
        if await self._channels.type_of(actor, channel_id) == ChannelType.GROUP:
            return ok(await self._groups.leave(actor, channel_id))
        return ok(await self._layout.delete(actor, channel_id, reason=reason))

    async def post_direct_message(self, request: web.Request) -> web.Response:
        """Open a direct message or, with several others, a group."""
        wish = await read_body(request, _open)
        actor = request[ACTOR].user_id
        others = wish.others(actor)
        if not others:
            raise field_error("recipient_id", "This field is required", "BASE_TYPE_REQUIRED")
        if len(others) == 1:
            return ok(await self._channels.open_direct_message(actor, others[0]))
        return ok(await self._groups.open(actor, others))

    async def get_direct_messages(self, request: web.Request) -> web.Response:
        page = read_query(request, DirectMessagePage)
        return ok(await self._channels.own_direct_messages(request[ACTOR].user_id, page))
