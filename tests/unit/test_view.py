"""What a session may see: allowed then and allowed now."""

from collections.abc import Sequence

import pytest

from internal.chat.ws.sight import Sight
from internal.chat.ws.view import Fate, Groups, Span, View, is_move, is_readable
from internal.eventlog.model import Entry
from internal.utils.json import encode
from tests.support.entries import entry
from tests.support.sights import channel, membership, sight, thread

ADA, GUILD, OTHER, LOGIN = 1, 10, 20, 55


def missing(entries: Sequence[Entry], guilds: set[int], shown: Sequence[int] = ()) -> View:
    """Ada's view of what she missed, when she is in `guilds` at its end."""
    moves = [e for e in entries if is_move(e, ADA) and e.outbox_id not in shown]
    span = Span(
        entries[-1].pos,
        moves,
        among(guilds),
        sights=seen(guilds),
        user_id=ADA,
        groups=Groups(entries),
    )
    return View(
        ADA, LOGIN, among(guilds), seen(guilds), suppressed=shown, span=span, find_sight=find
    )


def among(guilds: set[int]) -> dict[int, tuple[int, ...]]:
    """A member of these, without roles."""
    return dict.fromkeys(guilds, ())


def seen(guilds: set[int]) -> dict[int, Sight]:
    return {guild_id: sight(guild_id) for guild_id in guilds}


def find(guild_id: int, _pos: int) -> Sight:
    """As a node that knows all guilds."""
    return sight(guild_id)


def told(view: View, entries: Sequence[Entry]) -> list[int]:
    return [e.pos for e in entries if view.take(e) is Fate.TELL]


def replay(entries: Sequence[Entry], guilds: set[int], shown: Sequence[int] = ()) -> list[int]:
    return told(missing(entries, guilds, shown), entries)


def test_a_view_sees_its_guilds_and_itself() -> None:
    view = View(ADA, LOGIN, among({GUILD}), seen({GUILD}))
    assert view.take(entry(1, guild=GUILD)) is Fate.TELL
    assert view.take(entry(2, guild=OTHER)) is Fate.PASS
    assert view.take(entry(3, users=[ADA, 2])) is Fate.TELL
    assert view.take(entry(4, users=[2])) is Fate.PASS


def test_a_view_joins_and_leaves_with_the_log() -> None:
    view = View(ADA, LOGIN, {}, {}, find_sight=find)
    assert view.take(entry(1, guild=GUILD)) is Fate.PASS
    assert view.take(entry(2, "GUILD_CREATE", guild=GUILD, users=[ADA])) is Fate.TELL
    assert view.take(entry(3, guild=GUILD)) is Fate.TELL
    assert view.take(entry(4, "GUILD_DELETE", guild=GUILD, users=[ADA])) is Fate.TELL
    assert view.take(entry(5, guild=GUILD)) is Fate.PASS


def test_what_ready_showed_is_passed_over_once() -> None:
    view = View(ADA, LOGIN, among({GUILD, OTHER}), seen({GUILD, OTHER}), suppressed=[1002])
    assert view.take(entry(1, guild=GUILD)) is Fate.TELL
    assert view.take(entry(2, "GUILD_CREATE", guild=OTHER, users=[ADA])) is Fate.PASS
    assert view.guilds.keys() == {GUILD, OTHER}
    assert view.is_settled


def test_the_end_of_the_login_ends_the_view() -> None:
    view = View(ADA, LOGIN, {}, {}, find_sight=find)
    other = entry(1, "session_ended", users=[ADA], payload=b'{"session_ids":["54"]}')
    own = entry(2, "session_ended", users=[ADA], payload=b'{"session_ids":["54","55"]}')
    assert view.take(other) is Fate.PASS
    assert view.take(own) is Fate.END


def test_a_replay_tells_what_was_missed_in_order() -> None:
    missed = [
        entry(1, guild=GUILD),
        entry(2, guild=OTHER),
        entry(3, users=[ADA]),
        entry(4, users=[2]),
    ]
    assert replay(missed, {GUILD}) == [1, 3]


def test_a_replay_passes_over_what_was_shown_or_is_internal() -> None:
    missed = [
        entry(2, guild=GUILD),
        entry(3, "session_ended", users=[ADA]),
        entry(4, guild=GUILD),
    ]
    assert replay(missed, {GUILD}, [1002]) == [4]


