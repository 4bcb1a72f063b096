"""REST calls of one account, each an operation whose outcome is known, or known to be unknown."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from tests.fault.history import History, Op, Outcome, ServerError

Json = Any

# What takes longer has an unknown outcome. Some are less patient than others.
CALL_S = 8.0
IMPATIENT_S = 2.0
# What nobody answered within this is given up: a server that is gone for good.
GIVE_UP_S = 60.0
# How long a client that retries as documented may take, and the longest time between two tries.
INSIST_S = 15.0
_PAUSE_S = 1.0
PASSWORD = "correct horse battery staple"

LOST = (aiohttp.ClientError, OSError, TimeoutError)
_NOT_DONE = {429}
MAYBE_DONE = range(500, 600)
# The one of these that a fault explains. The others are bugs, and put nothing in doubt.
_UNAVAILABLE = 503


def marker(words: str) -> str:
    """What a message is known by, whatever padding follows it."""
    return words.partition(" ")[0]


class Account:
    """Somebody who is signed in, and calls any of the nodes."""

    def __init__(
        self, http: aiohttp.ClientSession, node: Callable[[str], str], username: str
    ) -> None:
        """`node` gives the address of a node, another one than what it is told if it can."""
        self.username = username
        self.id = ""
        self.token = ""
        self.session_id = ""
        # Every status that was ever answered, and the answers that none may ever give.
        self.statuses: Counter[int] = Counter()
        self.errors: list[ServerError] = []
        self.in_flight = 0
        self.patience_s = CALL_S
        self.give_up_s = GIVE_UP_S
        self._http = http
        self._node = node
        # Where the last request failed: the next one goes elsewhere.
        self._failed = ""

    async def ask(self, method: str, path: str, body: Json = None) -> tuple[int, Json]:
        """One request, to any node; what is lost on the way is raised."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else msgspec.json.encode(body)
        node = self._node(self._failed)
        self._failed = node
        self.in_flight += 1
        try:
            async with (
                asyncio.timeout(self.patience_s),
                self._http.request(method, node + path, data=data, headers=headers) as response,
            ):
                content = await response.read()
        finally:
            self.in_flight -= 1
        self.statuses[response.status] += 1
        if response.status not in MAYBE_DONE:
            self._failed = ""
        elif response.status != _UNAVAILABLE:
            words = f"{method} {path} by {self.username} gave {response.status} {content!r}"
            self.errors.append(ServerError(words, time.monotonic()))
        return response.status, _read(content)

    async def must(self, method: str, path: str, body: Json = None) -> Json:
        """A request before or after the faults; it is tried until there is an answer."""
        until = time.monotonic() + GIVE_UP_S
        while True:
            try:
                status, answer = await self.ask(method, path, body)
            except LOST:
                status, answer = 503, None
            if 200 <= status < 300:
                return answer
            if status not in {429, *MAYBE_DONE} or time.monotonic() > until:
                raise AssertionError(f"{self.username}: {method} {path} gave {status} {answer}")
            await asyncio.sleep(0.1)

    async def sign_in(self, *, new: bool = False) -> None:
        """Another login session; with `new` the account is made."""
        names = {"email": f"{self.username}@example.org", "password": PASSWORD}
        self.token = ""
        if new:
            path, names["username"] = "/auth/register", self.username
        else:
            path = "/auth/login"
        pair = await self.must("POST", path, names)
        self.id, self.token = pair["user"]["id"], pair["access_token"]
        self.session_id = pair["session_id"]

    async def once(self, history: History, op: Op, method: str, path: str, body: Json) -> Op:
        """Try an operation that must not be repeated blindly."""
        until = time.monotonic() + self.give_up_s
        while time.monotonic() < until:
            op.attempts += 1
            try:
                status, answer = await self.ask(method, path, body)
            except aiohttp.ClientConnectorError:
                # Nobody was there to be told; somebody else may be.
                await asyncio.sleep(0.05)
                continue
            except LOST:
                history.doubt(op)
                history.end(op, "unknown")
                return op
            if status in MAYBE_DONE:
                if status == _UNAVAILABLE:
                    # What a fault explains shows that it hit; a bug shows nothing of it.
                    history.doubt(op)
                history.end(op, "unknown", status=status, result=answer)
            else:
                outcome: Outcome = "ok" if 200 <= status < 300 else "fail"
                history.end(op, outcome, status=status, result=answer)
            return op
        history.end(op, "fail")
        return op

    async def insist(self, history: History, op: Op, method: str, path: str, body: Json) -> Op:
        """Try what may be repeated until it is done, as the protocol tells clients to."""
        until = time.monotonic() + INSIST_S
        while time.monotonic() < until:
            op.attempts += 1
            retry_after = 0.1
            try:
                status, answer = await self.ask(method, path, body)
            except LOST:
                history.doubt(op)
            else:
                if status not in {*_NOT_DONE, *MAYBE_DONE}:
                    outcome: Outcome = "ok" if 200 <= status < 300 else "fail"
                    history.end(op, outcome, status=status)
                    return op
                retry_after = float((answer or {}).get("retry_after", retry_after))
            await asyncio.sleep(min(_PAUSE_S, retry_after))
        history.end(op, "unknown")
        return op

    async def send(self, history: History, channel_id: str, words: str) -> Op:
        """Send a message, again under the same nonce for as long as the outcome is unknown."""
        op = history.invoke("send", channel_id=channel_id, words=words, nonce=marker(words))
        await self.settle(history, op)
        return op

    async def settle(self, history: History, op: Op) -> None:
        """Try a send until it is certain what became of it."""
        body = {
            "channel_id": op.about["channel_id"],
            "content": op.about["words"],
            "nonce": op.about["nonce"],
            "enforce_nonce": True,
        }
        until = time.monotonic() + self.give_up_s
        # An operation that comes here again has been tried before.
        is_certain = op.attempts == 0
        while time.monotonic() < until:
            op.attempts += 1
            try:
                status, answer = await self.ask("POST", "/messages", body)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)
                continue
            except LOST:
                is_certain = False
                history.doubt(op)
                await asyncio.sleep(0.05)
                continue
            if 200 <= status < 300:
                history.end(op, "ok", status=status, result=answer)
                return
            if status not in {_UNAVAILABLE, *_NOT_DONE}:
                # A refusal of the repetition says nothing about what came before it, and a bug
                # nothing about anything: it would be met again and again.
                is_refused = is_certain and status not in MAYBE_DONE
                outcome: Outcome = "fail" if is_refused else "unknown"
                history.end(op, outcome, status=status, result=answer)
                return
            if status == _UNAVAILABLE:
                is_certain = False
                history.doubt(op)
            await asyncio.sleep(min(_PAUSE_S, float((answer or {}).get("retry_after", 0.1))))
        history.end(op, "unknown")


def _read(content: bytes) -> Json:
    """A body; what is no JSON comes from a server that broke, and its status tells."""
    try:
        return msgspec.json.decode(content) if content else None
    except msgspec.DecodeError:
        return None
