"""HTTP for threads."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from internal.channel.thread.archive.service import ThreadArchive
from internal.channel.thread.member.service import ThreadMembership
from internal.channel.thread.model import (
    ArchivePage,
    OwnArchivePage,
    StartFromMessage,
    StartThread,
    ThreadMemberPage,
    ThreadMemberQuery,
    UpdateThread,
)
from internal.channel.thread.service import ThreadService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, audit_reason, path_id, read_body, read_query
from internal.utils.response import created, no_content, ok

_start_from = decoder(StartFromMessage)
_start = decoder(StartThread)
_update = decoder(UpdateThread)

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ThreadHandler:
    def __init__(
        self, threads: ThreadService, membership: ThreadMembership, archive: ThreadArchive
    ) -> None:
        self._threads = threads
        self._membership = membership
        self._archive = archive

    async def post_from_message(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        message_id = path_id(request, "message_id")
        wish = await read_body(request, _start_from)
        reason = audit_reason(request)
        return created(
            await self._threads.start_from(actor, channel_id, message_id, wish, reason=reason)
        )

    async def post(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        wish = await read_body(request, _start)
        reason = audit_reason(request)
        return created(await self._threads.start(actor, channel_id, wish, reason=reason))

    def unless_thread(self, elsewhere: Handle, here: Handle) -> Handle:
        """Answer by `here` what is about a thread, and anything else by `elsewhere`.

        Threads share the addresses of channels; whether the actor sees one, the answer tells.
        """

        async def answer(request: web.Request) -> web.StreamResponse:
            is_thread = await self._archive.is_thread(path_id(request, "channel_id"))
            return await (here if is_thread else elsewhere)(request)

        return answer

    async def get(self, request: web.Request) -> web.Response:
        actor, thread_id = request[ACTOR].user_id, path_id(request, "channel_id")
        return ok(await self._archive.get(actor, thread_id))

    async def patch(self, request: web.Request) -> web.Response:
        actor, thread_id = request[ACTOR].user_id, path_id(request, "channel_id")
        wish = await read_body(request, _update)
        reason = audit_reason(request)
        return ok(await self._threads.update(actor, thread_id, wish, reason=reason))

    async def delete(self, request: web.Request) -> web.Response:
        actor, thread_id = request[ACTOR].user_id, path_id(request, "channel_id")
        reason = audit_reason(request)
        return ok(await self._threads.delete(actor, thread_id, reason=reason))

    async def get_active(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._archive.active(actor, guild_id))

    async def get_archived_public(self, request: web.Request) -> web.Response:
        return await self._get_archived(request, is_private=False)

    async def get_archived_private(self, request: web.Request) -> web.Response:
        return await self._get_archived(request, is_private=True)

    async def get_own_archived(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        page = read_query(request, OwnArchivePage)
        return ok(await self._archive.own_archived(actor, channel_id, page))

    async def get_members(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        page = read_query(request, ThreadMemberPage)
        return ok(await self._membership.page(actor, channel_id, page))

    async def get_member(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        query = read_query(request, ThreadMemberQuery)
        user_id = path_id(request, "user_id")
        return ok(await self._membership.get(actor, channel_id, user_id, query))

    async def put_me(self, request: web.Request) -> web.Response:
        await self._membership.join(request[ACTOR].user_id, path_id(request, "channel_id"))
        return no_content()

    async def delete_me(self, request: web.Request) -> web.Response:
        await self._membership.leave(request[ACTOR].user_id, path_id(request, "channel_id"))
        return no_content()

    async def put_member(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        await self._membership.add(actor, channel_id, path_id(request, "user_id"))
        return no_content()

    async def delete_member(self, request: web.Request) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        await self._membership.remove(actor, channel_id, path_id(request, "user_id"))
        return no_content()

    async def _get_archived(self, request: web.Request, *, is_private: bool) -> web.Response:
        actor, channel_id = request[ACTOR].user_id, path_id(request, "channel_id")
        page = read_query(request, ArchivePage)
        return ok(await self._archive.archived(actor, channel_id, page, is_private=is_private))
