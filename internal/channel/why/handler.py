"""HTTP for the question why."""

from aiohttp import web

from internal.channel.why.service import WhyService
from internal.utils.request import ACTOR, path_id
from internal.utils.response import ok


class WhyHandler:
    def __init__(self, why: WhyService) -> None:
        self._why = why

    async def get(self, request: web.Request) -> web.Response:
        """Explain somebody's permissions or, without an id in the path, one's own."""
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        is_own = "target_id" not in request.match_info
        user_id = actor if is_own else path_id(request, "target_id")
        return ok(await self._why.explain(actor, channel_id, user_id))
