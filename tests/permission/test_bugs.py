"""Each bug that is built in turns a part of the ordinary suite red, which is green without it."""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.permission.bugs import BUGS

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 240
_FAILED: Final = re.compile(r"^FAILED (\S+?)(?: - .*)?$", re.MULTILINE)

# The tests of the suite that find each. They are run as they stand, in a process of their own.
FOUND_BY: Final[dict[str, tuple[str, ...]]] = {
    "skipped_overwrite": ("tests/unit/test_permission_law.py",),
    "denied_after_allowed": ("tests/unit/test_permission_law.py",),
    "ignored_category": (
        "tests/e2e/test_categories.py::test_what_is_one_with_its_category_follows_it",
    ),
    "message_without_its_channel": (
        "tests/e2e/test_doors.py::test_a_message_is_not_reached_through_another_channel",
    ),
    "stale_sight": (
        "tests/e2e/test_sight.py::test_whoever_gains_sight_is_told_of_the_channel_and_what_comes_after",
    ),
}


class Outcome(NamedTuple):
    """How a run of the suite ended."""

    status: int
    failed: list[str]
    output: str


async def run(tests: tuple[str, ...], *options: str, bug: str = "") -> Outcome:
    """Run tests of the suite with a bug built in, or without one."""
    # Nothing of the run that this is a part of.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = (sys.executable, "-m", "pytest", "-p", "tests.permission.bugs", "--tb=no", "-q")
    process = await asyncio.create_subprocess_exec(
        *command,
        *("-p", "no:cacheprovider", "-p", "no:xdist", *options, *tests),
        cwd=ROOT,
        env={**environ, "PYTHONPATH": str(ROOT), "PARLEY_BUG": bug},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Outcome(process.returncode, _FAILED.findall(output), output)


def test_every_bug_has_somebody_to_find_it() -> None:
    assert set(FOUND_BY) == set(BUGS)
    for tests in FOUND_BY.values():
        for test in tests:
            assert (ROOT / test.partition("::")[0]).is_file(), test


@pytest.mark.seeded
@pytest.mark.timeout(PATIENCE_S + 10)
@pytest.mark.parametrize("bug", BUGS)
async def test_the_suite_is_red(bug: str) -> None:
    outcome = await run(FOUND_BY[bug], "-x", bug=bug)
    # 1: tests were run and failed. Anything else, as what can't be imported, finds no bug.
    assert outcome.status == 1, outcome.output
    assert outcome.failed, outcome.output


@pytest.mark.seeded
@pytest.mark.timeout(PATIENCE_S + 10)
async def test_the_same_tests_are_green_without_a_bug() -> None:
    tests = tuple(dict.fromkeys(test for found_by in FOUND_BY.values() for test in found_by))
    outcome = await run(tests)
    assert outcome.status == 0, outcome.output
