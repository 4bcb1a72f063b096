"""What a replay found: whether anything was lost, doubled or out of order, and how fast it was."""

from collections import Counter
from collections.abc import Sequence

import msgspec
from crowd import Reader, Send


class Kill(msgspec.Struct):
    """One `kill -9`, and what was under way at that moment."""

    at_line: int
    in_flight: int
    committed: int
    down_s: float


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
