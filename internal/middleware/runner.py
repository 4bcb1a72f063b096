"""The application on its connections; what never becomes a request is answered in JSON as well."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from typing_extensions import override

from internal.errors import AppError, HttpError, Unavailable, error_body
from internal.middleware.connections import Connections, Limits
from internal.middleware.errors import LateBody, error_response
from internal.middleware.headers import harden
from internal.utils.gate import come_back_s
from internal.utils.json import encode

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_SERVER_FAULT: Final = 500
# How long a request that is cut at a stop may take to notice.
_CUT_S: Final = 0.5
# What is answered also when there is no room for anything else.
_PROBES: Final = {b"/live", b"/ready"}
# More than the head of such a request takes.
_MAX_PROBE: Final = 4096
_NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: %d\r\nServer: parley\r\nConnection: close\r\n\r\n%b"
)


def _no_room() -> bytes:
    """The answer to a connection that there is no room for."""
    wait_s = math.ceil(come_back_s())
    body = encode(error_body(Unavailable(retry_after=wait_s)))
    return _NO_ROOM % (len(body), wait_s, body)


def _is_probe(line: bytes) -> bool:
    """Whether the first line of a request asks for the server's health."""
    method, _, rest = line.partition(b" ")
    target = rest.partition(b" ")[0]
    return method in {b"GET", b"HEAD"} and target.partition(b"?")[0] in _PROBES


