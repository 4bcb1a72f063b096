"""People who use a server: accounts over REST, each with a connection to the gateway."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
import msgspec
from multidict import CIMultiDictProxy

from tests.support.gateway import UNASKED, Frame, Gateway, Op

if TYPE_CHECKING:
    from internal.app import App

Json = Any

PASSWORD = "correct horse battery staple"


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: Json, headers: CIMultiDictProxy[str]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def code(self) -> int:
        """The stable code in the one shape of errors."""
        return int(self.body["code"])


@contextmanager
def refused(status: int, code: int | None = None) -> Iterator[None]:
    """Expect the call inside to be refused just so."""
    refusal: Refused | None = None
    try:
        yield
    except Refused as given:
        refusal = given
    assert refusal is not None, f"was not refused with {status}"
    assert refusal.status == status, refusal
    assert code is None or refusal.code == code, refusal


class Answer(msgspec.Struct, frozen=True):
    """An answer of the server, whatever it says."""

    status: int
    headers: CIMultiDictProxy[str]
    content: bytes

    def json(self) -> Json:
        return msgspec.json.decode(self.content) if self.content else None


class Api:
    """REST calls with one set of headers."""

    def __init__(self, http: aiohttp.ClientSession, url: Callable[[], str]) -> None:
        self.headers: dict[str, str] = {}
        self._http = http
        self._url = url

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Answer:
        """One request as it stands; any answer is returned."""
        async with self._http.request(
            method,
            self._url() + path,
            # From a file, as the client warns of large bodies in memory.
            data=BytesIO(content) if content is not None else None,
            params=query,
            headers={**self.headers, **(headers or {})},
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **query: str | int) -> Json:
        return await self._json("GET", path, query=query)

    async def post(self, path: str, body: Json = None, **headers: str) -> Json:
        return await self._json("POST", path, body, headers=headers)

    async def put(self, path: str, body: Json = None, **headers: str) -> Json:
        return await self._json("PUT", path, body, headers=headers)

    async def patch(self, path: str, body: Json = None, **headers: str) -> Json:
        return await self._json("PATCH", path, body, headers=headers)

    async def delete(self, path: str, body: Json = None, **headers: str) -> Json:
        return await self._json("DELETE", path, body, headers=headers)

    async def _json(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Json:
        """`Idempotency_Key="…"` becomes the header Idempotency-Key."""
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        answer = await self.call(method, path, content=content, headers=sent, query=query)
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, answer.json(), answer.headers)
        return answer.json()


class Person(Api):
    """Somebody with an account, signed in."""

    def __init__(self, town: "Town", username: str) -> None:
        super().__init__(town.http, lambda: self.town.url)
        # The node that is spoken to; another one of the same service may take its place.
        self.town = town
        self.username = username
        self.email = f"{username}@example.org"
        self.password = PASSWORD
        self.id = ""
        self.access_token = ""
        self.refresh_token = ""
        self.session_id = ""
        self._gateway: Gateway | None = None
        self._fence_channel = ""

    @property
    def gateway(self) -> Gateway:
        """The connection that `connect` opened last."""
        assert self._gateway is not None, f"{self.username} is not connected"
        return self._gateway

    async def register(self, **more: Json) -> Json:
        names = {"username": self.username, "email": self.email, "password": self.password}
        return self.take(await self.post("/auth/register", {**names, **more}))

    async def login(self) -> Json:
        """Sign in anew: another login session, whose tokens are used from here on."""
        names = {"email": self.email, "password": self.password}
        return self.take(await self.post("/auth/login", names))

    def take(self, pair: Json) -> Json:
        """Use the tokens of an answer to register, login or refresh."""
        self.id = pair["user"]["id"]
        self.access_token = pair["access_token"]
        self.refresh_token = pair["refresh_token"]
        self.session_id = pair["session_id"]
        self.headers["Authorization"] = f"Bearer {self.access_token}"
        return pair

    async def connect(self, **identify: Json) -> list[Frame]:
        """A new connection, identified; returns READY and the guilds."""
        self._gateway = await self.town.open_gateway()
        await self._gateway.expect_op(Op.HELLO)
        return await self._gateway.identify(self.access_token, **identify)

    async def watch(self) -> Gateway:
        """One more connection, identified, beside the one that `gateway` is."""
        gateway = await self.town.open_gateway()
        await gateway.expect_op(Op.HELLO)
        await gateway.identify(self.access_token)
        return gateway

    async def resume(self, session_id: str, seq: Json) -> Gateway:
        """A new connection that takes up an earlier one, as far as having asked for it."""
        self._gateway = await self.town.open_gateway()
        await self._gateway.expect_op(Op.HELLO)
        await self._gateway.resume(self.access_token, session_id, seq)
        return self._gateway

    async def say(self, channel_id: str, content: str, **more: Json) -> Json:
        return await self.post("/messages", {"channel_id": channel_id, "content": content, **more})

    async def direct(self, other: "Person") -> str:
        """The id of the channel of these two."""
        channel = await self.post("/users/@me/channels", {"recipient_id": other.id})
        return str(channel["id"])

    async def fence(self, *gateways: Gateway) -> None:
        """Wait until all that was committed by now has reached the connections.

        A direct message to somebody whom nobody else knows is the last event in the log; what
        lies before it was delivered before it.
        """
        if not self._fence_channel:
            self._fence_channel = await self.direct(await self.town.person("fence"))
        sent = await self.say(self._fence_channel, f"fence {uuid4()}")
        for gateway in gateways or (self.gateway,):
            await gateway.expect("MESSAGE_CREATE", id=sent["id"])

    async def heard_nothing(self, *kinds: str) -> None:
        """Nothing of these types (or nothing at all) came since what was expected last."""
        start = self.gateway.mark
        await self.fence()
        for frame in self.gateway.frames[start:]:
            if frame.op != Op.DISPATCH or self._is_of_fence(frame.d):
                continue
            if frame.t in UNASKED and frame.t not in kinds:
                continue
            assert kinds, f"{self.username} heard {frame.raw!r}"
            assert frame.t not in kinds, f"{self.username} heard {frame.raw!r}"

    def _is_of_fence(self, payload: Json) -> bool:
        return self._fence_channel in {payload.get("channel_id"), payload.get("id")}


class Guild(msgspec.Struct, frozen=True):
    """A guild with its first channel."""

    id: str
    channel_id: str


class Town:
    """A server and the people on it; closes their connections at the end."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: Callable[[], str],
        *,
        app: "App | None" = None,
        stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`app` and `stop` are the inside of a server in this process, and its end."""
        self.http = http
        self.app = app
        self._stop = stop
        self._url = url
        self._people: dict[str, Person] = {}
        self._gateways: list[Gateway] = []

    def shares_people_with(self, other: "Town") -> None:
        """Make this another node of the same service: who has an account there has it here."""
        self._people = other._people

    @property
    def url(self) -> str:
        """Where the server is now, without a slash at the end."""
        return self._url()

    @property
    def stranger(self) -> Api:
        """Somebody without an account."""
        return Api(self.http, self._url)

    async def person(self, username: str) -> Person:
        """Somebody of this name, with an account."""
        if username not in self._people:
            newcomer = Person(self, username)
            await newcomer.register()
            self._people[username] = newcomer
        return self._people[username]

    async def people(self, count: int, prefix: str = "citizen") -> list[Person]:
        names = [f"{prefix}{number}" for number in range(count)]
        return await asyncio.gather(*(self.person(name) for name in names))

    async def guild(self, owner: Person, *members: Person, name: str = "Tea house") -> Guild:
        """A guild of these people, the owner first."""
        made = await owner.post("/guilds", {"name": name, "discoverable": True})
        for member in members:
            await member.post(f"/guilds/{made['id']}/join")
        general = next(channel for channel in made["channels"] if channel["name"] == "general")
        return Guild(made["id"], general["id"])

    async def open_gateway(
        self, path: str = "/gateway?v=10&encoding=json", *, headers: Mapping[str, str] | None = None
    ) -> Gateway:
        """A connection without a word said."""
        url = self.url.replace("http", "ws", 1) + path
        gateway = await Gateway.open(url, headers=headers)
        self._gateways.append(gateway)
        return gateway

    async def stop_server(self) -> None:
        """Stop the server in this process as a signal would; the people stay."""
        assert self._stop is not None
        await self._stop()

    async def close(self) -> None:
        await asyncio.gather(*(gateway.close() for gateway in self._gateways))
