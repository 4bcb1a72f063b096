"""The load of the benchmark, in a process of its own: raw sockets that count and do little else.

Reads one Task as JSON from its standard input and prints one Result as JSON.
"""

import asyncio
import base64
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

import msgspec
from typing_extensions import override

MARK = b"~mark~"
READY = b'"t":"GUILD_CREATE"'
HANDSHAKES = 64
OPEN_S = 90.0
LATE_S = 5.0


class Task(msgspec.Struct, kw_only=True):
    """What to do to which server."""

    kind: Literal["fan", "idle", "send"]
    port: int
    server_pid: int
    tokens: list[str]
    channel_id: str
    sockets: int = 0
    guilds: int = 1
    publishers: int = 8
    window: int = 8
    payload: int = 250
    warm_s: float = 1.0
    measured_s: float = 5.0


class Result(msgspec.Struct, kw_only=True):
    """What was measured. Times are in milliseconds, CPU in microseconds of the server."""

    seconds: float = 0.0
    deliveries: int = 0
    acknowledged: int = 0
    refused: int = 0
    cpu_us: float = 0.0
    load_cpu_share: float = 0.0
    ack_p50_ms: float = 0.0
    ack_p99_ms: float = 0.0
    rss_kb_before: int = 0
    rss_kb_after: int = 0
    connect_s: float = 0.0
    missing: int = 0


class Listener(asyncio.Protocol):
    """A gateway socket that identifies by its address and counts marks."""

    def __init__(self, load: "Load", request: bytes, on_ready: Callable[[], None]) -> None:
        self._load = load
        self._request = request
        self._on_ready = on_ready
        self._guilds_left = load.task.guilds
        self._tail = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, as uvloop's transports are none of asyncio's by inheritance.
        opened = cast("asyncio.Transport", transport)
        self._load.transports.append(opened)
        opened.write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        content = self._tail + data
        if self._guilds_left:
            self._guilds_left -= content.count(READY)
            self._tail = content[-len(READY) + 1 :]
            if self._guilds_left <= 0:
                self._guilds_left = 0
                self._tail = b""
                self._on_ready()
            return
        # The tail is too short to hold a whole mark, so nothing is counted twice.
        self._tail = content[-len(MARK) + 1 :]
        if marks := content.count(MARK):
            self._load.heard(marks)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.is_over:
            sys.exit(f"a socket was closed by the server: {exc or self._tail!r}")


class Sender(asyncio.Protocol):
    """A keep-alive connection with one request under way at a time."""

    def __init__(self, load: "Load", request: bytes) -> None:
        self._load = load
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._begun = 0.0
        self._buffer = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._load.transports.append(self._transport)
        self._load.idle_senders.append(self)

    def send(self) -> None:
        if self._transport is not None:
            self._begun = time.perf_counter()
            self._transport.write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        is_taken = head.startswith(b"HTTP/1.1 201")
        if not is_taken and not self._load.result.refused:
            print(f"refused: {head[:60]!r} {body[:200]!r}", file=sys.stderr)
        self._load.acknowledged(self, time.perf_counter() - self._begun, is_taken=is_taken)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.is_over:
            sys.exit(f"a sender was closed by the server: {exc or self._buffer!r}")


