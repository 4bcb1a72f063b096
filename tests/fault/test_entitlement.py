"""The checker's own account of who saw what, on logs that are made up."""

from typing import Any

import msgspec
import pytest

from tests.fault.entitlement import ADMINISTRATOR, VIEW, Entitlement
from tests.fault.evidence import Block, Frame, Row, classify

Json = Any

GUILD, HALL, LOUNGE = "1", "10", "11"
INSIDERS, KEYS = "20", "21"
OWNER, MEMBER = "98", "99"


def _row(pos: int, kind: str, payload: Json, **more: Json) -> Row:
    blank = Row(pos, pos, kind, None, GUILD, None, None, None, payload, at=pos)
    return msgspec.structs.replace(blank, **more)


def _rule(target: str, kind: int, *, allow: int = 0, deny: int = 0) -> Json:
    return {"id": target, "type": kind, "allow": str(allow), "deny": str(deny)}


def _lounge(*rules: Json) -> Json:
    hidden = [_rule(GUILD, 0, deny=VIEW), _rule(INSIDERS, 0, allow=VIEW)]
    return {"id": LOUNGE, "guild_id": GUILD, "permission_overwrites": rules or hidden}


def _role(role_id: str, bits: int) -> Json:
    return {"guild_id": GUILD, "role": {"id": role_id, "permissions": str(bits)}}


def _member(*roles: str) -> Json:
    return {"guild_id": GUILD, "user": {"id": MEMBER}, "roles": list(roles)}


FOUNDING = {
    "id": GUILD,
    "owner_id": OWNER,
    "roles": [{"id": GUILD, "permissions": str(VIEW)}],
    "channels": [{"id": HALL, "guild_id": GUILD}],
}
LOG = [
    _row(1, "GUILD_CREATE", FOUNDING, users=frozenset({OWNER})),
    _row(2, "GUILD_ROLE_CREATE", _role(INSIDERS, 0)),
    _row(3, "GUILD_ROLE_CREATE", _role(KEYS, 0)),
    _row(4, "CHANNEL_CREATE", _lounge(), channel=LOUNGE),
    # What it shows is a part, and must not be taken for the whole.
    _row(5, "GUILD_CREATE", {**FOUNDING, "channels": []}, users=frozenset({MEMBER})),
]


@pytest.mark.parametrize(
    ("happened", "sees"),
    [
        ([], False),
        ([("GUILD_MEMBER_UPDATE", _member(INSIDERS))], True),
        ([("GUILD_MEMBER_UPDATE", _member(INSIDERS)), ("GUILD_MEMBER_UPDATE", _member())], False),
        ([("CHANNEL_UPDATE", _lounge(_rule(GUILD, 0)))], True),
        ([("CHANNEL_UPDATE", _lounge(_rule(MEMBER, 1, allow=VIEW)))], True),
        # A member's own rule counts more than those of roles, and these more than everybody's.
        (
            [
                ("GUILD_MEMBER_UPDATE", _member(INSIDERS)),
                (
                    "CHANNEL_UPDATE",
                    _lounge(_rule(INSIDERS, 0, allow=VIEW), _rule(MEMBER, 1, deny=VIEW)),
                ),
            ],
            False,
        ),
        # Of several roles one that allows is enough.
        (
            [
                ("GUILD_MEMBER_UPDATE", _member(INSIDERS, KEYS)),
                (
                    "CHANNEL_UPDATE",
                    _lounge(_rule(INSIDERS, 0, allow=VIEW), _rule(KEYS, 0, deny=VIEW)),
                ),
            ],
            True,
        ),
        (
            [
                ("GUILD_MEMBER_UPDATE", _member(KEYS)),
                ("GUILD_ROLE_UPDATE", _role(KEYS, ADMINISTRATOR)),
            ],
            True,
        ),
        (
            [
                ("GUILD_MEMBER_UPDATE", _member(KEYS)),
                ("GUILD_ROLE_UPDATE", _role(KEYS, ADMINISTRATOR)),
                ("GUILD_ROLE_DELETE", {"guild_id": GUILD, "role_id": KEYS}),
            ],
            False,
        ),
        ([("GUILD_UPDATE", {"id": GUILD, "owner_id": MEMBER})], True),
        ([("GUILD_UPDATE", {"id": GUILD, "owner_id": OWNER})], False),
        # Whoever left and came back has no roles.
        (
            [
                ("GUILD_MEMBER_UPDATE", _member(INSIDERS)),
                ("GUILD_CREATE", {**FOUNDING, "channels": []}),
            ],
            False,
        ),
    ],
)
def test_sight_follows_from_the_log(happened: list[tuple[str, Json]], *, sees: bool) -> None:
    users = {"GUILD_CREATE": frozenset({MEMBER})}
    later = [_row(6 + n, t, d, users=users.get(t)) for n, (t, d) in enumerate(happened)]
    sight = Entitlement([*LOG, *later])
    assert sight.sees(MEMBER, GUILD, LOUNGE, 100) == sees
    assert not sight.sees(MEMBER, GUILD, LOUNGE, 5)
    assert sight.sees(MEMBER, GUILD, HALL, 100)
    assert list(sight.restricted()) == [(GUILD, LOUNGE)]


def test_the_end_of_a_channel_is_for_those_who_saw_it() -> None:
    gone = _row(6, "CHANNEL_DELETE", _lounge(), channel=LOUNGE)
    sight = Entitlement([*LOG, gone])
    assert sight.sees_row(OWNER, gone)
    assert not sight.sees_row(MEMBER, gone)
    assert not sight.sees(OWNER, GUILD, LOUNGE, 6)
    assert (sight.exists(GUILD, LOUNGE, 5), sight.exists(GUILD, LOUNGE, 6)) == (True, False)
    assert sight.switches(OWNER, GUILD, LOUNGE) == {4: True, 6: False}


@pytest.mark.parametrize(
    ("kind", "d", "pos", "resumed", "is_derived", "is_fresh"),
    [
        ("CHANNEL_CREATE", _lounge(), 4, None, False, False),
        # Another channel's creation has this position, and here another event.
        ("CHANNEL_CREATE", {"id": HALL, "guild_id": GUILD}, 4, None, True, False),
        ("CHANNEL_DELETE", _lounge(), 2, None, True, False),
        ("THREAD_LIST_SYNC", {"guild_id": GUILD, "channel_ids": [LOUNGE]}, 2, None, True, False),
        ("GUILD_CREATE", {**FOUNDING, "channels": []}, 5, None, False, False),
        ("GUILD_CREATE", {**FOUNDING, "presences": [1]}, 1, None, False, False),
        # Joined, and told as it was a moment later.
        ("GUILD_CREATE", {**FOUNDING, "name": "new"}, 5, None, False, True),
        ("GUILD_CREATE", FOUNDING, 3, 3, True, True),
        # Resumed after the very position at which it was joined.
        ("GUILD_CREATE", {**FOUNDING, "channels": []}, 5, 5, True, True),
        # What is no event of the log and can't follow from one stands as it is.
        ("MESSAGE_CREATE", {"id": "7"}, 2, None, False, False),
    ],
)
def test_what_follows_from_events_is_told_apart(  # a frame, and what it is
    kind: str, d: Json, pos: int, resumed: int | None, *, is_derived: bool, is_fresh: bool
) -> None:
    block = None if resumed is None else Block(resumed)
    frame = Frame(0.0, pos, kind, d, block)
    classify(frame, next(row for row in LOG if row.pos == pos))
    assert (frame.is_derived, frame.is_fresh) == (is_derived, is_fresh)
