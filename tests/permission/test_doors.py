"""The check that every door is covered whole."""

from pathlib import Path

import msgspec
import pytest

from tests.permission.doors import main


def report(*, name: str = "Service.access", covered_branches: int = 2) -> dict[str, object]:
    summary = {
        "covered_lines": 5,
        "num_statements": 5,
        "num_branches": 2,
        "covered_branches": covered_branches,
    }
    function = {"summary": summary, "missing_lines": [], "missing_branches": [[7, 9]]}
    return {"files": {"internal/guild/service.py": {"functions": {name: function}}}}


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (report(), 0),
        (report(covered_branches=1), 1),
        # What is no door may be covered by halves; but that there are no doors at all is no good.
        (report(name="Service.rename", covered_branches=1), 1),
    ],
)
def test_a_door_has_to_be_covered_whole(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    found: dict[str, object],
    status: int,
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(msgspec.json.encode(found))
    assert main(str(path)) == status
    shown = capsys.readouterr().out
    assert "doors are covered whole" in shown
    assert ("Service.access: lines []" in shown) == (found == report(covered_branches=1))
