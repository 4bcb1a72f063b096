"""The arithmetic of permissions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal.permission.model import (
    ALL,
    DIRECT_MESSAGE,
    EVERYONE_DEFAULT,
    NOTHING,
    Permission,
    Standing,
    allows,
    in_channel,
    in_guild,
)


def standing(everyone: int, *roles: int, is_owner: bool = False) -> Standing:
    numbered = tuple((100 + number, bits) for number, bits in enumerate(roles))
    return Standing(user_id=7, guild_id=1, everyone=everyone, roles=numbered, is_owner=is_owner)


sets = st.integers(min_value=0, max_value=ALL).map(lambda bits: bits & ALL)
without_administrator = sets.map(lambda bits: bits & ~int(Permission.ADMINISTRATOR))


def test_the_documented_bits_have_the_documented_numbers() -> None:
    assert int(Permission.ADMINISTRATOR) == 8
    assert int(Permission.VIEW_CHANNEL) == 1024
    assert int(Permission.SEND_MESSAGES) == 2048
    assert int(Permission.MANAGE_MESSAGES) == 8192
    assert int(Permission.MODERATE_MEMBERS) == 1 << 40
    assert int(Permission.PIN_MESSAGES) == 1 << 51


def test_no_two_names_share_a_bit() -> None:
    assert sum(int(one) for one in Permission) == ALL
    assert all(int(one).bit_count() == 1 for one in Permission)


@given(sets)
def test_an_owner_may_do_everything(everyone: int) -> None:
    assert in_guild(standing(everyone, is_owner=True)) == ALL


@given(sets)
def test_an_administrator_may_do_everything(everyone: int) -> None:
    role = int(Permission.ADMINISTRATOR)
    assert in_guild(standing(everyone, role)) == ALL
    assert in_channel(standing(everyone | role), ()) == ALL


@given(without_administrator, st.lists(without_administrator, max_size=4))
def test_a_member_has_what_any_of_the_roles_gives(everyone: int, roles: list[int]) -> None:
    bits = in_guild(standing(everyone, *roles))
    for one in (everyone, *roles):
        assert allows(bits, one)
    for permission in Permission:
        if allows(bits, permission):
            assert any(allows(one, permission) for one in (everyone, *roles))


@given(without_administrator)
def test_who_cannot_see_a_channel_can_do_nothing_there(base: int) -> None:
    assert in_channel(standing(base & ~int(Permission.VIEW_CHANNEL)), ()) == 0


@pytest.mark.parametrize(
    "special",
    [
        Permission.SEND_TTS_MESSAGES,
        Permission.EMBED_LINKS,
        Permission.ATTACH_FILES,
        Permission.MENTION_EVERYONE,
        Permission.SEND_VOICE_MESSAGES,
        Permission.SEND_POLLS,
    ],
)
def test_who_cannot_send_cannot_send_specially(special: Permission) -> None:
    reader = int(Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY | special)
    assert not allows(in_channel(standing(reader), ()), special)
    assert allows(in_channel(standing(reader), ()), Permission.READ_MESSAGE_HISTORY)
    assert allows(in_channel(standing(reader | int(Permission.SEND_MESSAGES)), ()), special)


@given(sets)
def test_a_channel_never_adds_anything_but_to_administrators(base: int) -> None:
    if not allows(base, Permission.ADMINISTRATOR):
        assert allows(base, in_channel(standing(base), ()))


def test_a_newcomer_takes_part_and_does_not_govern() -> None:
    may = in_channel(standing(EVERYONE_DEFAULT), ())
    assert allows(may, Permission.VIEW_CHANNEL | Permission.SEND_MESSAGES)
    for power in Permission:
        if power.name is not None and power.name.split("_")[0] in {"MANAGE", "KICK", "BAN"}:
            assert not allows(may, power), power.name
    assert not allows(may, Permission.MENTION_EVERYONE)


def test_nobody_moderates_a_direct_message() -> None:
    assert allows(DIRECT_MESSAGE, Permission.VIEW_CHANNEL | Permission.SEND_MESSAGES)
    assert not DIRECT_MESSAGE & int(Permission.MANAGE_MESSAGES | Permission.ADMINISTRATOR)


@given(sets)
def test_needing_nothing_is_always_allowed(bits: int) -> None:
    assert allows(bits, NOTHING)