def test_whoever_came_back_hears_of_the_guild_from_the_return_on() -> None:
    missed = [
        entry(1, guild=GUILD),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(3, guild=GUILD),
        entry(4, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(5, guild=GUILD),
    ]
    assert replay(missed, {GUILD}) == [2, 4, 5]


def test_of_a_guild_that_was_left_only_the_leaving_is_told() -> None:
    missed = [
        entry(1, guild=GUILD),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(3, guild=GUILD),
    ]
    assert replay(missed, set()) == [2]


def test_a_guild_joined_and_left_meanwhile_never_was() -> None:
    missed = [
        entry(1, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(2, guild=GUILD),
        entry(3, "GUILD_DELETE", guild=GUILD, users=[ADA]),
    ]
    assert replay(missed, set()) == []


def test_of_several_returns_only_the_last_is_told() -> None:
    missed = [
        entry(1, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(3, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(4, guild=GUILD),
    ]
    assert replay(missed, {GUILD}) == [3, 4]


def test_a_join_that_ready_showed_still_counts_behind_the_span() -> None:
    """Shown without a position, and drained only after the resume."""
    guilds = {GUILD}
    span = Span(4, [], among(guilds), sights=seen(guilds), user_id=ADA)
    view = View(ADA, LOGIN, among(guilds), seen(guilds), suppressed=[1005], span=span)
    joined = entry(5, "GUILD_CREATE", guild=GUILD, users=[ADA])
    assert told(view, [joined, entry(6, guild=GUILD)]) == [6]
    assert view.is_settled


def test_a_join_that_was_not_told_is_not_left_either() -> None:
    """Joined within the span, and leaving at this moment: the client knows nothing of it."""
    missed = [entry(1, "GUILD_CREATE", guild=GUILD, users=[ADA]), entry(2, guild=GUILD)]
    view = missing(missed, set())
    assert told(view, missed) == []
    assert not view.is_settled
    later = [
        entry(3, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(4, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(5, guild=GUILD),
    ]
    assert told(view, later) == [4, 5]
    assert view.is_settled


def test_a_return_settles_what_was_not_told() -> None:
    missed = [entry(1, "GUILD_CREATE", guild=GUILD, users=[ADA])]
    view = missing(missed, set())
    later = [entry(2, "GUILD_CREATE", guild=GUILD, users=[ADA]), entry(3, guild=GUILD)]
    assert told(view, [*missed, *later]) == [2, 3]
    assert view.is_settled


def test_of_a_group_that_was_left_only_the_leaving_is_told() -> None:
    missed = [
        entry(1, users=[ADA, 2], channel=7),
        entry(2, "CHANNEL_DELETE", users=[ADA], channel=7),
        entry(3, users=[ADA, 2], channel=8),
    ]
    assert replay(missed, set()) == [2, 3]


def test_a_group_joined_and_left_meanwhile_never_was() -> None:
    missed = [
        entry(1, "CHANNEL_CREATE", users=[ADA], channel=7),
        entry(2, users=[ADA, 2], channel=7),
        entry(3, "CHANNEL_DELETE", users=[ADA], channel=7),
    ]
    assert replay(missed, set()) == []


def test_whoever_came_back_to_a_group_hears_from_the_return_on() -> None:
    missed = [
        entry(1, users=[ADA, 2], channel=7),
        entry(2, "CHANNEL_DELETE", users=[ADA], channel=7),
        entry(3, "CHANNEL_CREATE", users=[ADA], channel=7),
        entry(4, users=[ADA, 2], channel=7),
    ]
    assert replay(missed, set()) == [2, 3, 4]


def test_what_was_for_a_member_alone_is_not_told_to_who_left() -> None:
    missed = [
        entry(1, "GUILD_AUDIT_LOG_ENTRY_CREATE", guild=GUILD, users=[ADA]),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
    ]
    assert replay(missed, set()) == [2]


def in_private_thread(*members: int) -> Sight:
    """A guild with one private thread, 20, in its channel 7."""
    return sight(
        GUILD,
        channel(GUILD, 7),
        threads=[(thread(20, 7, GUILD, kind=12), tuple(membership(20, one) for one in members))],
    )


def test_whoever_was_removed_from_a_private_thread_is_not_told_what_was_said_there() -> None:
    said = entry(1, guild=GUILD, users=[ADA, 2], channel=20, parent=7)
    for members, heard in (([ADA, 2], [1]), ([2], [])):
        sights = {GUILD: in_private_thread(*members)}
        span = Span(1, [], among({GUILD}), sights=sights, user_id=ADA)
        view = View(ADA, LOGIN, among({GUILD}), sights, span=span)
        assert told(view, [said]) == heard


def test_a_view_sees_what_happens_in_the_private_threads_of_others() -> None:
    """Its sight may become that of all who are on this node."""
    view = View(ADA, LOGIN, among({GUILD}), {GUILD: in_private_thread(2, 3)})
    payload = encode(
        {
            "id": "20",
            "guild_id": str(GUILD),
            "member_count": 1,
            "added_members": [],
            "removed_member_ids": ["3"],
        }
    )
    gone = entry(
        1, "THREAD_MEMBERS_UPDATE", guild=GUILD, users=[2, 3], channel=20, parent=7, payload=payload
    )
    assert told(view, [gone]) == []
    assert not view.sights[GUILD].is_in_threads(3, [7])


@pytest.mark.parametrize(
    ("kind", "payload", "is_understood"),
    [
        ("session_ended", b'{"session_ids":["1"]}', True),
        ("session_ended", b"{}", False),
        ("session_ended", b'{"session_ids":["one"]}', False),
        ("session_taken", b'{"key":1,"take":2}', True),
        ("session_taken", b'{"key":"x"}', False),
        ("of_a_later_release", b"{}", True),
        ("MESSAGE_CREATE", b"{}", True),
    ],
)
def test_what_is_for_the_server_is_read_before_it_is_relied_on(
    kind: str, payload: bytes, *, is_understood: bool
) -> None:
    assert is_readable(entry(1, kind, payload=payload)) is is_understood
