"""The order of roles after some were moved."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from internal.guild.model import Role, RoleColors
from internal.guild.role.model import rank_of, reordered
from internal.utils.snowflake import Snowflake

# Positions as they may be stored: with gaps, and some of them twice.
positions = st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=9)


def roles_at(places: list[int]) -> list[Role]:
    return [
        Role(
            id=Snowflake(number),
            name="role",
            colors=RoleColors(),
            position=place,
            permissions="0",
        )
        for number, place in enumerate(places, start=1)
    ]


@given(positions)
def test_without_wishes_roles_stand_by_position_and_the_older_above(places: list[int]) -> None:
    order = reordered(roles_at(places), {})
    assert [rank_of(role) for role in order] == sorted(rank_of(role) for role in order)
    twins = [(a, b) for a, b in pairwise(order) if a.position == b.position]
    assert all(lower.id > upper.id for lower, upper in twins)


@given(positions, st.integers(min_value=0), st.integers(min_value=1, max_value=20))
def test_one_role_goes_where_it_is_wanted_and_the_others_keep_their_order(
    places: list[int], which: int, wanted: int
) -> None:
    roles = roles_at(places)
    moved = roles[which % len(roles)]
    order = reordered(roles, {moved.id: wanted})
    assert order.index(moved) == min(wanted, len(roles)) - 1
    before = reordered(roles, {})
    assert [one for one in order if one != moved] == [one for one in before if one != moved]


@given(positions.flatmap(lambda places: st.tuples(st.just(places), st.permutations(places))))
def test_an_order_of_all_roles_is_met_to_the_letter(both: tuple[list[int], list[int]]) -> None:
    places, shuffled = both
    roles = roles_at(places)
    wanted = sorted(roles, key=lambda role: (shuffled[role.id - 1], role.id))
    wishes = {role.id: place for place, role in enumerate(wanted, start=1)}
    assert reordered(roles, wishes) == wanted


@given(positions, st.data())
def test_nothing_is_lost_whatever_is_wished_for(places: list[int], data: st.DataObject) -> None:
    roles = roles_at(places)
    ids = st.sampled_from([role.id for role in roles])
    wishes = data.draw(st.dictionaries(ids, st.integers(min_value=1, max_value=20)))
    assert sorted(one.id for one in reordered(roles, wishes)) == [one.id for one in roles]
