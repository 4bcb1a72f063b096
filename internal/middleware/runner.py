"""The application on its connections; what never becomes a request is answered in JSON as well."""

import asyncio
from typing import Final

import structlog
from aiohttp import web
from typing_extensions import override

from internal.errors import AppError, HttpError
from internal.middleware.errors import error_response
from internal.middleware.headers import harden

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_SERVER_FAULT: Final = 500


class Connection(web.RequestHandler):
    """A connection of a client. aiohttp answers what it can't parse in plain text."""

    __slots__ = ()

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = _SERVER_FAULT,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            # An answer has begun: another can't be told from it.
            raise ConnectionError("the answer broke off")
        if status >= _SERVER_FAULT:
            _log.error("connection failed", exc_info=exc)
            response = error_response(AppError(), status)
        else:
            # Whoever sends this speaks no HTTP, or scans: nothing that an operator can act on.
            _log.debug("unreadable request", status=status)
            response = error_response(HttpError(), status)
        harden(response.headers)
        # Left out, aiohttp would write its name and version here.
        response.headers["Server"] = "parley"
        response.force_close()
        return response


class Server(web.Server):
    """Makes a Connection for each client."""

    @override
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on such connections."""

    @override
    async def _make_server(self) -> web.Server:
        # aiohttp has no public way to choose the class of its connections.
        made = await super()._make_server()
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            # Packed bodies are refused; by default they would be unpacked before that.
            **{**made._kwargs, "auto_decompress": False},  # noqa: SLF001
        )
