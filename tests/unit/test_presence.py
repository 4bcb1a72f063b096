"""Presence without a socket or a store: what sessions come to, and how much is told of it."""

import pytest

from internal.presence.model import (
    OFFLINE,
    Activity,
    ClientStatus,
    Device,
    PresenceLimits,
    PresenceUpdate,
    SessionPresence,
    Showing,
    Status,
    UserPresence,
    activities_of,
    device_of,
    latest,
    merge,
)
from internal.presence.repository import Board, LocalPresences
from tests.support.clock import StandingClock
from tests.support.presence import GUILD, Node


def session(
    status: Status, device: Device = "web", *, key: int = 1, at: int = 1, doing: str = ""
) -> SessionPresence:
    activities = (Activity(name=doing),) if doing else ()
    return SessionPresence(key, status, device, activities, at)


# What sessions come to.


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [
        (["online"], "online"),
        (["idle", "online"], "online"),
        (["online", "dnd", "idle"], "dnd"),
        (["invisible", "idle"], "idle"),
        (["offline", "invisible"], "offline"),
        ([], "offline"),
    ],
)
def test_of_several_statuses_one_is_shown(statuses: list[Status], wanted: Status) -> None:
    sessions = [session(status, key=key) for key, status in enumerate(statuses)]
    assert merge(sessions).status == wanted
    assert merge(reversed(sessions)) == merge(sessions)


def test_each_device_shows_its_own() -> None:
    merged = merge(
        [
            session("idle", "desktop", key=1),
            session("dnd", "desktop", key=2),
            session("online", "mobile", key=3),
            session("invisible", "web", key=4),
        ]
    )
    assert merged.client_status == ClientStatus(desktop="dnd", mobile="online")


def test_activities_of_all_sessions_but_the_hidden_are_shown_up_to_five() -> None:
    sessions = [session("idle", key=n, at=n, doing=f"game {n}") for n in range(7)]
    hidden = session("invisible", key=9, doing="secret")
    first = session("online", key=10, doing="work")
    twice = session("dnd", key=11, doing="work")
    names = [one.name for one in merge([*sessions, hidden, first, twice]).activities]
    assert names == ["work", "game 6", "game 5", "game 4", "game 3"]
    assert merge([hidden]) == OFFLINE


def test_of_a_session_on_two_nodes_the_later_word_counts() -> None:
    older = UserPresence((1,), (session("dnd", at=1), session("idle", key=2)))
    newer = UserPresence((1,), (session("online", at=2),))
    for parts in ([older, newer], [newer, older]):
        found = {one.key: one.status for one in latest(parts)}
        assert found == {1: "online", 2: "idle"}


@pytest.mark.parametrize(
    ("browser", "wanted"),
    [
        ("Discord Client", "desktop"),
        ("parley desktop", "desktop"),
        ("Discord iOS", "mobile"),
        ("Discord Android", "mobile"),
        ("Mobile Safari", "mobile"),
        ("axios/1.2", "web"),
        ("discord.py", "web"),
        ("", "web"),
    ],
)
def test_the_device_by_what_a_client_calls_itself(browser: str, wanted: Device) -> None:
    assert device_of(browser) == wanted


def test_an_activity_has_begun_when_it_was_named_first() -> None:
    wish = PresenceUpdate(activities=[Activity(name="Go", created_at=7), Activity(name="Go")])
    first = activities_of(wish, (), 100)
    assert [(one.name, one.created_at) for one in first] == [("Go", 100)]
    more = PresenceUpdate(activities=[Activity(name="Chess"), Activity(name="Go")])
    later = activities_of(more, first, 200)
    assert [(one.name, one.created_at) for one in later] == [("Chess", 200), ("Go", 100)]
    assert activities_of(PresenceUpdate(game=Activity(name="Go")), (), 1)[0].name == "Go"
    assert activities_of(PresenceUpdate(), later, 1) == ()


# How much is told.


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


def node_of(clock: StandingClock, limits: PresenceLimits | None = None) -> Node:
    return Node("a", LocalPresences(Board(clock), "a"), clock, limits or PresenceLimits())


