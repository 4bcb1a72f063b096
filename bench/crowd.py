"""The people of a replay: speakers who send over REST, readers who listen on the gateway."""

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import aiohttp
import msgspec
from conversation import Line

from tests.support.process import ServerProcess

PASSWORD = "a password of the replay"  # noqa: S105  # Of accounts that live for a minute.
CATCH_UP_S = 30.0
HEARTBEAT_S = 15.0


class Message(msgspec.Struct):
    """What the checks need of a message."""

    id: str
    nonce: str | None = None


class Frame(msgspec.Struct):
    """A frame of the gateway, its payload unread."""

    op: int
    t: str | None = None
    s: int | None = None
    d: msgspec.Raw = msgspec.Raw(b"null")


class Ready(msgspec.Struct):
    session_id: str


class Send:
    """A line on its way: when it was first sent, when and as which message it was acknowledged."""

    def __init__(self, number: int, line: Line) -> None:
        self.number = number
        self.line = line
        self.nonce = f"line-{number}"
        self.begun = 0.0
        self.acknowledged = 0.0
        self.message_id = ""
        self.attempts = 0
        self.done = asyncio.Event()


class Hearing(msgspec.Struct):
    """A message as a reader got it."""

    pos: int
    message_id: str
    at: float


class Town:
    """The server, who talks to it, and whether it is up."""

    def __init__(self, server: ServerProcess, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.http = http
        self.up = asyncio.Event()
        self.up.set()
        self.in_flight: set[Send] = set()

    async def post(self, path: str, body: object, token: str = "") -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with self.http.post(
            self.server.url + path, data=msgspec.json.encode(body), headers=headers
        ) as response:
            return response.status, await response.read()

    async def register(self, username: str, nick: str) -> str:
        """A new account; returns its access token."""
        email = f"{username}@example.org"
        body = {"username": username, "email": email, "password": PASSWORD, "global_name": nick}
        status, content = await self.post("/auth/register", body)
        if status != 201:
            raise SystemExit(f"{username} was not registered: {status} {content[:300]!r}")
        return str(msgspec.json.decode(content)["access_token"])

    async def say(self, token: str, channel_id: str, send: Send) -> None:
        """Send a line until it is acknowledged, under the same nonce each time."""
        body = {
            "channel_id": channel_id,
            "content": send.line.text,
            "nonce": send.nonce,
            "enforce_nonce": True,
        }
        send.begun = time.perf_counter()
        while not send.message_id:
            await self.up.wait()
            send.attempts += 1
            self.in_flight.add(send)
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                status, content = await self.post("/messages", body, token)
                if status == 201:
                    send.acknowledged = time.perf_counter()
                    send.message_id = msgspec.json.decode(content, type=Message).id
                elif status in {429, 503}:
                    await asyncio.sleep(msgspec.json.decode(content).get("retry_after", 0.1))
                else:
                    raise SystemExit(f"{send.line} was refused: {status} {content[:300]!r}")
            self.in_flight.discard(send)
        send.done.set()


class Reader:
    """Somebody who listens on the gateway, and takes up again where a connection broke."""

    def __init__(self, town: Town, token: str) -> None:
        self.heard: list[Hearing] = []
        self.resumes = 0
        self.identifies = 0
        self.ready = asyncio.Event()
        self._town = town
        self._token = token
        self._session_id = ""
        self._seq = 0
        self._wanted = sys.maxsize
        self._has_wanted = asyncio.Event()

    async def has_heard(self, count: int) -> None:
        """Wait for so many messages in all."""
        self._wanted = count
        if len(self.heard) < count:
            await self._has_wanted.wait()

    async def run(self) -> None:
        while True:
            await self._town.up.wait()
            with suppress(aiohttp.ClientError, OSError):
                url = f"{self._town.server.url}/gateway?v=10&encoding=json"
                async with self._town.http.ws_connect(url, max_msg_size=0) as socket:
                    beating = asyncio.create_task(self._beat(socket))
                    try:
                        await self._listen(socket)
                    finally:
                        beating.cancel()
            # Where it was up to now it is about to be told down.
            await asyncio.sleep(0.05)

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        decode = msgspec.json.Decoder(Frame).decode
        async for message in socket:
            frame = decode(message.data)
            if frame.op == 0:
                self._hear(frame)
            elif frame.op == 10:
                await self._greet(socket)
            elif frame.op == 9:
                self._session_id = ""
                await self._greet(socket)

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        d: dict[str, object] = {"token": self._token}
        if self._session_id:
            op, d["session_id"], d["seq"] = 6, self._session_id, self._seq
        else:
            op, d["intents"], d["properties"] = 2, 53608447, {}
            self.identifies += 1
        await socket.send_bytes(msgspec.json.encode({"op": op, "d": d}))

    def _hear(self, frame: Frame) -> None:
        if frame.t == "MESSAGE_CREATE":
            message = msgspec.json.decode(frame.d, type=Message)
            self.heard.append(Hearing(frame.s or 0, message.id, time.perf_counter()))
            if len(self.heard) >= self._wanted:
                self._has_wanted.set()
        elif frame.t == "READY":
            self._session_id = msgspec.json.decode(frame.d, type=Ready).session_id
        elif frame.t == "GUILD_CREATE":
            self.ready.set()
        elif frame.t == "RESUMED":
            self.resumes += 1
        if frame.s is not None:
            self._seq = frame.s

    async def _beat(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        with suppress(aiohttp.ClientError, ConnectionError):
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                await socket.send_bytes(msgspec.json.encode({"op": 1, "d": self._seq or None}))


async def read_history(town: Town, token: str, channel_id: str) -> list[str]:
    """The ids of all messages of the channel, newest first, as REST tells them."""
    ids: list[str] = []
    headers = {"Authorization": f"Bearer {token}"}
    while True:
        before = f"&before={ids[-1]}" if ids else ""
        url = f"{town.server.url}/messages/channel/{channel_id}?limit=100{before}"
        async with town.http.get(url, headers=headers) as response:
            page = msgspec.json.decode(await response.read(), type=list[Message])
        ids += [message.id for message in page]
        if not page:
            return ids


async def settle(readers: Sequence[Reader], expected: int) -> None:
    """Give the readers time to hear the last lines."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CATCH_UP_S):
            await asyncio.gather(*(reader.has_heard(expected) for reader in readers))


async def open_guild(town: Town, owner: str, members: Sequence[str]) -> str:
    """A guild that everybody has joined; returns its channel."""
    status, content = await town.post("/guilds", {"name": "Replay", "discoverable": True}, owner)
    if status != 201:
        raise SystemExit(f"The guild was not made: {status} {content[:300]!r}")
    guild = msgspec.json.decode(content)
    for start in range(0, len(members), 32):
        await asyncio.gather(
            *(
                town.post(f"/guilds/{guild['id']}/join", {}, token)
                for token in members[start : start + 32]
            )
        )
    return str(guild["channels"][0]["id"])


async def register_all(town: Town, nicks: Sequence[str], prefix: str) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for start in range(0, len(nicks), 32):
        batch = nicks[start : start + 32]
        names = [f"{prefix}{start + n}_{_plain(nick)}"[:32] for n, nick in enumerate(batch)]
        made = await asyncio.gather(*map(town.register, names, (nick[:32] for nick in batch)))
        tokens.update(zip(batch, made, strict=True))
    return tokens


def _plain(nick: str) -> str:
    """What of a nick may stand in a username."""
    return re.sub(r"[^a-z0-9_.]", "", nick.lower())
