"""Replays a conversation through the real server and kills that on the way; nothing may be lost.

Every speaker is an account and every line a send over REST, retried with the same nonce until it
is acknowledged, while readers listen on the gateway and resume after each kill.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import conversation
import msgspec
from crowd import (
    CATCH_UP_S,
    Reader,
    Send,
    Town,
    open_guild,
    read_history,
    register_all,
    settle,
)
from verdict import Findings, Kill, count_faults, percentile, show

from tests.support.process import ServerProcess

# The ids of messages count milliseconds from here.
EPOCH_S = 1_420_070_400
WHOLE_S = 600.0


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
        if len(self.kills) < kills:
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
                self._town.server.kill_postgres()
            await self._town.server.ended()
            await self._town.server.start()
            self._town.up.set()
            down_s = time.perf_counter() - killed
            await asyncio.gather(*(send.done.wait() for send in at_risk))
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


def _made_at(message_id: str) -> float:
    """The Unix time in an id. A retry of a committed send gets the id of before the kill."""
    return (int(message_id) >> 22) / 1000 + EPOCH_S


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


async def main(options: argparse.Namespace) -> Findings:
    with tempfile.TemporaryDirectory(prefix="parley-replay-") as folder:
        server = ServerProcess(Path(folder) / "var", {"LOG_LEVEL": "warning"})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            server,
            aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
        ):
            try:
                async with asyncio.timeout(WHOLE_S):
                    found = await replay(options, Town(server, http))
            except BaseException:
                print(server.tail(), file=sys.stderr)
                raise
        print(server.tail(20) if options.verbose else "", end="")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", nargs="*", help="logs by path or by name; the first by default")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--window", type=int, default=16, help="lines under way at a time")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--kill-postgres", action="store_true", help="kill the database as well")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--verbose", action="store_true", help="show the server's last lines")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    # As Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    outcome = asyncio.run(main(chosen))
    show(outcome)
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.encode(outcome))
    sys.exit(0 if outcome.is_clean else 1)
