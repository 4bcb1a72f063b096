"""What a client did and heard, as it writes it down: one file for each, a JSON object a line."""

import itertools
import time
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from typing_extensions import override

Json = Any
Outcome: TypeAlias = Literal["ok", "fail", "unknown"]

# Of all clients of a run: an operation is known by it alone.
_numbers = itertools.count(1)


class Invoked(msgspec.Struct, tag="invoke", tag_field="kind"):
    """An operation has begun. `about` says on what, and with which words."""

    op: int
    at: float
    what: str
    about: dict[str, Json]


class Ended(msgspec.Struct, tag="end", tag_field="kind"):
    """An operation has ended, or was given up. Each attempt but the last had no certain end."""

    op: int
    at: float
    outcome: Outcome
    attempts: int
    status: int
    result: Json = None
    # When each attempt without a certain end was given up.
    doubts: list[float] = []


class Heard(msgspec.Struct, tag="heard", tag_field="kind"):
    """A dispatch that came over the gateway."""

    at: float
    socket: int
    t: str
    s: int
    d: msgspec.Raw


class Turn(msgspec.Struct, tag="turn", tag_field="kind"):
    """Something that happened to a connection: opened, resumed, refused, closed and so on."""

    at: float
    socket: int
    what: str
    seq: int = 0
    code: int = 0
    # To which node, for a connection that was opened.
    node: str = ""
    # Under which login session, for one that identified.
    login: str = ""


Record: TypeAlias = Invoked | Ended | Heard | Turn


class ServerError(msgspec.Struct):
    """What went wrong by a server's own fault: as it answered, or as its log has it."""

    words: str
    at: float = 0.0

    @override
    def __str__(self) -> str:
        return self.words


class Op(msgspec.Struct):
    """An operation with what became of it."""

    op: int
    user: str
    what: str
    about: dict[str, Json]
    begun: float
    ended: float = float("inf")
    outcome: Outcome = "unknown"
    attempts: int = 0
    status: int = 0
    result: Json = None
    doubts: list[float] = []
    # When its client was done with it. What it left in doubt may end later, or never.
    left: float = float("inf")

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @override
    def __str__(self) -> str:
        return (
            f"op {self.op} {self.what} {self.about} by {self.user} at {self.begun:.3f} to"
            f" {self.ended:.3f}: {self.outcome} {self.status}, {self.attempts} attempt(s)"
        )


class History:
    """The records of one client, on disk line by line."""

    def __init__(self, folder: Path, name: str, user: str) -> None:
        self.name = name
        self.user = user
        self.path = folder / f"{name}.jsonl"
        self.records: list[Record] = []
        self.ops: list[Op] = []
        self._encode = msgspec.json.Encoder().encode
        self._file = self.path.open("wb")

    def invoke(self, what: str, **about: Json) -> Op:
        op = Op(next(_numbers), self.user, what, about, time.monotonic())
        self.ops.append(op)
        self.note(Invoked(op.op, op.begun, what, about))
        return op

    def end(self, op: Op, outcome: Outcome, *, status: int = 0, result: Json = None) -> None:
        op.outcome, op.status, op.result = outcome, status, result
        if outcome != "unknown":
            op.ended = time.monotonic()
        now = op.left = time.monotonic()
        self.note(Ended(op.op, now, outcome, op.attempts, status, result, op.doubts))

    def doubt(self, op: Op) -> None:
        """This attempt has no certain end: it may be carried out, or have been, or never be."""
        op.doubts.append(time.monotonic())

    def note(self, record: Record) -> None:
        self.records.append(record)
        self._file.write(self._encode(record) + b"\n")

    def close(self) -> None:
        self._file.close()
