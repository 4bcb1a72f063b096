"""Who may do what to what: every route of the table, for everyone, to every kind of object.

Each run tries some cells of every route, others with every seed; `make matrix` tries all of them.
"""

import os
import random
from typing import Final

import pytest

from internal.errors import type_by_code
from internal.permission.model import Permission
from tests.support.expectations import (
    BAD_BODY,
    NO_ROLE,
    RULES,
    TABLE,
    THINGS,
    guild,
    rules_of,
)
from tests.support.matrix import (
    FORBIDDEN,
    NO_GUILD,
    NOBODY,
    PLACEHOLDER,
    USUAL,
    Actor,
    Kind,
    World,
    cells_of,
    faults,
    sample,
)
from tests.support.people import Town

IS_FULL: Final = os.environ.get("PARLEY_MATRIX") == "full"
SEED: Final = int(os.environ.get("PARLEY_SEED") or random.SystemRandom().randrange(10**6))
# Of each path of a route, where not all are tried.
CELLS: Final = 6
TAGS: Final = sorted({row.tag for row in TABLE.values()})

# What is said of the routes is whole.


def test_every_route_has_an_expectation() -> None:
    assert sorted(set(TABLE) - set(RULES)) == [], "these routes have no expectation in RULES"
    assert sorted(set(RULES) - set(TABLE)) == [], "these routes are gone"


@pytest.mark.parametrize("name", RULES)
def test_what_is_for_anybody_is_said_to_be(name: str) -> None:
    for rule in rules_of(name):
        assert (rule.scope == "public") == TABLE[name].is_public


@pytest.mark.parametrize("name", RULES)
def test_every_id_is_tried(name: str) -> None:
    """Every parameter of a path is the object of some expectation, or leads to it."""
    if TABLE[name].is_public:
        return
    tried = {word for rule in rules_of(name) for word in (rule.target, rule.door) if word}
    for path in TABLE[name].paths:
        assert set(PLACEHOLDER.findall(path)) <= tried
    for rule in rules_of(name):
        for parameter in tried:
            what = rule.things.get(parameter, USUAL.get(parameter, parameter))
            assert what == "guild" or what in THINGS, f"nobody knows how to make a {what}"


@pytest.mark.parametrize("name", RULES)
def test_every_refusal_is_documented(name: str) -> None:
    row = TABLE[name]
    everywhere = {NOBODY, BAD_BODY}
    cells = cells_of(name, row, rules_of(name))
    refusals = {cell.expected for cell in cells if isinstance(cell.expected, tuple)}
    documented = {(error.status, error.code) for error in row.errors}
    assert refusals - everywhere <= documented, f"{name} may answer more than it says"
    assert all(code in type_by_code for _, code in refusals)


# The matrix.

GROUPS: Final = (
    {name: [name] for name in TABLE}
    if IS_FULL
    else {tag: [n for n, row in TABLE.items() if row.tag == tag] for tag in TAGS}
)


@pytest.mark.timeout(900 if IS_FULL else 120)
@pytest.mark.parametrize("group", GROUPS)
async def test_everyone_is_answered_as_expected(town: Town, group: str) -> None:
    world = World(town)
    wrong: list[str] = []
    tried = 0
    # What has no expectation yet is complained of above.
    for name in (one for one in GROUPS[group] if one in RULES):
        cells = cells_of(name, TABLE[name], rules_of(name))
        chosen = cells if IS_FULL else sample(cells, CELLS, SEED)
        tried += len(chosen)
        wrong += await faults(world, chosen)
    shown = "\n".join(wrong)
    assert not wrong, f"{len(wrong)} of {tried} cells, PARLEY_SEED={SEED}:\n{shown}"


# What guards the guards.


@pytest.mark.parametrize("kind", Kind)
def test_nobody_is_let_through_to_what_is_not_there(kind: Kind) -> None:
    rule = guild(Permission.MANAGE_ROLES, target="role_id", unknown=NO_ROLE)
    cells = cells_of("", TABLE["GET /guilds/{guild_id}/roles/{role_id}"], [rule])
    answers = {
        cell.actor: cell.expected
        for cell in cells
        if cell.kind is kind and cell.rule.target == "role_id"
    }
    assert answers[Actor.ANONYMOUS] == answers[Actor.BOT] == NOBODY
    assert answers[Actor.BANNED] == answers[Actor.EX_MEMBER] == NO_GUILD
    if kind is Kind.OWN:
        assert answers[Actor.MEMBER] == FORBIDDEN
        assert answers[Actor.MODERATOR] == answers[Actor.OWNER] == 200
        assert answers[Actor.FOREIGN_OWNER] == NO_GUILD
    elif kind is Kind.FOREIGN:
        assert answers[Actor.OWNER] == NO_GUILD
        assert answers[Actor.FOREIGN_OWNER] == 200
    else:
        assert answers[Actor.MEMBER] == FORBIDDEN
        assert answers[Actor.OWNER] == NO_ROLE


def test_a_sample_has_every_path_and_changes_with_the_seed() -> None:
    samples = []
    for seed in (1, 2, 1):
        chosen = []
        for name, row in TABLE.items():
            if name not in RULES:
                continue
            cells = sample(cells_of(name, row, rules_of(name)), CELLS, seed)
            assert {cell.path for cell in cells} == set(row.paths)
            chosen += [str(cell) for cell in cells]
        samples.append(chosen)
    first, second, again = samples
    assert first == again != second
