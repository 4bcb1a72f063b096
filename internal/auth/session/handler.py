"""HTTP for login sessions."""

from aiohttp import web

from internal.auth.session.service import SessionService
from internal.utils.request import ACTOR, path_id
from internal.utils.response import no_content, ok


class SessionHandler:
    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions

    async def get(self, request: web.Request) -> web.Response:
        return ok(await self._sessions.of_user(request[ACTOR]))

    async def delete(self, request: web.Request) -> web.Response:
        await self._sessions.end(request[ACTOR], path_id(request, "session_id"))
        return no_content()

    async def post_logout(self, request: web.Request) -> web.Response:
        actor = request[ACTOR]
        await self._sessions.end(actor, actor.session_id)
        return no_content()
