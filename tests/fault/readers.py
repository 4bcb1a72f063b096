"""Clients of the gateway: they listen, break off, stall, resume, and write down what they heard."""

import asyncio
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec

from tests.fault.calls import Account, marker
from tests.fault.history import Heard, History, Op, Turn
from tests.support.gateway import Op as Opcode

Json = Any

_CONNECT_S = 2.5
_BEAT_S = 1.0
# A connection that says nothing for so long, not even to a heartbeat, is given up.
_SILENCE_S = 3.5
_SENT_S = 8.0
_PUT_OFF_S = (0.3, 1.0)
_AUTHENTICATION_FAILED = 4004


class Frame(msgspec.Struct):
    """A frame of the gateway, its payload unread."""

    op: int
    t: str | None = None
    s: int | None = None
    d: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    """What is read of payloads while the run goes on."""

    content: str = ""
    session_id: str = ""


_frame = msgspec.json.Decoder(Frame).decode
_named = msgspec.json.Decoder(_Named).decode


class Habits(msgspec.Struct, frozen=True):
    """How often a reader misbehaves, in seconds between two times; 0 for never."""

    drops: float = 0
    stalls: float = 0
    # How long it is away, or does not read.
    away: float = 1.0
    # It ends its login session now and then, and signs in anew.
    logs_out: float = 0
    # It resumes elsewhere while its connection still stands, and goes on listening to both.
    haunts: float = 0