async def test_who_comes_and_goes_within_a_tick_is_not_told(clock: StandingClock) -> None:
    node = node_of(clock)
    node.come(1)
    node.service.gone(1, 1, for_good=True)
    await node.service.tell()
    assert node.listeners.told == []


async def test_who_was_cut_counts_as_there_for_a_while(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(grace_s=10))
    for user_id in (1, 2):
        node.come(user_id)
        node.service.gone(user_id, user_id, for_good=False)
    clock.pass_by(seconds=9.9)
    await node.service.tell()
    assert node.service.online == 2
    node.service.back(1, 1, "web")
    clock.pass_by(seconds=0.2)
    await node.service.tell()
    assert node.listeners.statuses(1) == ["online"]
    assert node.listeners.statuses(2) == ["online", "offline"]


async def test_a_flapping_user_is_told_once_in_a_tick(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(changes=1000))
    node.come(1)
    for number in range(500):
        status: Status = "idle" if number % 2 else "dnd"
        node.service.change(1, 1, PresenceUpdate(status=status))
    await node.service.tell()
    assert node.listeners.statuses(1) == ["idle"]


async def test_what_is_told_in_a_second_is_bounded_and_the_last_state_comes_in_the_end(
    clock: StandingClock,
) -> None:
    limits = PresenceLimits(frames_per_s=1000, users=250, changes=1000)
    node = node_of(clock, limits)
    node.listeners.size = 100
    users = range(1, 101)
    for user_id in users:
        node.come(user_id)
    told = 0
    for _ in range(4):
        await node.service.tell()
        told += len(node.listeners.told)
        node.listeners.told.clear()
        clock.pass_by(seconds=0.25)
    # Half a second's worth is there in the beginning.
    assert 0 < told * 100 <= 1000 * 1.5
    for user_id in users:
        node.service.change(user_id, user_id, PresenceUpdate(status="dnd"))
    last: dict[int, Status] = {}
    for _ in range(60):
        clock.pass_by(seconds=0.25)
        await node.service.tell()
        last.update({int(one.user.id): one.status for one in node.listeners.told})
    assert last == dict.fromkeys(users, "dnd")


async def test_a_tick_tells_of_so_many_users_and_no_more(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(users=10))
    for user_id in range(1, 31):
        node.come(user_id)
    await node.service.tell()
    assert len(node.listeners.told) == 10


async def test_while_the_server_is_overloaded_nothing_is_told_and_later_the_last_state(
    clock: StandingClock,
) -> None:
    node = node_of(clock)
    node.is_shedding = True
    node.come(1)
    node.come(2)
    await node.service.tell()
    node.service.change(1, 1, PresenceUpdate(status="dnd"))
    node.service.gone(2, 2, for_good=True)
    await node.service.tell()
    assert node.listeners.told == []
    node.is_shedding = False
    await node.service.tell()
    assert node.listeners.statuses(1) == ["dnd"]
    assert node.listeners.statuses(2) == []


async def test_a_crowd_hears_nothing_and_smaller_guilds_still_do(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(crowd=5))
    for user_id in range(1, 6):
        node.come(user_id)
    await node.service.tell()
    assert len(node.listeners.told) == 5
    node.listeners.told.clear()
    node.come(6, guilds=(GUILD, 77))
    await node.service.tell()
    assert [int(one.guild_id) for one in node.listeners.told] == [77]
    assert node.service.in_guild(0, 0, GUILD) == ()
    assert len(node.service.in_guild(0, 0, 77)) == 1


async def test_changes_beyond_the_allowance_wait_and_the_last_is_made(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(changes=5, change_s=4))
    node.come(1)
    await node.service.tell()
    node.listeners.told.clear()
    heard: list[Status] = []
    for number in range(20):
        node.service.change(1, 1, PresenceUpdate(status="idle" if number % 2 else "dnd"))
        await node.service.tell()
        heard += node.listeners.statuses(1)
    assert heard == ["dnd", "idle", "dnd", "idle", "dnd"]
    clock.pass_by(seconds=3.9)
    await node.service.tell()
    assert node.listeners.statuses(1) == []
    clock.pass_by(seconds=0.2)
    await node.service.tell()
    assert node.listeners.statuses(1) == ["idle"]


