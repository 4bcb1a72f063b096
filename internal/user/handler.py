"""HTTP for profiles."""

from aiohttp import web

from internal.user.model import ChangeUser
from internal.user.service import UserService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, path_id, read_body
from internal.utils.response import ok

_change = decoder(ChangeUser)


class UserHandler:
    def __init__(self, users: UserService) -> None:
        self._users = users

    async def get_me(self, request: web.Request) -> web.Response:
        return ok(await self._users.me(request[ACTOR].user_id))

    async def get(self, request: web.Request) -> web.Response:
        return ok(await self._users.find(path_id(request, "user_id")))

    async def patch_me(self, request: web.Request) -> web.Response:
        change = await read_body(request, _change)
        return ok(await self._users.change(request[ACTOR].user_id, change))
