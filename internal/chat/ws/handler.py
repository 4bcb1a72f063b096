"""The way into the gateway: the WebSocket handshake, and the transport's change of hands.

aiohttp answers the request, then its protocol object is replaced by ours: a socket costs one small
object instead of a task, a stream and a response. docs/adr/0006-hub.md has the reasons, and
tests/e2e/test_takeover.py watches the parts of aiohttp that this relies on.
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from internal.chat.ws.client import Client
from internal.chat.ws.service import GatewayService
from internal.chat.ws.session import Allowance, Session
from internal.errors import BadOrigin, HttpError, Unavailable, UpgradeRequired
from internal.utils import deadline
from internal.utils.gate import come_back_s
from internal.utils.request import ADDRESS

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16


class _TakenOver(web.Response):
    """Stands for the answer that was written already. aiohttp has nothing left to send."""

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        return


class GatewayHandler:
    """Upgrades requests to gateway sockets."""

    def __init__(
        self, gateway: GatewayService, *, origins: Collection[str], public_origin: str
    ) -> None:
        self._gateway = gateway
        self._origins = {*origins, public_origin.lower()}

    async def get(self, request: web.Request) -> web.StreamResponse:
        accept = self._check(request)
        # What the socket does later is no part of this request.
        deadline.lift()
        address = request[ADDRESS]
        if not self._gateway.admit(address):
            raise Unavailable(retry_after=come_back_s())
        token = request.query.get("token")
        limits = self._gateway.limits
        loop = asyncio.get_running_loop()
        session = Session(
            interval_s=limits.heartbeat_s,
            identify_s=limits.identify_s,
            now=loop.time(),
            sends=Allowance(limits.send_burst, limits.sends_per_s, loop.time()),
        )
        client = Client(
            session,
            self._gateway,
            self._gateway.hub,
            max_message=limits.message_bytes,
            address=address,
        )
        transport, early = _take_over(request)
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        client.start(transport, limits.slow_reader_bytes, early)
        self._gateway.welcome(client, token)
        return _TakenOver(status=101)

    def _check(self, request: web.Request) -> bytes:
        """Refuse what is no handshake of ours; the accept key of what is."""
        wanted = request.headers.get(hdrs.UPGRADE, "").strip().lower()
        if wanted != "websocket" or request.version < HttpVersion11:
            raise UpgradeRequired
        # A body would be read as frames by us and as a second request by a proxy.
        if request.headers.get(hdrs.TRANSFER_ENCODING) or (request.content_length or 0) > 0:
            raise HttpError("A handshake has no body")
        if "upgrade" not in request.headers.get(hdrs.CONNECTION, "").lower():
            raise HttpError("A handshake says `Connection: Upgrade`")
        if request.headers.get(hdrs.SEC_WEBSOCKET_VERSION) != "13":
            raise HttpError("This server speaks version 13 of WebSocket")
        key = request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "").strip()
        try:
            if len(base64.b64decode(key, validate=True)) != _KEY_BYTES:
                raise HttpError("Sec-WebSocket-Key is 16 bytes in base64")
        except (binascii.Error, ValueError):
            raise HttpError("Sec-WebSocket-Key is 16 bytes in base64") from None
        self._check_origin(request)
        if request.query.get("v", "10") != "10":
            raise HttpError("This server speaks version 10 of the gateway")
        if request.query.get("encoding", "json") != "json":
            raise HttpError("This gateway speaks `encoding=json` only")
        if request.query.get("compress"):
            raise HttpError("This gateway does not compress; leave `compress` out")
        digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
        return base64.b64encode(digest)

    def _check_origin(self, request: web.Request) -> None:
        """A page of a stranger must not open a socket from its reader's browser.

        Programs send no Origin. Browsers always do: the server's own, or a listed one.
        """
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or origin in self._origins or "*" in self._origins:
            return
        try:
            host = urlsplit(origin).netloc
        except ValueError:  # Brackets without an address, or letters that look like others.
            raise BadOrigin from None
        if host.lower() != request.host.lower():
            raise BadOrigin


def _take_over(request: web.Request) -> tuple[asyncio.Transport, bytes]:
    """Separate the connection from aiohttp; its transport, and the bytes behind the request."""
    protocol = request.protocol
    transport = protocol.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    # Private, but the only way to what arrived in the same packet as the request.
    early = protocol._message_tail  # noqa: SLF001
    # As if the connection were lost: aiohttp lets go of it and ends its task. It would close the
    # transport that it knows, so it must know none.
    protocol.transport = None
    protocol.connection_lost(None)
    return transport, early