async def test_a_list_for_an_opening_and_what_is_told_after_it_leave_no_hole(
    clock: StandingClock,
) -> None:
    node = node_of(clock)
    node.come(1)
    await node.service.tell()
    node.service.opening(2, Showing())
    listed = node.service.in_guild(2, 2, GUILD)
    assert {int(one.user.id) for one in listed} == {1, 2}
    # Between the list and the first event that it hears, things go on.
    node.come(3)
    node.service.gone(1, 1, for_good=True)
    await node.service.tell()
    missed = node.service.live(2, 2, (GUILD,))
    told = {int(event.presence.user.id): event.presence.status for event in missed}
    assert told == {1: "offline", 3: "online"}


async def test_a_list_is_made_once_a_second_at_most(clock: StandingClock) -> None:
    node = node_of(clock)
    node.come(1)
    await node.service.tell()
    first = node.service.in_guild(0, 0, GUILD)
    node.come(2)
    await node.service.tell()
    assert node.service.in_guild(0, 0, GUILD) is first
    clock.pass_by(seconds=1.1)
    assert len(node.service.in_guild(0, 0, GUILD)) == 2


async def test_nothing_is_kept_of_who_is_gone(clock: StandingClock) -> None:
    node = node_of(clock)
    for user_id in range(1, 50):
        node.come(user_id)
        node.service.change(user_id, user_id, PresenceUpdate(status="dnd"))
    node.service.opening(99, Showing())
    node.service.in_guild(99, 99, GUILD)
    node.service.gone(99, 99, for_good=False)
    await node.service.tell()
    for user_id in range(1, 50):
        node.service.gone(user_id, user_id, for_good=user_id % 2 == 0)
    clock.pass_by(seconds=11)
    await node.service.tell()
    assert node.service.online == 0
    kept = {
        name: held
        for name, held in vars(node.service).items()
        if isinstance(held, dict) and held and name not in {"_unwritten", "_unkept", "_last"}
    }
    assert kept == {}


async def test_what_waits_for_the_store_is_one_word_for_each_user(clock: StandingClock) -> None:
    board = Board(clock)
    store = LocalPresences(board, "a")
    node = Node("a", store, clock, PresenceLimits(users=2, changes=1000))
    reader = LocalPresences(board, "b")
    await node.service.beat()
    for user_id in (1, 2, 3):
        node.come(user_id)
        node.service.change(user_id, user_id, PresenceUpdate(status="idle"))
        node.service.change(user_id, user_id, PresenceUpdate(status="dnd"))
    await node.service.exchange()
    assert {change.user_id for change in await reader.changes()} == {1, 2}
    await node.service.exchange()
    assert [change.user_id for change in await reader.changes()] == [3]


async def test_a_session_that_was_ended_here_and_known_elsewhere_may_be_resumed(
    clock: StandingClock,
) -> None:
    board = Board(clock)
    here, there = (
        Node(name, LocalPresences(board, name), clock, PresenceLimits()) for name in "ab"
    )
    there.come(1, status="dnd")
    await there.work()
    await here.work()
    for _ in range(2):
        here.service.back(1, 1, "web")
        here.service.live(1, 1, (GUILD,))
        await here.work()
        assert here.service.online == 1
        clock.pass_by(seconds=1)
        here.service.gone(1, 1, for_good=True)
        await here.work()
        assert here.service.online == 0
    assert here.listeners.statuses(1) == ["dnd", "offline", "dnd", "offline"]


# Who does not want to be seen, and who has left.

OFTEN = PresenceLimits(changes=1000)


def say(node: Node, user_id: int, status: Status) -> None:
    node.service.change(user_id, user_id, PresenceUpdate(status=status))


def resume(node: Node, user_id: int, *, guilds: tuple[int, ...] = (GUILD,)) -> None:
    node.service.back(user_id, user_id, "web")
    node.service.live(user_id, user_id, guilds)


@pytest.mark.parametrize("status", ["invisible", "dnd"])
async def test_who_was_cut_for_long_shows_again_what_they_showed_last(
    clock: StandingClock, status: Status
) -> None:
    node = node_of(clock, PresenceLimits(grace_s=10))
    node.come(1)
    say(node, 1, status)
    await node.work()
    node.service.gone(1, 1, for_good=False)
    clock.pass_by(seconds=11)
    await node.work()
    node.listeners.told.clear()
    resume(node, 1)
    await node.work()
    assert node.listeners.statuses(1) == ([] if status == "invisible" else [status])


