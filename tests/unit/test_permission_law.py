"""The arithmetic of permissions against a second, plain telling of the documented rules.

The other one knows no bits: it works on sets of names, and on whole guilds as they are drawn.
"""

import os
import random
from dataclasses import dataclass
from typing import Final

import pytest

from internal.channel.model import ThreadAccess, decide
from internal.permission.model import (
    ALL,
    DIRECT_MESSAGE,
    Overwrite,
    Permission,
    Standing,
    Step,
    Trace,
    allows,
    in_guild,
)
from internal.utils.snowflake import Snowflake

GUILDS: Final = 10_000
SEED: Final = int(os.environ.get("PARLEY_SEED") or random.SystemRandom().randrange(10**6))

Names = frozenset[str]
NAMES: Final = [str(one.name) for one in Permission]
EVERYTHING: Final = frozenset(NAMES)
NOTHING: Final[Names] = frozenset()
LOOKING: Final = frozenset({"VIEW_CHANNEL", "READ_MESSAGE_HISTORY"})
# What means nothing to those who can't send.
SPECIAL: Final = frozenset(
    {
        "SEND_TTS_MESSAGES",
        "EMBED_LINKS",
        "ATTACH_FILES",
        "MENTION_EVERYONE",
        "SEND_VOICE_MESSAGES",
        "SEND_POLLS",
    }
)
# Drawn more often than the others: the rules are about these.
TELLING: Final = sorted(LOOKING | SPECIAL | {"SEND_MESSAGES", "SEND_MESSAGES_IN_THREADS"})


# The plain telling.


@dataclass(frozen=True)
class Rule:
    """What a channel allows and denies to the role or member of this id."""

    of: int
    allow: Names
    deny: Names


@dataclass(frozen=True)
class Drawn:
    """A guild with one of its members and one of its channels."""

    guild_id: int
    # By id, with that of @everyone, which is the guild's; the member has some.
    roles: dict[int, Names]
    member_id: int
    member_roles: list[int]
    owner_id: int
    is_timed_out: bool
    role_rules: list[Rule]
    member_rules: list[Rule]
    is_thread: bool = False
    # Whether the thread is for its members only, and whether this one is one of them.
    is_private: bool = False
    is_inside: bool = False

    @property
    def is_exempt(self) -> bool:
        """Owners and administrators: nothing that a channel says is about them."""
        return self.member_id == self.owner_id or "ADMINISTRATOR" in self.granted

    @property
    def granted(self) -> Names:
        return NOTHING.union(*(self.roles[one] for one in [self.guild_id, *self.member_roles]))


def plainly_in_guild(drawn: Drawn) -> Names:
    if drawn.is_exempt:
        return EVERYTHING
    return drawn.granted & LOOKING if drawn.is_timed_out else drawn.granted


def plainly_in_channel(drawn: Drawn) -> Names:
    if drawn.is_exempt:
        return EVERYTHING
    held = drawn.granted
    for ids, rules in (
        ({drawn.guild_id}, drawn.role_rules),
        (set(drawn.member_roles), drawn.role_rules),
        ({drawn.member_id}, drawn.member_rules),
    ):
        # Each of the three as one: what is denied goes first, so that what is allowed stays.
        applying = [rule for rule in rules if rule.of in ids]
        held = held.difference(*(rule.deny for rule in applying))
        held = held.union(*(rule.allow for rule in applying))
    if drawn.is_timed_out:
        held &= LOOKING
    if "VIEW_CHANNEL" not in held:
        return NOTHING
    if drawn.is_thread:
        held -= {"SEND_MESSAGES"}
        if "SEND_MESSAGES_IN_THREADS" in held:
            held |= {"SEND_MESSAGES"}
    if "SEND_MESSAGES" not in held:
        held -= SPECIAL
    if drawn.is_private and not drawn.is_inside and "MANAGE_THREADS" not in held:
        return NOTHING
    return held


# Random guilds.