class Load:
    """One task under way."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.result = Result()
        self.transports: list[asyncio.Transport] = []
        self.idle_senders: list[Sender] = []
        self.is_over = False
        self._is_publishing = False
        self._sent = 0
        self._heard = 0
        self._expected = sys.maxsize
        self._all_heard = asyncio.Event()
        self._latencies: list[float] = []

    async def run(self) -> Result:
        self.result.rss_kb_before = rss_kb(self.task.server_pid)
        begun = time.perf_counter()
        async with asyncio.timeout(OPEN_S):
            await self._listen()
        self.result.connect_s = round(time.perf_counter() - begun, 2)
        if self.task.kind == "idle":
            await asyncio.sleep(self.task.measured_s)
            self.result.rss_kb_after = rss_kb(self.task.server_pid)
        else:
            await self._publish()
        self.is_over = True
        for transport in self.transports:
            transport.abort()
        return self.result

    def heard(self, marks: int) -> None:
        self._heard += marks
        if self._heard >= self._expected:
            self._all_heard.set()
        if self._is_publishing and self.task.kind == "fan":
            self._fill()

    def acknowledged(self, sender: Sender, seconds: float, *, is_taken: bool) -> None:
        self._latencies.append(seconds)
        self.result.refused += not is_taken
        if self._is_publishing and self.task.kind == "send":
            self._sent += 1
            sender.send()
            return
        self.idle_senders.append(sender)
        if self._is_publishing:
            self._fill()

    def _fill(self) -> None:
        """Keep the window full: a message is through once every socket has heard it."""
        under_way = self._sent - self._heard // max(1, self.task.sockets)
        while under_way < self.task.window and self.idle_senders:
            self.idle_senders.pop().send()
            self._sent += 1
            under_way += 1

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(HANDSHAKES)
        tokens = self.task.tokens

        async def open_one(number: int) -> None:
            async with room:
                ready = loop.create_future()
                await loop.create_connection(
                    lambda: Listener(
                        self, upgrade(self.task.port, tokens[number % len(tokens)]), ready_of(ready)
                    ),
                    "127.0.0.1",
                    self.task.port,
                )
                await ready

        await asyncio.gather(*(open_one(number) for number in range(self.task.sockets)))

    async def _publish(self) -> None:
        await self._connect_senders()
        self._is_publishing = True
        if self.task.kind == "send":
            for sender in self.idle_senders:
                sender.send()
        else:
            self._fill()
        await asyncio.sleep(self.task.warm_s)
        self._latencies.clear()
        heard, cpu, own_cpu = self._heard, cpu_s(self.task.server_pid), time.process_time()
        begun = time.perf_counter()
        await asyncio.sleep(self.task.measured_s)
        result = self.result
        result.seconds = time.perf_counter() - begun
        result.deliveries = self._heard - heard
        result.acknowledged = len(self._latencies)
        result.cpu_us = (cpu_s(self.task.server_pid) - cpu) * 1e6
        result.load_cpu_share = (time.process_time() - own_cpu) / result.seconds
        ordered = sorted(self._latencies) or [0.0]
        result.ack_p50_ms = ordered[len(ordered) // 2] * 1000
        result.ack_p99_ms = ordered[len(ordered) * 99 // 100] * 1000
        self._is_publishing = False
        await self._settle()

    async def _settle(self) -> None:
        """Wait for what is still on its way, and count what never came."""
        self._expected = self._sent * self.task.sockets
        self.heard(0)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_heard.wait(), LATE_S)
        self.result.missing = self._expected - self._heard if self.task.kind == "fan" else 0

    async def _connect_senders(self) -> None:
        loop = asyncio.get_running_loop()
        tokens = self.task.tokens
        for number in range(self.task.publishers):
            request = post(self.task, tokens[number % len(tokens)])
            await loop.create_connection(
                lambda request=request: Sender(self, request),  # type: ignore[misc]  # bound here
                "127.0.0.1",
                self.task.port,
            )


def ready_of(future: "asyncio.Future[None]") -> Callable[[], None]:
    return lambda: None if future.done() else future.set_result(None)


def upgrade(port: int, token: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /gateway?v=10&encoding=json&token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def post(task: Task, token: str) -> bytes:
    filler = "the quick brown fox jumps over a lazy dog " * (task.payload // 42 + 1)
    content = (MARK.decode() + filler)[: task.payload]
    body = msgspec.json.encode({"channel_id": task.channel_id, "content": content})
    return (
        f"POST /messages HTTP/1.1\r\nHost: 127.0.0.1:{task.port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def cpu_s(pid: int) -> float:
    """User and system seconds of one process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError(f"process {pid} has no memory")


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        import uvloop  # noqa: PLC0415  # Lighter where it is there, and not needed.
    except ImportError:
        result = asyncio.run(Load(task).run())
    else:
        result = uvloop.run(Load(task).run())
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
