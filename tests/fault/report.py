"""What a run found, as tables."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.fault.campaign import Result
from tests.fault.history import Outcome
from tests.fault.tally import Row

_OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "fail", "unknown")
_SHOWN: Final = 3
_HEAD: Final = (
    "times",
    "acked",
    "lost",
    "dup",
    "reord",
    "phantom",
    "leak",
    "other",
    "unknown",
    "longest",
    "recovery",
)


def table(result: Result) -> str:
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Result) -> Iterator[str]:
    yield ""
    yield from _operations(result)
    yield ""
    yield from _faults(result)
    yield ""
    yield from _verdicts(result)
    yield ""
    yield from result.gaps
    if result.violated:
        yield (
            f"THE PROMISE WAS BROKEN. Seed {result.seed};"
            f" the histories are in {result.folder}/histories"
        )
    elif result.gaps:
        yield f"NOTHING IS PROVED. Seed {result.seed}; all of it is in {result.folder}"
    else:
        yield (
            f"The promise was kept: {result.nodes} node(s), {result.acknowledged} messages,"
            f" {result.seconds:.0f} s. Seed {result.seed}."
        )


def _operations(result: Result) -> Iterator[str]:
    yield f"{'operation':<24}{'ok':>10}{'fail':>10}{'unknown':>10}"
    total: Counter[str] = Counter()
    for what, counts in sorted(result.operations.items()):
        total += counts
        yield f"{what:<24}" + "".join(f"{counts[o]:>10}" for o in _OUTCOMES)
    yield f"{'all':<24}" + "".join(f"{total[o]:>10}" for o in _OUTCOMES)
    yield ""
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(result.statuses.items()))
    yield f"answers by status         {statuses}"
    yield f"messages acknowledged     {result.acknowledged}"
    yield f"events in the log         {result.events}"
    yield f"frames that were heard    {result.frames}"
    yield f"resumes                   {result.resumes}"
    yield f"readers left behind       {result.slow}"
    yield f"lines cut in a frame      {result.cuts}"


def _faults(result: Result) -> Iterator[str]:
    yield f"{'fault':<20}" + "".join(f"{title:>9}" for title in _HEAD) + "  hits"
    for row in result.rows:
        yield f"{row.fault:<20}" + "".join(f"{cell:>9}" for cell in _cells(row)) + f"  {_hits(row)}"
    for name, reason in result.left_out.items():
        yield f"{name:<20} left out: {reason}"


def _cells(row: Row) -> tuple[object, ...]:
    recovery = "never" if row.recovery_s is None else f"{row.recovery_s:.2f} s"
    return (
        row.injections,
        row.acknowledged,
        row.lost,
        row.duplicated,
        row.reordered,
        row.phantoms,
        row.leaks,
        row.others,
        row.unknown,
        f"{row.longest_s:.1f} s" if row.injections else "",
        recovery if row.injections else "",
    )


def _hits(row: Row) -> str:
    return f"{row.hits} {row.what}" if row.injections else ""


def _verdicts(result: Result) -> Iterator[str]:
    yield f"{'invariant':<76}{'checked':>10}{'violated':>10}"
    for verdict in result.verdicts:
        title = f"{verdict.number:>2} {verdict.title}"
        yield f"{title:<76}{verdict.checked:>10}{len(verdict.violations):>10}"
    for verdict in result.verdicts:
        for violation in verdict.violations[:_SHOWN]:
            yield f"\n   {verdict.number}. {violation.words}"
