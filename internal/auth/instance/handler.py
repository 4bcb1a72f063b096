"""HTTP for the installation: instance roles and invitations to register."""

from aiohttp import web

from internal.auth.instance.model import ChangeRole, CreateInvite, InvitePage
from internal.auth.instance.service import InstanceService
from internal.utils.json import decoder
from internal.utils.request import ACTOR, path_id, read_body, read_query
from internal.utils.response import created, no_content, ok

_change_role = decoder(ChangeRole)
_create_invite = decoder(CreateInvite)


class InstanceHandler:
    def __init__(self, instance: InstanceService) -> None:
        self._instance = instance

    async def post_invite(self, request: web.Request) -> web.Response:
        body = await read_body(request, _create_invite)
        return created(await self._instance.invite(request[ACTOR].user_id, body))

    async def get_invites(self, request: web.Request) -> web.Response:
        page = read_query(request, InvitePage)
        return ok(await self._instance.invites(request[ACTOR].user_id, page))

    async def put_role(self, request: web.Request) -> web.Response:
        body = await read_body(request, _change_role)
        target_id = path_id(request, "user_id")
        await self._instance.change_role(request[ACTOR].user_id, target_id, body.role)
        return no_content()

    async def delete_invite(self, request: web.Request) -> web.Response:
        await self._instance.withdraw(request[ACTOR].user_id, path_id(request, "invite_id"))
        return no_content()
