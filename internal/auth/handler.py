"""HTTP for accounts."""

from typing import Final

from aiohttp import web

from internal.auth.model import ChangePassword, Login, Register, Setup
from internal.auth.service import AuthService
from internal.auth.session.model import Client, RefreshBody
from internal.utils.json import decoder
from internal.utils.request import ACTOR, ADDRESS, read_body
from internal.utils.response import created, ok

_LONGEST_USER_AGENT: Final = 256

_register = decoder(Register)
_login = decoder(Login)
_refresh = decoder(RefreshBody)
_change_password = decoder(ChangePassword)
_setup = decoder(Setup)


class AuthHandler:
    def __init__(self, auth: AuthService) -> None:
        self._auth = auth

    async def post_register(self, request: web.Request) -> web.Response:
        body = await read_body(request, _register)
        return created(await self._auth.register(body, _client(request)))

    async def post_login(self, request: web.Request) -> web.Response:
        body = await read_body(request, _login)
        return ok(await self._auth.login(body, _client(request)))

    async def post_refresh(self, request: web.Request) -> web.Response:
        body = await read_body(request, _refresh)
        return ok(await self._auth.refresh(body.refresh_token, _client(request)))

    async def post_password(self, request: web.Request) -> web.Response:
        body = await read_body(request, _change_password)
        return ok(await self._auth.change_password(request[ACTOR], body, _client(request)))

    async def post_setup(self, request: web.Request) -> web.Response:
        body = await read_body(request, _setup)
        return ok(await self._auth.setup(request[ACTOR], body.secret, _client(request)))


def _client(request: web.Request) -> Client:
    # A header may hold any bytes; aiohttp makes lone surrogates of what is not UTF-8.
    user_agent = request.headers.get("User-Agent", "").encode(errors="replace").decode()
    return Client(request[ADDRESS], user_agent[:_LONGEST_USER_AGENT])
