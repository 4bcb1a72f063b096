"""What was looked at, and what was found wrong with it."""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from tests.fault.evidence import Evidence, Frame, Probe, Row
from tests.fault.history import Op, ServerError, Turn

# How long after it was given up an operation may still be carried out by a server that was paused.
LATE_S: Final = 45.0


class Violation(msgspec.Struct):
    """The evidence in words, and when what it tells of happened; 0 where that is not known."""

    words: str
    at: float


class Verdict(msgspec.Struct):
    """What a function looked at, and the evidence for each violation, smallest first."""

    number: int
    title: str
    checked: int = 0
    violations: list[Violation] = []

    def check(self, holds: object, *evidence: object) -> None:
        """Evidence is put into words only when it is needed: there are a million checks."""
        self.checked += 1
        if not holds:
            words = "\n      ".join(map(_words, evidence))
            self.violations.append(Violation(words, _moment(evidence)))


def _words(evidence: object) -> str:
    if callable(evidence):
        return str(evidence())
    if isinstance(evidence, tuple):
        return " ".join(map(str, evidence)).replace(" ,", ",").replace("s= ", "s=")
    return str(evidence)


def _moment(evidence: object) -> float:
    """When something happened: by the first of the things shown that knows."""
    if isinstance(evidence, partial):
        return _moment(evidence.args)
    if isinstance(evidence, tuple):
        return next((at for at in map(_moment, evidence) if at), 0.0)
    if isinstance(evidence, Op):
        return evidence.begun
    return evidence.at if isinstance(evidence, Frame | Row | Probe | Turn | ServerError) else 0.0


Invariant = Callable[[Evidence], Verdict]
