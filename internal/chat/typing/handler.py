"""HTTP for typing."""

from aiohttp import web

from internal.chat.typing.service import TypingService
from internal.utils.request import ACTOR, path_id
from internal.utils.response import no_content


class TypingHandler:
    def __init__(self, typing: TypingService) -> None:
        self._typing = typing

    async def post(self, request: web.Request) -> web.Response:
        await self._typing.start(request[ACTOR].user_id, path_id(request, "channel_id"))
        return no_content()
