"""What a session may see: allowed then and allowed now."""

from internal.chat.ws.view import Fate, View, replay
from tests.support.entries import entry

ADA, GUILD, OTHER, LOGIN = 1, 10, 20, 55


def seqs(frames: list[bytes]) -> list[int]:
    return [int(frame.partition(b'"s":')[2].partition(b",")[0]) for frame in frames]


def test_a_view_sees_its_guilds_and_itself() -> None:
    view = View(ADA, LOGIN, {GUILD})
    assert view.take(entry(1, guild=GUILD)) is Fate.TELL
    assert view.take(entry(2, guild=OTHER)) is Fate.PASS
    assert view.take(entry(3, users=[ADA, 2])) is Fate.TELL
    assert view.take(entry(4, users=[2])) is Fate.PASS


def test_a_view_joins_and_leaves_with_the_log() -> None:
    view = View(ADA, LOGIN, set())
    assert view.take(entry(1, guild=GUILD)) is Fate.PASS
    assert view.take(entry(2, "GUILD_CREATE", guild=GUILD, users=[ADA])) is Fate.TELL
    assert view.take(entry(3, guild=GUILD)) is Fate.TELL
    assert view.take(entry(4, "GUILD_DELETE", guild=GUILD, users=[ADA])) is Fate.TELL
    assert view.take(entry(5, guild=GUILD)) is Fate.PASS


def test_what_ready_showed_is_passed_over_once() -> None:
    view = View(ADA, LOGIN, {GUILD}, suppressed=[1002])
    assert view.take(entry(1, guild=GUILD)) is Fate.TELL
    assert view.take(entry(2, "GUILD_CREATE", guild=OTHER, users=[ADA])) is Fate.PASS
    assert view.guilds == {GUILD}
    assert view.suppressed == set()


def test_the_end_of_the_login_ends_the_view() -> None:
    view = View(ADA, LOGIN, set())
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
    assert seqs(replay(missed, ADA, {GUILD}, [])) == [1, 3]


def test_a_replay_passes_over_what_was_taken_back_suppressed_or_internal() -> None:
    missed = [
        entry(1, guild=GUILD, payload=None),
        entry(2, guild=GUILD),
        entry(3, "session_ended", users=[ADA]),
        entry(4, guild=GUILD),
    ]
    assert seqs(replay(missed, ADA, {GUILD}, [1002])) == [4]


def test_whoever_came_back_hears_of_the_guild_from_the_return_on() -> None:
    missed = [
        entry(1, guild=GUILD),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(3, guild=GUILD),
        entry(4, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(5, guild=GUILD),
    ]
    assert seqs(replay(missed, ADA, {GUILD}, [])) == [2, 4, 5]


def test_of_a_guild_that_was_left_only_the_leaving_is_told() -> None:
    missed = [
        entry(1, guild=GUILD),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(3, guild=GUILD),
    ]
    assert seqs(replay(missed, ADA, set(), [])) == [2]


def test_a_guild_joined_and_left_meanwhile_never_was() -> None:
    missed = [
        entry(1, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(2, guild=GUILD),
        entry(3, "GUILD_DELETE", guild=GUILD, users=[ADA]),
    ]
    assert replay(missed, ADA, set(), []) == []


def test_of_several_returns_only_the_last_is_told() -> None:
    missed = [
        entry(1, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(2, "GUILD_DELETE", guild=GUILD, users=[ADA]),
        entry(3, "GUILD_CREATE", guild=GUILD, users=[ADA]),
        entry(4, guild=GUILD),
    ]
    assert seqs(replay(missed, ADA, {GUILD}, [])) == [3, 4]
