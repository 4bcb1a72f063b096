"""What happened under each fault, in numbers: one row for each."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tests.fault.evidence import Evidence
from tests.fault.verdict import Verdict

CALM: Final = "(before the first)"

# By which column the violations of an invariant are counted.
_COLUMNS: Final = {
    1: "lost",
    2: "lost",
    3: "duplicated",
    8: "duplicated",
    4: "reordered",
    5: "reordered",
    6: "reordered",
    7: "phantoms",
    10: "leaks",
    12: "leaks",
}


class Row(msgspec.Struct):
    """A fault, over all of its injections. It answers until the next fault begins."""

    fault: str
    injections: int = 0
    hits: int = 0
    what: str = ""
    acknowledged: int = 0
    unknown: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    phantoms: int = 0
    leaks: int = 0
    # Violations of the invariants that are none of these.
    others: int = 0
    longest_s: float = 0.0
    # None when a probe did not come at all.
    recovery_s: float | None = 0.0


def rows_of(evidence: Evidence, verdicts: Iterable[Verdict]) -> list[Row]:
    rows: dict[str, Row] = {CALM: Row(CALM)}
    for injection in evidence.injections:
        row = rows.setdefault(injection.fault, Row(injection.fault, what=injection.hit.what))
        row.injections += 1
        row.hits += injection.hit.count
        row.longest_s = max(row.longest_s, injection.ended - injection.begun)
        if injection.recovered is None or row.recovery_s is None:
            row.recovery_s = None
        else:
            row.recovery_s = max(row.recovery_s, injection.recovered)
    windows = _Windows(evidence)
    for op in evidence.ops:
        if op.what == "send" and op.ok:
            rows[windows.fault_at(op.ended)].acknowledged += 1
        for fault in {windows.fault_at(at) for at in op.doubts}:
            rows[fault].unknown += 1
    for verdict in verdicts:
        column = _COLUMNS.get(verdict.number, "others")
        for violation in verdict.violations:
            row = rows[windows.fault_at(violation.at)]
            setattr(row, column, getattr(row, column) + 1)
    first, *rest = rows.values()
    return [first, *sorted(rest, key=lambda row: row.fault)]


class _Windows:
    """Which fault was the last to begin at a moment."""

    def __init__(self, evidence: Evidence) -> None:
        injections: Sequence[tuple[float, str]] = sorted(
            (injection.begun, injection.fault) for injection in evidence.injections
        )
        self._begun = [begun for begun, _ in injections]
        self._faults = [CALM, *(fault for _, fault in injections)]

    def fault_at(self, moment: float) -> str:
        return self._faults[bisect_right(self._begun, moment)]
