"""HTTP for messages."""

import msgspec
from aiohttp import web

from internal.chat.mention.model import MentionPage
from internal.chat.message.model import BulkDelete, MessagePage, SendMessage, UpdateMessage
from internal.chat.message.service import MessageService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import created, no_content, ok

_send = decoder(SendMessage)
_update = decoder(UpdateMessage)
_bulk_delete = decoder(BulkDelete)


class MessageHandler:
    def __init__(self, messages: MessageService) -> None:
        self._messages = messages

    async def post(self, request: web.Request) -> web.Response:
        """Send to the channel of the path or, without one there, of the body."""
        wish = await read_body(request, _send)
        if "channel_id" in request.match_info:
            wish = msgspec.structs.replace(wish, channel_id=path_id(request, "channel_id"))
        key = request.headers.get("Idempotency-Key")
        message = await self._messages.send(request[ACTOR].user_id, wish, idempotency_key=key)
        return created(message)

    async def get_page(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        return ok(await self._messages.page(actor, channel_id, read_query(request, MessagePage)))

    async def get_mentions(self, request: web.Request) -> web.Response:
        page = read_query(request, MentionPage)
        return ok(await self._messages.mentions(request[ACTOR].user_id, page))

    async def get(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        return ok(await self._messages.get(actor, channel_id, path_id(request, "message_id")))

    async def patch(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        message_id = path_id(request, "message_id")
        wish = await read_body(request, _update)
        return ok(await self._messages.edit(actor, channel_id, message_id, wish))

    async def delete(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        message_id, reason = path_id(request, "message_id"), audit_reason(request)
        await self._messages.delete(actor, channel_id, message_id, reason=reason)
        return no_content()

    async def post_bulk_delete(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        wish, reason = await read_body(request, _bulk_delete), audit_reason(request)
        await self._messages.bulk_delete(actor, channel_id, wish, reason=reason)
        return no_content()