class Connection(web.RequestHandler):
    """A connection of a client, which may keep the server waiting only for so long.

    aiohttp waits for ever for heads, bodies and readers, and answers what it can't parse in plain
    text. tests/integration/test_slow_connections.py watches its parts that this relies on.
    """

    __slots__ = (
        "_answered",
        "_body",
        "_connections",
        "_has_begun",
        "_held",
        "_is_draining",
        "_is_fresh",
        "_is_idle",
        "_is_spare",
        "_noted",
        "_wire",
        "deadline",
        "read_by",
    )

    def __init__(
        self,
        manager: "Server",
        connections: Connections,
        is_draining: Callable[[], bool],
        **settings: Any,
    ) -> None:
        super().__init__(manager, **settings)
        self._connections = connections
        self._is_draining = is_draining
        self._wire: asyncio.Transport | None = None
        # When what the client owes is due; never, while it is the server who has to act.
        self.deadline = math.inf
        # When an answer must have been read that waits in the transport; never, if none waits.
        self.read_by = math.inf
        # The body that has not come to its end.
        self._body: StreamReader | None = None
        # Requests that were looked at, and those of them that were answered.
        self._noted = 0
        self._answered = 0
        # Between requests, without a byte of the next.
        self._is_idle = False
        # The next request has begun to arrive behind one that is under way.
        self._has_begun = False
        # Nothing has come yet.
        self._is_fresh = True
        # In the reserve: it is let in for one probe, and what it says is held until that is known.
        self._is_spare = False
        self._held: bytes | None = None

    # What asyncio calls.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)
        if not self._connections.enter(self, wire.get_extra_info("peername")):
            self._send_away(wire)
            return
        self._wire = wire
        self._is_spare = self._connections.is_spare(self)
        if self._is_spare:
            self._held = b""
            self._expect_within(self._limits.reserve_head_s)
            return
        self._expect_within(self._limits.head_s)
        super().connection_made(transport)

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        """Also called by the gateway, which takes the transport away: nothing is due any more."""
        self._connections.leave(self)
        self._wire = None
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._held is not None:
            self._hold(self._held + data)
            return
        self._is_fresh = False
        if data and self._is_idle:
            self._is_idle = False
            self._expect_within(self._limits.head_s)
        elif data and self._body is None:
            self._has_begun = True
        super().data_received(data)
        self._note()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self.read_by = self._loop.time() + self._limits.unread_s

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self.read_by = math.inf

    # What aiohttp calls.

    @override
    def force_close(self) -> None:
        super().force_close()
        if self._held is not None:
            self._cut()
        # Closing waits until the client has read everything.
        self.deadline = min(self.deadline, self._loop.time() + self._limits.head_s)

    @override
    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if (self._is_draining() or self._is_spare) and not resp.prepared:
            # Proxies and clients with a connection to spare leave in time.
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        self._note()
        return finished

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
            self._expect_within(self._limits.head_s)
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

    # What the sweep and the drain call.

    @override
    def close(self) -> None:
        """Also the transport of one at rest: aiohttp ends its task and leaves that for later."""
        super().close()
        if self.is_at_rest and self._wire is not None:
            self._wire.close()

    @property
    def is_at_rest(self) -> bool:
        """Whether no request is under way, nor a byte of one."""
        return self._is_idle or self._is_fresh

    def expire(self, now: float) -> None:
        """Tell a client whose body is late; cut off every other, and who does not listen."""
        if self._held is not None:
            self.refuse()
            return
        body, self._body = self._body, None
        if body is None or body.is_eof() or self.read_by < now:
            self._cut()
            return
        body.set_exception(LateBody())
        self._expect_within(self._limits.head_s)

    def refuse(self) -> None:
        wire, self._wire, self._held = self._wire, None, None
        self._connections.leave(self)
        self._connections.count_refused()
        if wire is not None:
            self._send_away(wire)

    def _send_away(self, wire: asyncio.Transport) -> None:
        """Say that there is no room. aiohttp has not learned of this connection, and never does."""
        super().force_close()
        wire.write(_no_room())
        wire.close()

    def _hold(self, data: bytes) -> None:
        """Let a connection of the reserve in once it has asked for what that is for."""
        line, ending, _ = data.partition(b"\r\n")
        is_whole = b"\r\n\r\n" in data
        if self._wire is None or len(data) > _MAX_PROBE or (ending and not _is_probe(line)):
            self.refuse()
        elif not is_whole:
            self._held = data
        else:
            self._held = None
            self._connections.keep(self)
            super().connection_made(self._wire)
            self.data_received(data)

    def _cut(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    # What is due.

    @property
    def _limits(self) -> Limits:
        return self._connections.limits

    def _expect_within(self, seconds: float) -> None:
        self.deadline = self._loop.time() + seconds

    def _note(self) -> None:
        """See what has come, and what has been answered."""
        if self._request_count != self._noted:
            self._noted = self._request_count
            # Only the newest can lack a part of its body.
            self._expect_body(*self._messages[-1])
        if self._body is not None and self._body.is_eof():
            self._body = None
            self.deadline = math.inf
        if self.deadline == math.inf and self._answered == self._noted:
            self._rest()

    def _expect_body(self, message: object, payload: StreamReader) -> None:
        self._has_begun = self._is_idle = False
        self.deadline = math.inf
        self._body = None
        if payload.is_eof() or not isinstance(message, RawRequestMessage):
            return
        self._body = payload
        limits = self._limits
        # A longer one is refused; one whose length is not told may be as long.
        told = int(message.headers.get("Content-Length", limits.max_body_size))
        size = min(told, limits.max_body_size)
        self._expect_within(limits.body_s + size / limits.body_bytes_per_s)

    def _rest(self) -> None:
        """Everything is answered: the next request may take its time, until it has begun."""
        self._is_idle = not self._has_begun
        self._has_begun = False
        self._expect_within(self._limits.idle_s if self._is_idle else self._limits.head_s)


class Server(web.Server):
    """Makes a Connection for each client."""

    def __init__(self, made: web.Server, limits: Limits, is_draining: Callable[[], bool]) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            # Packed bodies are refused; by default they would be unpacked before that.
            **{**made._kwargs, "auto_decompress": False},  # noqa: SLF001
        )
        self.open = Connections(limits)
        self._is_draining = is_draining

    @override
    def __call__(self) -> web.RequestHandler:
        return Connection(self, self.open, self._is_draining, loop=self._loop, **self._kwargs)

    @override
    def pre_shutdown(self) -> None:
        """Close nothing yet: while sockets are sent away, requests are still served."""
        self.open.end()

    @override
    async def shutdown(self, timeout: float | None = None) -> None:
        await self.open.finish()
        await super().shutdown(_CUT_S)


class Runner(web.AppRunner):
    """Runs an application on such connections."""

    __slots__ = ("_is_draining", "_is_stopping", "_limits")

    def __init__(
        self,
        app: web.Application,
        *,
        limits: Limits | None = None,
        is_draining: Callable[[], bool] | None = None,
    ) -> None:
        """`is_draining` tells that the server is about to stop, before it does."""
        self._limits = limits or Limits()
        self._is_stopping = False
        self._is_draining = is_draining or (lambda: False)
        super().__init__(app, access_log=None, shutdown_timeout=self._limits.shutdown_s)

    @override
    async def _make_server(self) -> web.Server:
        # aiohttp has no public way to choose the class of its connections.
        return Server(
            await super()._make_server(),
            self._limits,
            lambda: self._is_stopping or self._is_draining(),
        )

    @override
    async def cleanup(self) -> None:
        self._is_stopping = True
        await super().cleanup()
