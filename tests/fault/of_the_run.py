"""Statements about operations and about the run itself: whether it proves anything."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.fault.evidence import Evidence
from tests.fault.history import Turn
from tests.fault.verdict import Invariant, Verdict

# What a client that retries must never be left with.
_NO_ANSWER: Final = {401, 429}
_RESTARTING: Final = 4900


def deploys_go_unnoticed(evidence: Evidence) -> Verdict:
    verdict = Verdict(14, "a rolling restart fails no request, and costs one reconnect per node")
    steps = [step for injection in evidence.injections for step in injection.hit.steps]
    if not steps:
        return verdict
    for op in evidence.ops_of("send", "read"):
        if any(op.begun < end and op.left > begun for begun, end in steps):
            # To be told that one may not do something is an answer.
            is_answer = op.ok or (400 <= op.status < 500 and op.status not in _NO_ANSWER)
            verdict.check(is_answer, op, "failed in a rolling restart")
    for reader, turns in evidence.turns.items():
        if reader.startswith("steady"):
            live = evidence.live_sockets[reader]
            ends = [turn for turn in turns if turn.what == "closed" and turn.socket in live]
            _was_told(verdict, reader, ends, steps)
    return verdict


def _was_told(
    verdict: Verdict, reader: str, ends: Sequence[Turn], steps: Sequence[tuple[float, float]]
) -> None:
    """While one node restarts, a client loses one connection at most, and is told why."""
    for begun, end in steps:
        lost = [turn for turn in ends if begun <= turn.at <= end]
        verdict.check(len(lost) <= 1, (reader, "lost", *lost), "in the restart of one node")
        for turn in lost:
            is_told = turn.code == _RESTARTING
            verdict.check(is_told, (reader, "was not told why it was cut off:", turn))


def faults_hit(evidence: Evidence) -> Verdict:
    verdict = Verdict(15, "every fault hit something, and no node ended by itself")
    for death in evidence.deaths:
        verdict.check(False, death)  # noqa: FBT003
    injections = sorted(evidence.injections, key=lambda injection: injection.begun)
    ends = [*(injection.begun for injection in injections[1:]), float("inf")]
    doubts = sorted(at for op in evidence.ops for at in op.doubts)
    hits: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for injection, end in zip(injections, ends, strict=False):
        hits[injection.fault] += injection.hit.count
        in_window = bisect_left(doubts, end) - bisect_left(doubts, injection.begun)
        unknown[injection.fault] += in_window
    for fault, (what, leaves_doubt) in {
        injection.fault: (injection.hit.what, injection.leaves_doubt) for injection in injections
    }.items():
        is_proved = unknown[fault] if leaves_doubt else hits[fault]
        left = (hits[fault], what, "and left", unknown[fault], "in doubt")
        verdict.check(is_proved, (fault, "hit", *left))
    return verdict


def nothing_broke_within(evidence: Evidence) -> Verdict:
    """What a fault explains is answered with 503, and logged without a traceback."""
    verdict = Verdict(16, "no answer was 5xx but 503, and no node logged an error")
    verdict.checked = evidence.answers
    for error in evidence.errors:
        verdict.check(False, error)  # noqa: FBT003
    return verdict


OF_THE_RUN: Final[tuple[Invariant, ...]] = (
    deploys_go_unnoticed,
    faults_hit,
    nothing_broke_within,
)