class Reader:
    """One client. Its history has every frame that it got, over all its connections."""

    def __init__(
        self,
        account: Account,
        history: History,
        http: aiohttp.ClientSession,
        node: Callable[[], str],
        habits: Habits,
        chance: random.Random,
    ) -> None:
        self.account = account
        self.history = history
        self.is_ready = asyncio.Event()
        # Set at the end: from then on it behaves.
        self.is_calm = False
        self.frames = 0
        self.silence_s = _SILENCE_S
        self.name_of: Callable[[str], str] = str
        # The last payload that anybody heard at each position.
        self.payloads: dict[int, msgspec.Raw] = {}
        self._http = http
        self._node = node
        self._habits = habits
        self._chance = chance
        self._session_id = ""
        self._seq = 0
        self._sockets = 0
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._heard: set[str] = set()
        self._awaited: dict[str, asyncio.Event] = {}
        self._goal = sys.maxsize
        self._arrived = asyncio.Event()
        self._sent: dict[str, asyncio.Future[Json]] = {}
        self._last_heard = 0.0
        self._beaten = 0.0
        self._next_turn = 0.0
        self._is_haunting = False
        self._ghosts: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self.history.name

    async def has_heard(self, words: str) -> None:
        """Wait for a message with these words."""
        if words not in self._heard:
            await self._awaited.setdefault(words, asyncio.Event()).wait()

    async def has_reached(self, pos: int) -> None:
        """Wait for this position or a later one, by whatever way it comes."""
        self._goal = pos
        if self._seq < pos:
            await self._arrived.wait()

    async def run(self) -> None:
        """Listen until cancelled."""
        try:
            await self._run()
        finally:
            for ghost in self._ghosts:
                ghost.cancel()
            await asyncio.gather(*self._ghosts, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._sockets += 1
            code = 0
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                node = self._node()
                async with asyncio.timeout(_CONNECT_S):
                    url = f"{node}/gateway?v=10&encoding=json"
                    socket = await self._http.ws_connect(url, max_msg_size=0)
                self._turn("open", node=self.name_of(node))
                try:
                    await self._listen(socket)
                finally:
                    if self._is_haunting:
                        self._let_go(socket)
                    else:
                        self._break_off(socket)
                code = socket.close_code or 0
            self._turn("closed", code=code)
            if code == _AUTHENTICATION_FAILED:
                await self._sign_in_anew()
            away = 0.05 if self.is_calm else self._chance.random() * self._away()
            await asyncio.sleep(max(0.05, away))

    async def say(self, channel_id: str, words: str) -> Op:
        """Send over the gateway; by REST under the same nonce if that breaks off."""
        nonce = marker(words)
        op = self.history.invoke("send", channel_id=channel_id, words=words, nonce=nonce)
        op.attempts += 1
        socket = self._socket
        answer: Json = None
        if socket is not None and self.is_ready.is_set():
            waiting = self._sent[nonce] = asyncio.get_running_loop().create_future()
            body = {"channel_id": channel_id, "content": words, "nonce": nonce}
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(_SENT_S):
                    await socket.send_bytes(msgspec.json.encode({"op": Opcode.SEND, "d": body}))
                    answer = await waiting
            del self._sent[nonce]
        if answer is not None and "message" in answer:
            self.history.end(op, "ok", status=201, result=answer["message"])
        else:
            await self.account.settle(self.history, op)
        return op

    # One connection.

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._last_heard = self._beaten = time.monotonic()
        self._plan()
        while True:
            await self._beat(socket)
            if not self.is_calm and time.monotonic() > self._next_turn:
                if await self._misbehave():
                    return
                self._plan()
            try:
                message = await socket.receive(timeout=0.5)
            except TimeoutError:
                continue
            if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                return
            self._last_heard = time.monotonic()
            await self._take(socket, _frame(message.data))

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, frame: Frame) -> None:
        match frame.op:
            case Opcode.DISPATCH:
                self._hear(socket, frame)
            case Opcode.HELLO:
                await self._greet(socket)
            case Opcode.INVALID_SESSION:
                self._turn("invalid", seq=self._seq)
                if not self._seq:
                    # The node has no time for newcomers.
                    await asyncio.sleep(self._chance.uniform(*_PUT_OFF_S))
                self._session_id, self._seq = "", 0
                await self._greet(socket)
            case Opcode.SENT:
                answer = msgspec.json.decode(frame.d)
                waiting = self._sent.get(answer["nonce"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
            case _:
                return

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        d: dict[str, Json] = {"token": self.account.token}
        if self._session_id and self._seq:
            op, d["session_id"], d["seq"] = Opcode.RESUME, self._session_id, self._seq
            self._turn("resume", seq=self._seq)
        else:
            op, d["intents"], d["properties"] = Opcode.IDENTIFY, 53608447, {}
            self._turn("identify", login=self.account.session_id)
        await socket.send_bytes(msgspec.json.encode({"op": op, "d": d}))

    def _hear(self, socket: aiohttp.ClientWebSocketResponse, frame: Frame) -> None:
        kind, s = frame.t or "", frame.s or 0
        d = self._shared(bytes(frame.d), s)
        self.history.note(Heard(time.monotonic(), self._sockets, kind, s, d))
        self.frames += 1
        self._seq = s
        if s >= self._goal:
            self._arrived.set()
        if kind == "MESSAGE_CREATE":
            words = marker(_named(d).content)
            self._heard.add(words)
            if (event := self._awaited.get(words)) is not None:
                event.set()
        elif kind == "READY":
            self._session_id = _named(d).session_id
        if s and not self.is_ready.is_set():
            self._socket = socket
            self.is_ready.set()

    def _shared(self, payload: bytes, s: int) -> msgspec.Raw:
        """What all readers are told alike is kept once, or a long run would fill the memory."""
        known = self.payloads.get(s)
        if known is not None and bytes(known) == payload:
            return known
        fresh = msgspec.Raw(payload)
        if s:
            self.payloads[s] = fresh
        return fresh

    async def _beat(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        now = time.monotonic()
        if now - self._last_heard > self.silence_s:
            raise TimeoutError
        if now - self._beaten > _BEAT_S:
            self._beaten = now
            beat = {"op": Opcode.HEARTBEAT, "d": self._seq or None}
            await socket.send_bytes(msgspec.json.encode(beat))

    def _let_go(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Leave a connection as it is, and write down what it still says."""
        self._is_haunting = False
        self._leave()
        ghost = asyncio.create_task(self._haunt(socket, self._sockets))
        self._ghosts.add(ghost)
        ghost.add_done_callback(self._ghosts.discard)

    async def _haunt(self, socket: aiohttp.ClientWebSocketResponse, number: int) -> None:
        try:
            while True:
                message = await socket.receive()
                if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                    break
                frame = _frame(message.data)
                if frame.op == Opcode.DISPATCH:
                    self.history.note(Turn(time.monotonic(), number, "ghost", frame.s or 0))
        finally:
            code = socket.close_code or 0
            self.history.note(Turn(time.monotonic(), number, "laid", code=code))
            _abort(socket)

    def _break_off(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """As one whose network is gone: no closing handshake."""
        self._leave()
        _abort(socket)

    def _leave(self) -> None:
        self._socket = None
        self.is_ready.clear()
        for waiting in self._sent.values():
            if not waiting.done():
                waiting.set_result(None)

    # How it behaves.

    def _away(self) -> float:
        return self._habits.away

    def _plan(self) -> None:
        habits = self._habits
        paces = [p for p in (habits.drops, habits.stalls, habits.logs_out, habits.haunts) if p]
        wait = self._chance.expovariate(sum(1 / pace for pace in paces)) if paces else 1e9
        self._next_turn = time.monotonic() + wait

    async def _misbehave(self) -> bool:
        """Stall, or else end the connection, or leave it to itself: True."""
        habits = self._habits
        choices = {
            "stall": habits.stalls,
            "drop": habits.drops,
            "logout": habits.logs_out,
            "haunt": habits.haunts,
        }
        likely = {what: 1 / pace for what, pace in choices.items() if pace}
        what = self._chance.choices(list(likely), list(likely.values()))[0]
        self._turn(what, seq=self._seq)
        self._is_haunting = what == "haunt"
        if what == "stall":
            await asyncio.sleep(self._chance.random() * habits.away * 3)
            # It was us who were silent.
            self._last_heard = time.monotonic()
            return False
        if what == "logout":
            op = self.history.invoke("logout", session_id=self.account.session_id)
            await self.account.once(self.history, op, "POST", "/auth/logout", None)
            # The server must end this connection.
            return False
        return True

    async def _sign_in_anew(self) -> None:
        self._turn("signed_out", seq=self._seq)
        self._session_id, self._seq = "", 0
        await self.account.sign_in()

    def _turn(
        self, what: str, *, seq: int = 0, code: int = 0, node: str = "", login: str = ""
    ) -> None:
        self.history.note(Turn(time.monotonic(), self._sockets, what, seq, code, node, login))


def _abort(socket: aiohttp.ClientWebSocketResponse) -> None:
    connection = socket._response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
