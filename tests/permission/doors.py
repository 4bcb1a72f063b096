"""Checks a report of coverage: every door, which leads from an id to a thing, is covered whole.

    python -m coverage json --quiet -o report.json && python -m tests.permission.doors report.json

A door is a function that decides who gets through. Each of its branches has to be taken by some
test, or nobody knows that it shuts.
"""

import re
import sys
from pathlib import Path
from typing import Final

import msgspec

# By the last part of the name.
DOOR: Final = re.compile(
    r"_?(access|access_of|check_access|find_access|thread_access|parent_access|decide|may"
    r"|outranks|may_act_on|check_reach|check_assignable|check_granted|check_grants|may_ban)"
)


class Summary(msgspec.Struct):
    covered_lines: int
    num_statements: int
    num_branches: int = 0
    covered_branches: int = 0

    @property
    def is_whole(self) -> bool:
        return (self.covered_lines, self.covered_branches) == (
            self.num_statements,
            self.num_branches,
        )


class Function(msgspec.Struct):
    summary: Summary
    missing_lines: list[int]
    missing_branches: list[list[int]] = []


class File(msgspec.Struct):
    functions: dict[str, Function]


class Report(msgspec.Struct):
    files: dict[str, File]


def doors_of(report: Report) -> dict[str, Function]:
    """The doors of the server, by their file and name."""
    return {
        f"{path}: {name}": function
        for path, file in sorted(report.files.items())
        if path.startswith("internal/")
        for name, function in file.functions.items()
        if DOOR.fullmatch(name.rpartition(".")[2])
    }


def main(path: str) -> int:
    report = msgspec.json.decode(Path(path).read_bytes(), type=Report)
    doors = doors_of(report)
    open_ones = {name: door for name, door in doors.items() if not door.summary.is_whole}
    for name, door in open_ones.items():
        print(f"{name}: lines {door.missing_lines}, branches {door.missing_branches}")  # noqa: T201
    print(f"{len(doors) - len(open_ones)} of {len(doors)} doors are covered whole")  # noqa: T201
    return 1 if open_ones or not doors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
