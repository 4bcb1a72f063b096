"""HTTP for the audit log."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from internal.guild.audit.model import AuditLog, AuditPage
from internal.utils.request import ACTOR, path_id, read_query
from internal.utils.response import ok
from internal.utils.snowflake import Snowflake

# Reads a guild's log for an actor, if that one may: the guild knows.
ReadLog: TypeAlias = Callable[[Snowflake, Snowflake, AuditPage], Awaitable[AuditLog]]


class AuditHandler:
    def __init__(self, read: ReadLog) -> None:
        self._read = read

    async def get(self, request: web.Request) -> web.Response:
        actor, guild_id = request[ACTOR].user_id, path_id(request, "guild_id")
        return ok(await self._read(actor, guild_id, read_query(request, AuditPage)))
