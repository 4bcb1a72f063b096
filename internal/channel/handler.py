"""HTTP for channels and direct messages."""

import msgspec
from aiohttp import web

from internal.channel.model import (
    CreateChannel,
    DirectMessagePage,
    OpenDirectMessage,
    UpdateChannel,
)
from internal.channel.service import ChannelService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, path_id, read_body, read_query
from internal.utils.response import created, ok
from internal.utils.validator import field_error

_create = decoder(CreateChannel)
_update = decoder(UpdateChannel)
_open = decoder(OpenDirectMessage)


class ChannelHandler:
    def __init__(self, channels: ChannelService) -> None:
        self._channels = channels

    async def post(self, request: web.Request) -> web.Response:
        """Make a channel in the guild of the path or, without one there, of the body."""
        wish = await read_body(request, _create)
        if "guild_id" in request.match_info:
            guild_id = path_id(request, "guild_id")
        elif wish.guild_id is not msgspec.UNSET:
            guild_id = wish.guild_id
        else:
            raise field_error("guild_id", "This field is required", "BASE_TYPE_REQUIRED")
        return created(await self._channels.create(request[ACTOR].user_id, guild_id, wish))

    async def get_of_guild(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._channels.of_guild(actor, guild_id))

    async def get(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        return ok(await self._channels.get(actor, channel_id))

    async def patch(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        wish = await read_body(request, _update)
        return ok(await self._channels.update(actor, channel_id, wish))

    async def delete(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        return ok(await self._channels.delete(actor, channel_id))

    async def post_direct_message(self, request: web.Request) -> web.Response:
        wish = await read_body(request, _open)
        return ok(await self._channels.open_direct_message(request[ACTOR].user_id, wish))

    async def get_direct_messages(self, request: web.Request) -> web.Response:
        page = read_query(request, DirectMessagePage)
        return ok(await self._channels.own_direct_messages(request[ACTOR].user_id, page))