async def test_of_whom_nothing_is_known_nothing_is_shown_until_they_say_something(
    clock: StandingClock,
) -> None:
    node = node_of(clock)
    resume(node, 1)
    for _ in range(3):
        await node.work()
    assert node.listeners.told == []
    assert {one.status for _, one in node.listeners.privately} == {"invisible"}
    say(node, 1, "online")
    await node.work()
    assert node.listeners.statuses(1) == ["online"]


async def test_a_change_that_waits_when_a_session_is_cut_is_not_forgotten(
    clock: StandingClock,
) -> None:
    node = node_of(clock, PresenceLimits(grace_s=10, changes=1, change_s=600))
    node.come(1)
    say(node, 1, "dnd")
    say(node, 1, "invisible")
    node.service.gone(1, 1, for_good=False)
    clock.pass_by(seconds=11)
    await node.work()
    node.listeners.told.clear()
    resume(node, 1)
    await node.work()
    assert node.listeners.told == []


async def test_what_is_said_before_a_resumed_session_is_live_counts(clock: StandingClock) -> None:
    board = Board(clock)
    here, there = (Node(name, LocalPresences(board, name), clock, OFTEN) for name in "ab")
    there.come(1)
    await there.work()
    await here.work()
    assert here.listeners.statuses(1) == ["online"]
    here.service.back(1, 1, "web")
    say(here, 1, "invisible")
    here.service.live(1, 1, (GUILD,))
    await here.work()
    assert here.listeners.statuses(1) == ["offline"]


async def test_a_cut_session_that_went_on_elsewhere_comes_back_as_it_was_there(
    clock: StandingClock,
) -> None:
    board = Board(clock)
    limits = PresenceLimits(grace_s=10, changes=1000)
    here, there = (Node(name, LocalPresences(board, name), clock, limits) for name in "ab")
    here.come(1)
    await here.work()
    await there.work()
    here.service.gone(1, 1, for_good=False)
    resume(there, 1)
    clock.pass_by(seconds=1)
    say(there, 1, "invisible")
    await there.work()
    there.service.gone(1, 1, for_good=False)
    await here.work()
    here.listeners.told.clear()
    resume(here, 1)
    for _ in range(3):
        clock.pass_by(seconds=10)
        await there.work()
        await here.work()
    assert here.listeners.told == []
    assert here.service.online == 0


async def test_what_is_remembered_of_sessions_is_bounded(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(kept=10))
    for user_id in range(1, 51):
        node.come(user_id)
        node.service.gone(user_id, user_id, for_good=False)
    clock.pass_by(seconds=11)
    await node.service.tell()
    assert len(vars(node.service)["_last"]) == len(vars(node.service)["_unkept"]) == 10


@pytest.mark.parametrize("ahead", ["here", "there"])
async def test_the_last_word_counts_though_the_clocks_differ(ahead: str) -> None:
    clocks = StandingClock(), StandingClock()
    board = Board(clocks[0])
    here, there = (
        Node(name, LocalPresences(board, name), clock, OFTEN)
        for name, clock in zip("ab", clocks, strict=True)
    )
    clocks[ahead == "there"].pass_by(seconds=12)
    here.come(1)
    await here.work()
    await there.work()
    here.service.gone(1, 1, for_good=False)
    resume(there, 1)
    say(there, 1, "invisible")
    for _ in range(2):
        await there.work()
        await here.work()
    assert here.listeners.statuses(1) == ["online", "offline"]
    say(there, 1, "dnd")
    there.service.gone(1, 1, for_good=True)
    for _ in range(2):
        await there.work()
        await here.work()
    assert here.service.online == there.service.online == 0


