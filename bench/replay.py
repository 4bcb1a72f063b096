"""Replays a conversation through the real server and kills that on the way; nothing may be lost.

Every speaker is an account and every line a send over REST, retried with the same nonce until it
is acknowledged, while readers listen on the gateway and resume after each kill.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
import conversation
import msgspec
import psutil
from conversation import Line

from tests.support.process import ServerProcess

PASSWORD = "a password of the replay"  # noqa: S105  # Of accounts that live for a minute.
DISCORD_EPOCH_S = 1_420_070_400
ATTEMPT_S = 15.0
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


class Kill(msgspec.Struct):
    """One `kill -9`, and what was under way at that moment."""

    at_line: int
    in_flight: int
    committed: int
    down_s: float


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


class Replay:
    """The lines in their order, with a window of them under way at a time."""

    def __init__(self, town: Town, sends: Sequence[Send], tokens: dict[str, str]) -> None:
        self.kills: list[Kill] = []
        self.repeated = 0
        self._town = town
        self._sends = sends
        self._tokens = tokens

    async def run(self, channel_id: str, *, window: int, kills: int, with_postgres: bool) -> None:
        """Begin every line in the file's order, each after its speaker's last was acknowledged."""
        room = asyncio.Semaphore(window)
        last_of: dict[str, asyncio.Task[None]] = {}
        killing: asyncio.Task[None] | None = None
        kill_at = self._next_kill(0, kills)
        async with asyncio.TaskGroup() as tasks:
            for send in self._sends:
                if (last := last_of.get(send.line.nick)) is not None:
                    await last
                await room.acquire()
                token = self._tokens[send.line.nick]
                task = tasks.create_task(self._town.say(token, channel_id, send))
                task.add_done_callback(lambda _: room.release())
                last_of[send.line.nick] = task
                if kill_at is not None and send.number >= kill_at:
                    if killing is not None:
                        await killing
                    killing = tasks.create_task(self._kill(send.number, with_postgres))
                    kill_at = self._next_kill(len(self.kills) + 1, kills)
                if send.number % 250 == 0:
                    print(f"  line {send.number} of {len(self._sends)}", flush=True)
        while len(self.kills) < kills:
            raise SystemExit(f"Only {len(self.kills)} of {kills} kills found a send in flight.")

    def _next_kill(self, done: int, kills: int) -> int | None:
        return len(self._sends) * (done + 1) // (kills + 1) if done < kills else None

    async def _kill(self, number: int, with_postgres: bool) -> None:  # noqa: FBT001
        """`kill -9` while something is under way, again if nothing was; then start it again."""
        while True:
            # A little later than the line that was begun just now, so that it is on the wire.
            await asyncio.sleep(0.002)
            at_risk = {send: send.attempts for send in self._town.in_flight}
            killed, killed_at = time.perf_counter(), time.time()
            self._town.up.clear()
            self._town.server.signal(signal.SIGKILL)
            if with_postgres:
                kill_postgres(self._town.server)
            await self._town.server.ended()
            await self._town.server.start()
            self._town.up.set()
            down_s = time.perf_counter() - killed
            while any(not send.message_id for send in at_risk):
                await asyncio.sleep(0.01)
            unanswered = [send for send, attempts in at_risk.items() if send.attempts > attempts]
            if unanswered:
                break
            self.repeated += 1
        committed = sum(_made_at(send.message_id) < killed_at for send in unanswered)
        self.kills.append(Kill(number, len(unanswered), committed, round(down_s, 2)))
        print(
            f"  killed at line {number}: {len(unanswered)} sends in flight, {committed} of them"
            f" already on disk; up again after {down_s:.2f} s",
            flush=True,
        )


def kill_postgres(server: ServerProcess) -> None:
    """Kill the embedded PostgreSQL with everything that belongs to it."""
    pid = server.postmaster()
    if pid is None:
        return
    with suppress(psutil.NoSuchProcess):
        postmaster = psutil.Process(pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _made_at(message_id: str) -> float:
    """The Unix time in an id. A retry of a committed send gets the id of before the kill."""
    return (int(message_id) >> 22) / 1000 + DISCORD_EPOCH_S


class Findings(msgspec.Struct, kw_only=True):
    """What came out."""

    source: str
    speakers: int
    readers: int
    lines: int
    kills: list[Kill]
    kills_repeated: int
    acknowledged: int
    delivered: int
    lost: int
    duplicated: int
    out_of_order: int
    fresh_identifies: int
    resumes: int
    seconds: float
    messages_per_s: float
    send_p50_ms: float
    send_p99_ms: float
    delivery_p50_ms: float
    delivery_p99_ms: float
    send_p99_ms_with_outages: float
    delivery_p99_ms_with_outages: float

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.fresh_identifies)


def count_faults(
    sends: Sequence[Send], readers: Sequence[Reader], stored: Sequence[str]
) -> tuple[int, int, int]:
    """Lost, duplicated and out of order, over what is stored and what each reader heard."""
    acknowledged = {send.message_id for send in sends}
    lost = len(acknowledged - set(stored))
    # A line that was stored twice has an id that nobody was told.
    duplicated = len(stored) - len(set(stored)) + len(set(stored) - acknowledged)
    duplicated += len(sends) - len(acknowledged)
    out_of_order = 0
    positions: dict[str, int] = {}
    for reader in readers:
        times_heard = Counter(hearing.message_id for hearing in reader.heard)
        lost += len(acknowledged - times_heard.keys())
        duplicated += sum(times_heard.values()) - len(times_heard)
        out_of_order += sum(
            later.pos <= earlier.pos
            for earlier, later in zip(reader.heard, reader.heard[1:], strict=False)
        )
        for hearing in reader.heard:
            # Another position than somebody else was told: they disagree on the order.
            known = positions.setdefault(hearing.message_id, hearing.pos)
            out_of_order += known != hearing.pos
    return lost, duplicated, out_of_order + overtaken(sends, positions)


def overtaken(sends: Sequence[Send], positions: dict[str, int]) -> int:
    """How many lines lie before one that was acknowledged before they were begun."""
    found = 0
    earliest_later_ack = float("inf")
    in_order = sorted(sends, key=lambda send: positions.get(send.message_id, 0), reverse=True)
    for send in in_order:
        found += earliest_later_ack < send.begun
        earliest_later_ack = min(earliest_later_ack, send.acknowledged)
    return found


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1)


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
    deadline = time.perf_counter() + CATCH_UP_S
    while time.perf_counter() < deadline and any(len(r.heard) < expected for r in readers):
        await asyncio.sleep(0.05)


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


async def replay(options: argparse.Namespace, town: Town) -> Findings:
    source, lines = conversation.load(options.log)
    sends = [Send(number, line) for number, line in enumerate(lines)]
    nicks = sorted({line.nick for line in lines})
    print(f"Replaying {source}: {len(lines)} lines of {len(nicks)} speakers", flush=True)
    tokens = await register_all(town, nicks, "s")
    listeners = await register_all(town, [f"reader {n}" for n in range(options.readers)], "r")
    owner = await town.register("host", "host")
    channel_id = await open_guild(town, owner, [*tokens.values(), *listeners.values()])
    readers = [Reader(town, token) for token in listeners.values()]
    listening = [asyncio.create_task(reader.run()) for reader in readers]
    async with asyncio.timeout(CATCH_UP_S):
        await asyncio.gather(*(reader.ready.wait() for reader in readers))
    print(f"  {len(nicks)} speakers are in, {len(readers)} readers listen", flush=True)
    run = Replay(town, sends, tokens)
    begun = time.perf_counter()
    await run.run(
        channel_id,
        window=options.window,
        kills=options.kills,
        with_postgres=options.kill_postgres,
    )
    seconds = time.perf_counter() - begun
    await settle(readers, len(sends))
    stored = await read_history(town, owner, channel_id)
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    lost, duplicated, out_of_order = count_faults(sends, readers, stored)
    by_id = {send.message_id: send for send in sends}
    heard = [(by_id[h.message_id], h) for r in readers for h in r.heard if h.message_id in by_id]
    downtime = sum(kill.down_s for kill in run.kills)
    calm = {send for send in sends if send.attempts == 1 and send.acknowledged - send.begun < 1}
    return Findings(
        source=source,
        speakers=len(nicks),
        readers=len(readers),
        lines=len(sends),
        kills=run.kills,
        kills_repeated=run.repeated,
        acknowledged=sum(bool(send.message_id) for send in sends),
        delivered=len(heard),
        lost=lost,
        duplicated=duplicated,
        out_of_order=out_of_order,
        fresh_identifies=sum(reader.identifies for reader in readers) - len(readers),
        resumes=sum(reader.resumes for reader in readers),
        seconds=round(seconds, 1),
        messages_per_s=round(len(sends) / (seconds - downtime), 1),
        send_p50_ms=percentile([s.acknowledged - s.begun for s in calm], 0.5),
        send_p99_ms=percentile([s.acknowledged - s.begun for s in calm], 0.99),
        delivery_p50_ms=percentile([h.at - s.begun for s, h in heard if s in calm], 0.5),
        delivery_p99_ms=percentile([h.at - s.begun for s, h in heard if s in calm], 0.99),
        send_p99_ms_with_outages=percentile([s.acknowledged - s.begun for s in sends], 0.99),
        delivery_p99_ms_with_outages=percentile([h.at - s.begun for s, h in heard], 0.99),
    )


def show(found: Findings) -> None:
    flights = ", ".join(f"{kill.in_flight} ({kill.committed} on disk)" for kill in found.kills)
    print(f"""
{found.source}: {found.lines} lines, {found.speakers} speakers, {found.readers} readers
sends in flight at each kill -9   {flights or "none"}; repeated {found.kills_repeated}
acknowledged                      {found.acknowledged}
delivered                         {found.delivered} of {found.acknowledged * found.readers}
lost                              {found.lost}
duplicated                        {found.duplicated}
out of order                      {found.out_of_order}
resumed / had to identify anew    {found.resumes} / {found.fresh_identifies}
messages per second               {found.messages_per_s} while the server was up
send p50 / p99                    {found.send_p50_ms} / {found.send_p99_ms} ms\
 ({found.send_p99_ms_with_outages} with the outages)
delivery p50 / p99                {found.delivery_p50_ms} / {found.delivery_p99_ms} ms\
 ({found.delivery_p99_ms_with_outages} with the outages)
{"Nothing was lost, doubled or out of order." if found.is_clean else "THE PROMISE WAS BROKEN."}""")


async def main(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="parley-replay-") as folder:
        server = ServerProcess(Path(folder) / "var", {"LOG_LEVEL": "warning"})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            server,
            aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
        ):
            try:
                found = await replay(options, Town(server, http))
            except BaseException:
                print(server.tail(), file=sys.stderr)
                raise
        print(server.tail(20) if options.verbose else "", end="")
    show(found)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.encode(found))
    return 0 if found.is_clean else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", nargs="*", help="logs by path or by name; the first by default")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--window", type=int, default=16, help="lines under way at a time")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--kill-postgres", action="store_true", help="kill the database as well")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--verbose", action="store_true", help="show the server's last lines")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(asyncio.run(main(arguments())))
