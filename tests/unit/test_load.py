"""The level of load: quick to rise, slow to fall, and in what order things are left undone."""

from collections import Counter
from itertools import pairwise

import pytest

from internal.monitoring.load import Load, Work

STEP_S = 0.1


class Measured:
    """A server whose pressure a test sets."""

    def __init__(self) -> None:
        self.lag_s = 0.0
        self.database_s = 0.0
        self.shed: Counter[str] = Counter()
        self.now = 100.0
        self.load = Load(
            lag_s=lambda: self.lag_s,
            database_s=lambda: self.database_s,
            count_shed=lambda kind: self.shed.update([kind]),
        )

    def go_on(self, seconds: float) -> list[int]:
        """Look for so long; the levels that were seen."""
        seen = []
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            self.load.look(self.now)
            seen.append(self.load.level)
        return seen


@pytest.fixture
def server() -> Measured:
    return Measured()


def test_a_server_with_little_to_do_sheds_nothing(server: Measured) -> None:
    server.lag_s, server.database_s, server.load.requests = 0.1, 0.1, 200
    assert set(server.go_on(10)) == {0}
    assert not any(server.load.sheds(work) for work in Work)
    assert not server.shed


def test_one_late_moment_is_no_load(server: Measured) -> None:
    server.lag_s = 1.0
    server.go_on(0.2)
    server.lag_s = 0.0
    assert set(server.go_on(5)) == {0}


@pytest.mark.parametrize(
    ("lag_s", "database_s", "requests", "level"),
    [
        (0.3, 0.0, 0, 1),
        (0.6, 0.0, 0, 2),
        (1.2, 0.0, 0, 3),
        (5.0, 0.0, 0, 4),
        (0.0, 0.3, 0, 1),
        (0.0, 1.2, 0, 3),
        (0.0, 5.0, 0, 4),
        (0.0, 0.0, 600, 1),
        (0.0, 0.0, 6_000, 4),
    ],
)
def test_each_measure_raises_the_level(
    server: Measured, lag_s: float, database_s: float, requests: int, level: int
) -> None:
    server.lag_s, server.database_s, server.load.requests = lag_s, database_s, requests
    seen = server.go_on(5)
    assert seen[-1] == level
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("lag_s", "left_undone"),
    [
        (0.3, {Work.EPHEMERA}),
        (1.2, {Work.EPHEMERA, Work.HISTORY}),
        (5.0, {Work.EPHEMERA, Work.HISTORY, Work.ORDINARY, Work.OPENING}),
    ],
)
def test_things_are_left_undone_in_order(
    server: Measured, lag_s: float, left_undone: set[Work]
) -> None:
    server.lag_s = lag_s
    server.go_on(5)
    assert {work for work in Work if server.load.sheds(work)} == left_undone
    assert set(server.shed) == {work.label for work in left_undone}


def test_the_level_falls_one_by_one_and_only_after_calm(server: Measured) -> None:
    server.lag_s = 5.0
    server.go_on(5)
    server.lag_s = 0.0
    seen = server.go_on(15)
    assert seen[0] == 4
    assert seen == sorted(seen, reverse=True)
    # A second of calm for each step.
    assert all(seen.count(level) >= 9 for level in (1, 2, 3, 4))
    assert seen[-1] == 0


def test_what_sways_about_a_threshold_does_not_flap(server: Measured) -> None:
    seen = []
    for turn in range(40):
        server.lag_s = 0.35 if turn % 2 else 0.18
        seen += server.go_on(0.5)
    changes = sum(one != other for one, other in pairwise(seen))
    assert changes <= 1