async def test_a_session_of_which_word_comes_late_is_as_it_was(clock: StandingClock) -> None:
    board = Board(clock)
    here, there = (Node(name, LocalPresences(board, name), clock, OFTEN) for name in "ab")
    there.come(1, status="dnd")
    # It is resumed before this node has read of it.
    resume(here, 1)
    await there.work()
    for _ in range(2):
        await here.work()
        await there.work()
    there.service.gone(1, 1, for_good=False)
    clock.pass_by(seconds=11)
    for _ in range(2):
        await there.work()
        await here.work()
    assert here.listeners.statuses(1) == ["dnd"]


async def test_a_last_word_that_arrives_after_a_session_has_moved_stays(
    clock: StandingClock,
) -> None:
    board = Board(clock)
    here, there = (Node(name, LocalPresences(board, name), clock, OFTEN) for name in "ab")
    there.come(1)
    await there.work()
    await here.work()
    clock.pass_by(seconds=1)
    say(there, 1, "invisible")
    there.service.gone(1, 1, for_good=False)
    # What this node knows of it is a moment old, and so is what the store keeps.
    resume(here, 1)
    await here.work()
    for _ in range(3):
        await there.work()
        await here.work()
        clock.pass_by(seconds=11)
    assert here.listeners.statuses(1) == ["online", "offline"]
    assert here.service.online == there.service.online == 0


async def test_a_resumed_session_hears_nothing_of_who_left_its_guild(clock: StandingClock) -> None:
    node = node_of(clock, OFTEN)
    node.come(1)
    node.come(2, guilds=(GUILD, 7))
    node.come(3, guilds=(GUILD, 7))
    await node.work()
    node.service.moved([2, 3], GUILD, is_in=False)
    await node.work()
    say(node, 2, "dnd")
    node.service.gone(3, 3, for_good=True)
    clock.pass_by(seconds=1)
    await node.work()
    node.service.gone(1, 1, for_good=False)
    node.service.back(1, 1, "web")
    told = node.service.live(1, 1, (GUILD,))
    assert {int(event.presence.user.id) for event in told} == {1}
    # Who shares another guild hears of them there.
    heard = node.service.live(4, 4, (7, GUILD))
    found = {(int(event.presence.user.id), int(event.presence.guild_id)) for event in heard}
    assert found >= {(2, 7), (3, 7)}
    assert not found & {(2, GUILD), (3, GUILD)}


async def test_who_has_left_again_is_not_told_who_is_there(clock: StandingClock) -> None:
    node = node_of(clock)
    node.come(1)
    node.come(3, guilds=())
    await node.work()
    node.listeners.privately.clear()
    node.is_shedding = True
    node.service.moved([3], GUILD, is_in=True)
    await node.work()
    node.service.moved([3], GUILD, is_in=False)
    node.is_shedding = False
    await node.work()
    assert [user_id for user_id, _ in node.listeners.privately] == []


async def test_those_who_wait_to_be_told_who_is_there_are_bounded(clock: StandingClock) -> None:
    node = node_of(clock, PresenceLimits(joined=3))
    node.come(1)
    await node.work()
    node.listeners.privately.clear()
    users = range(10, 20)
    for user_id in users:
        node.come(user_id, guilds=())
        node.service.moved([user_id], GUILD, is_in=True)
    await node.work()
    assert {user_id for user_id, _ in node.listeners.privately} == {17, 18, 19}


@pytest.mark.parametrize("where", ["here", "there"])
async def test_who_left_is_in_no_list_though_nothing_is_told_or_read(
    clock: StandingClock, where: str
) -> None:
    board = Board(clock)
    here, there = (Node(name, LocalPresences(board, name), clock, OFTEN) for name in "ab")
    here.come(1)
    (here if where == "here" else there).come(2)
    for _ in range(2):
        await there.work()
        await here.work()
    clock.pass_by(seconds=5)
    assert {int(one.user.id) for one in here.service.in_guild(0, 0, GUILD)} == {1, 2}
    here.is_shedding = True
    here.service.moved([2], GUILD, is_in=False)
    for _ in range(2):
        assert {int(one.user.id) for one in here.service.in_guild(0, 0, GUILD)} == {1}
        here.is_shedding = False
        await here.service.tell()
    here.listeners.told.clear()
    here.service.moved([2], GUILD, is_in=True)
    await here.service.tell()
    assert here.listeners.statuses(2) == ["online"]
