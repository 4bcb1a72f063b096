"""What a run found, as tables."""

from collections import Counter
from collections.abc import Iterator

from tests.fault.campaign import Injection, Result
from tests.fault.history import Outcome

_OUTCOMES: tuple[Outcome, ...] = ("ok", "fail", "unknown")
_SHOWN = 3


def table(result: Result) -> str:
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Result) -> Iterator[str]:
    yield ""
    yield f"{'operation':<24}{'ok':>10}{'fail':>10}{'unknown':>10}"
    total: Counter[str] = Counter()
    for what, counts in sorted(result.operations.items()):
        total += counts
        yield f"{what:<24}" + "".join(f"{counts[o]:>10}" for o in _OUTCOMES)
    yield f"{'all':<24}" + "".join(f"{total[o]:>10}" for o in _OUTCOMES)
    yield ""
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(result.statuses.items()))
    yield f"answers by status         {statuses}"
    yield f"events in the log         {result.events}"
    yield f"frames that were heard    {result.frames}"
    yield f"resumes                   {result.resumes}"
    yield f"readers left behind       {result.slow}"
    yield f"lines cut in a frame      {result.cuts}"
    yield ""
    yield f"{'fault':<24}{'times':>10}{'lasted':>10}{'unknown':>10}{'recovery':>10}"
    by_name: dict[str, list[Injection]] = {}
    for injection in result.injections:
        by_name.setdefault(injection.fault, []).append(injection)
    for name, injections in sorted(by_name.items()):
        recoveries = [i.recovered for i in injections]
        worst = "never" if None in recoveries else f"{max(r or 0 for r in recoveries):.2f} s"
        lasted = f"{max(i.took for i in injections):.2f} s"
        unknown = sum(i.lost for i in injections)
        yield f"{name:<24}{len(injections):>10}{lasted:>10}{unknown:>10}{worst:>10}"
    for name, reason in result.left_out.items():
        yield f"{name:<24} left out: {reason}"
    yield ""
    yield f"{'invariant':<72}{'checked':>10}{'violated':>10}"
    for verdict in result.verdicts:
        title = f"{verdict.number:>2} {verdict.title}"
        yield f"{title:<72}{verdict.checked:>10}{len(verdict.violations):>10}"
    for verdict in result.verdicts:
        for evidence in verdict.violations[:_SHOWN]:
            yield f"\n   {verdict.number}. {evidence}"
    for line in result.complaints[:_SHOWN]:
        yield f"\nThe server complained: {line[:2000]}"
    yield ""
    if result.violated:
        yield f"THE PROMISE WAS BROKEN. Seed {result.seed}; the histories are in {result.folder}"
    else:
        yield f"The promise was kept. Seed {result.seed}."