class Chance:
    """Draws guilds; the same seed draws the same ones."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))  # noqa: S311  # nothing is kept secret by it

    def happens(self, share: float) -> bool:
        return self._random.random() < share

    def names(self, *, with_administrator: float = 0.0) -> Names:
        """Some permissions: none, few, many or all but one."""
        count = self._random.choice([0, 1, 3, 10, 30, len(NAMES) - 1])
        drawn = set(self._random.sample(NAMES, count))
        drawn.update(self._random.sample(TELLING, self._random.randrange(len(TELLING))))
        drawn.discard("ADMINISTRATOR")
        if self.happens(with_administrator):
            drawn.add("ADMINISTRATOR")
        return frozenset(drawn)

    def rules(self, targets: list[int]) -> list[Rule]:
        """Overwrites of some of these. What is allowed and denied may overlap, as SQL lets it."""
        chosen = self._random.sample(targets, self._random.randint(0, len(targets)))
        # The wish to grant ADMINISTRATOR in a channel makes nobody one.
        return [Rule(one, self.names(with_administrator=0.02), self.names()) for one in chosen]

    def guild(self) -> Drawn:
        ids = self._random.sample(range(1, 10**18), 12)
        guild_id, member_id, owner_id, stranger_id, *role_ids = ids
        roles = {one: self.names(with_administrator=0.01) for one in [guild_id, *role_ids]}
        return Drawn(
            guild_id=guild_id,
            roles=roles,
            member_id=member_id,
            member_roles=self._random.sample(role_ids, self._random.randint(0, len(role_ids))),
            owner_id=member_id if self.happens(0.03) else owner_id,
            is_timed_out=self.happens(0.1),
            role_rules=self.rules([guild_id, *role_ids]),
            member_rules=self.rules([member_id, owner_id, stranger_id]),
            **dict(zip(("is_thread", "is_private"), self.thread(), strict=True)),
            is_inside=self.happens(0.5),
        )

    def thread(self) -> tuple[bool, bool]:
        """Whether it is about a thread, and about a private one."""
        is_thread = self.happens(0.4)
        return is_thread, is_thread and self.happens(0.5)

    def overwrites(self, drawn: Drawn) -> list[Overwrite]:
        """The rules of the channel as the program has them: in no order."""
        both = [
            *(overwrite(r, is_member=False) for r in drawn.role_rules),
            *(overwrite(r, is_member=True) for r in drawn.member_rules),
        ]
        self._random.shuffle(both)
        return both


def overwrite(rule: Rule, *, is_member: bool) -> Overwrite:
    return Overwrite(rule.of, is_member, bits(rule.allow), bits(rule.deny))


def bits(names: Names) -> int:
    return sum(int(Permission[name]) for name in names)


def names(held: int) -> Names:
    assert held & ~ALL == 0
    return frozenset(name for name in NAMES if held & int(Permission[name]))


def standing(drawn: Drawn) -> Standing:
    return Standing(
        user_id=drawn.member_id,
        guild_id=drawn.guild_id,
        everyone=bits(drawn.roles[drawn.guild_id]),
        roles=[(one, bits(drawn.roles[one])) for one in drawn.member_roles],
        is_owner=drawn.owner_id == drawn.member_id,
        is_timed_out=drawn.is_timed_out,
    )


def in_place(
    drawn: Drawn, member: Standing, overwrites: list[Overwrite], trace: Trace | None = None
) -> int:
    """What the program says of the channel or thread."""
    thread = None
    if drawn.is_thread:
        members = (Snowflake(7),) if drawn.is_private else None
        thread = ThreadAccess(
            archived=False, locked=False, is_member=drawn.is_inside, members=members
        )
    return decide(member, overwrites, thread, trace)


# The law.


# Three seconds of arithmetic, on a machine that has nothing else to do.
@pytest.mark.timeout(180)
def test_ten_thousand_guilds_are_decided_as_the_documents_say() -> None:
    print(f"PARLEY_SEED={SEED}")  # noqa: T201  # shown when it fails
    chance = Chance(SEED)
    outcomes: set[tuple[bool, bool, bool]] = set()
    for number in range(GUILDS):
        drawn = chance.guild()
        overwrites = chance.overwrites(drawn)
        in_general, here = plainly_in_guild(drawn), plainly_in_channel(drawn)
        member = standing(drawn)
        where = f"guild {number} of PARLEY_SEED={SEED}: {drawn}"
        assert names(in_guild(member)) == in_general, where
        assert names(in_place(drawn, member, overwrites)) == here, where
        outcomes.add((drawn.is_exempt, "VIEW_CHANNEL" in here, "SEND_MESSAGES" in here))
    # Those who see and send, who see, who see nothing, and who may do everything: all were drawn.
    assert outcomes == {
        (True, True, True),
        (False, True, True),
        (False, True, False),
        (False, False, False),
    }


# Three seconds of arithmetic, on a machine that has nothing else to do.
@pytest.mark.timeout(180)
def test_an_explanation_is_what_was_decided() -> None:
    """Its last step is the decision, and each follows from the one before."""
    print(f"PARLEY_SEED={SEED}")  # noqa: T201  # shown when it fails
    chance = Chance(SEED)
    kinds: set[str] = set()
    for number in range(GUILDS):
        drawn = chance.guild()
        overwrites = chance.overwrites(drawn)
        member = standing(drawn)
        for is_channel in (False, True):
            steps: list[Step] = []
            if is_channel:
                decided = in_place(drawn, member, overwrites, steps.append)
                untold = in_place(drawn, member, overwrites)
            else:
                decided = in_guild(member, steps.append)
                untold = in_guild(member)
            where = f"guild {number} of PARLEY_SEED={SEED}: {steps}"
            assert steps[-1].permissions == decided == untold, where
            assert_each_follows(steps, where)
            kinds.update(step.kind for step in steps)
    assert kinds == {
        "owner",
        "everyone",
        "role",
        "administrator",
        "everyone_overwrite",
        "role_overwrite",
        "member_overwrite",
        "timeout",
        "no_view_channel",
        "send_in_threads",
        "no_send_messages",
        "private_thread",
    }


def test_a_direct_message_is_decided_by_itself() -> None:
    steps: list[Step] = []
    assert decide(None, (), None, steps.append) == decide(None, (), None) == DIRECT_MESSAGE
    assert steps == [Step("direct_message", None, DIRECT_MESSAGE, 0, DIRECT_MESSAGE)]


def assert_each_follows(steps: list[Step], where: str) -> None:
    before = 0
    for number, step in enumerate(steps):
        assert step.allow & ~ALL == 0, where
        assert step.deny & ~ALL == 0, where
        if step.kind == "role_overwrite":
            # Those of all roles are one step: they take away together, then give together.
            group = [one for one in steps if one.kind == "role_overwrite"]
            if steps[number - 1].kind != "role_overwrite":
                before = taken_and_given(before, group)
            assert step.permissions == before, where
        else:
            before = taken_and_given(before, [step])
            assert step.permissions == before, where


def taken_and_given(before: int, together: list[Step]) -> int:
    for step in together:
        before &= ~step.deny
    for step in together:
        before |= step.allow
    return before


# The plain telling, by hand: two that are wrong alike would agree.

_GUILD, _ROLE, _MEMBER = 1, 2, 3


def by_hand(
    everyone: Names,
    role_rules: list[Rule],
    member_rules: list[Rule] | None = None,
    *,
    is_thread: bool = False,
) -> tuple[int, Names]:
    drawn = Drawn(
        guild_id=_GUILD,
        roles={_GUILD: everyone, _ROLE: NOTHING, _ROLE + 9: NOTHING},
        member_id=_MEMBER,
        member_roles=[_ROLE, _ROLE + 9],
        owner_id=99,
        is_timed_out=False,
        role_rules=role_rules,
        member_rules=member_rules or [],
        is_thread=is_thread,
    )
    decided = in_place(drawn, standing(drawn), Chance(0).overwrites(drawn))
    return decided, plainly_in_channel(drawn)


_VIEW, _SEND = frozenset({"VIEW_CHANNEL"}), frozenset({"SEND_MESSAGES"})
_BOTH = _VIEW | _SEND


@pytest.mark.parametrize(
    ("everyone", "role_rules", "member_rules", "expected"),
    [
        # Denied to everyone, allowed to a role: a private channel.
        (_BOTH, [Rule(_GUILD, NOTHING, _VIEW), Rule(_ROLE, _VIEW, NOTHING)], [], _BOTH),
        # Denied to one role and allowed to another: allowed.
        (_VIEW, [Rule(_ROLE, NOTHING, _SEND), Rule(_ROLE + 9, _SEND, NOTHING)], [], _BOTH),
        # A role's denial stands against what @everyone is allowed.
        (_VIEW, [Rule(_GUILD, _SEND, NOTHING), Rule(_ROLE, NOTHING, _SEND)], [], _VIEW),
        # The member's own word is the last.
        (_BOTH, [Rule(_ROLE, _SEND, NOTHING)], [Rule(_MEMBER, NOTHING, _SEND)], _VIEW),
        (_VIEW, [Rule(_ROLE, NOTHING, _SEND)], [Rule(_MEMBER, _SEND, NOTHING)], _BOTH),
        # One overwrite that denies and allows the same: allowed.
        (_VIEW, [Rule(_ROLE, _SEND, _SEND)], [], _BOTH),
        # Those of other roles and other members are not about this one.
        (_BOTH, [Rule(77, NOTHING, _VIEW)], [Rule(78, NOTHING, _VIEW)], _BOTH),
        # Who can't see it can't send to it.
        (_BOTH, [Rule(_GUILD, NOTHING, _VIEW)], [], NOTHING),
    ],
)
def test_the_order_of_overwrites(
    everyone: Names, role_rules: list[Rule], member_rules: list[Rule], expected: Names
) -> None:
    decided, plain = by_hand(everyone, role_rules, member_rules)
    assert names(decided) == plain == expected


@pytest.mark.parametrize(
    ("everyone", "may_send"),
    [(_BOTH, False), (_VIEW | {"SEND_MESSAGES_IN_THREADS"}, True)],
)
def test_in_a_thread_it_is_the_other_bit_that_counts(everyone: Names, *, may_send: bool) -> None:
    decided, plain = by_hand(everyone, [], is_thread=True)
    assert names(decided) == plain
    assert allows(decided, Permission.SEND_MESSAGES) == may_send
