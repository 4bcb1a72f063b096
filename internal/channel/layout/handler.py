"""HTTP for the order of channels and for their overwrites."""

from aiohttp import web

from internal.channel.layout.model import MoveChannels, PutOverwrite
from internal.channel.layout.service import LayoutService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body
from internal.utils.response import no_content

_move = decoder(MoveChannels)
_put = decoder(PutOverwrite)


class LayoutHandler:
    def __init__(self, layout: LayoutService) -> None:
        self._layout = layout

    async def patch(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        moves = await read_body(request, _move)
        await self._layout.reorder(actor, guild_id, moves, reason=audit_reason(request))
        return no_content()

    async def put_overwrite(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        target_id = path_id(request, "target_id")
        wish = await read_body(request, _put)
        await self._layout.put_overwrite(
            actor, channel_id, target_id, wish, reason=audit_reason(request)
        )
        return no_content()

    async def delete_overwrite(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        target_id = path_id(request, "target_id")
        await self._layout.delete_overwrite(
            actor, channel_id, target_id, reason=audit_reason(request)
        )
        return no_content()
