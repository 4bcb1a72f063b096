"""HTTP for the people in a group."""

from aiohttp import web

from internal.channel.group.service import GroupService
from internal.utils.request import ACTOR, path_id
from internal.utils.response import no_content


class GroupHandler:
    def __init__(self, groups: GroupService) -> None:
        self._groups = groups

    async def put_recipient(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        await self._groups.add(actor, channel_id, path_id(request, "user_id"))
        return no_content()

    async def delete_recipient(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        await self._groups.remove(actor, channel_id, path_id(request, "user_id"))
        return no_content()
