"""Who sees which channels of a guild, and what follows when that changes."""

from collections.abc import Sequence

import msgspec
import pytest

from internal.chat.ws.sight import (
    SIGHT_TYPES,
    News,
    Sight,
    gate_of,
    is_about_sight,
    is_state,
    news_for,
)
from internal.permission.model import EVERYONE_DEFAULT, Overwrite, Permission
from internal.utils.json import Timestamp, encode
from tests.support.entries import entry
from tests.support.sights import OWNER, channel, membership, role, sight, thread

GUILD, HALL, VAULT, ADA, BOB = 1, 10, 11, 2, 3
KEEPERS = 50
VIEW = int(Permission.VIEW_CHANNEL)
ADMINISTRATOR = int(Permission.ADMINISTRATOR)
NOW = Timestamp("2026-01-02T03:04:05.000000+00:00")

hidden_to_all = Overwrite(GUILD, False, 0, VIEW)  # noqa: FBT003
shown_to_keepers = Overwrite(KEEPERS, False, VIEW, 0)  # noqa: FBT003
shown_to_ada = Overwrite(ADA, True, VIEW, 0)  # noqa: FBT003


def house(*more: Overwrite) -> Sight:
    """A hall for everyone, and a vault that is hidden but for what `more` says."""
    return sight(
        GUILD, channel(GUILD, HALL), channel(GUILD, VAULT, hidden_to_all, *more), roles={KEEPERS: 0}
    )


def names(news: Sequence[News]) -> list[tuple[str, str]]:
    decoded = [(kind, msgspec.json.decode(payload)) for kind, payload in news]
    return [(kind, d.get("id") or ",".join(t["id"] for t in d["threads"])) for kind, d in decoded]


# Who sees what.


def test_a_hidden_channel_is_seen_by_those_it_is_shown_to() -> None:
    seen = house(shown_to_keepers, shown_to_ada)
    assert seen.sees(BOB, (), HALL)
    assert not seen.sees(BOB, (), VAULT)
    assert seen.sees(BOB, (KEEPERS,), VAULT)
    assert seen.sees(ADA, (), VAULT)
    assert seen.sees(OWNER, (), VAULT)
    assert not seen.sees(OWNER, (), 12345)


def test_administrators_see_everything() -> None:
    seen = sight(GUILD, channel(GUILD, VAULT, hidden_to_all), roles={KEEPERS: ADMINISTRATOR})
    assert seen.sees(BOB, (KEEPERS,), VAULT)


def test_without_view_in_the_guild_only_what_is_shown_is_seen() -> None:
    seen = sight(
        GUILD,
        channel(GUILD, HALL),
        channel(GUILD, VAULT, shown_to_keepers),
        everyone=0,
        roles={KEEPERS: 0},
    )
    assert not seen.sees(BOB, (KEEPERS,), HALL)
    assert seen.sees(BOB, (KEEPERS,), VAULT)


def test_a_role_that_is_no_more_gives_nothing() -> None:
    before = house(shown_to_keepers)
    payload = encode({"guild_id": str(GUILD), "role_id": str(KEEPERS)})
    after = before.after(entry(5, "GUILD_ROLE_DELETE", guild=GUILD, payload=payload))
    assert not after.sees(BOB, (KEEPERS,), VAULT)
    assert names(news_for(before, after, BOB, (KEEPERS,), (KEEPERS,))) == [
        ("CHANNEL_DELETE", str(VAULT))
    ]


def test_those_who_see_the_same_are_of_one_kind() -> None:
    seen = house(shown_to_ada)
    assert seen.kind_of(BOB, (KEEPERS,)) == seen.kind_of(4, (KEEPERS,))
    assert seen.kind_of(ADA, (KEEPERS,)) != seen.kind_of(BOB, (KEEPERS,))
    assert seen.kind_of(OWNER, ()) != seen.kind_of(BOB, ())


# What follows from events.


def test_showing_and_hiding_a_channel() -> None:
    before = house()
    shown = encode(channel(GUILD, VAULT, hidden_to_all, shown_to_keepers))
    after = before.after(entry(5, "CHANNEL_UPDATE", guild=GUILD, channel=VAULT, payload=shown))
    assert not after.is_like(before)
    assert names(news_for(before, after, BOB, (KEEPERS,), (KEEPERS,))) == [
        ("CHANNEL_CREATE", str(VAULT))
    ]
    assert names(news_for(after, before, BOB, (KEEPERS,), (KEEPERS,))) == [
        ("CHANNEL_DELETE", str(VAULT))
    ]
    assert news_for(before, after, BOB, (), ()) == []


def test_a_new_name_is_kept_and_changes_nothing_of_who_sees_it() -> None:
    before = house()
    renamed = msgspec.structs.replace(channel(GUILD, VAULT, hidden_to_all), name="cellar")
    payload = encode(renamed)
    after = before.after(entry(5, "CHANNEL_UPDATE", guild=GUILD, channel=VAULT, payload=payload))
    assert after.is_like(before)
    assert b"cellar" in after.channels[VAULT].payload


def test_another_role_shows_what_it_is_shown() -> None:
    seen = house(shown_to_keepers)
    assert names(news_for(seen, seen, BOB, (), (KEEPERS,))) == [("CHANNEL_CREATE", str(VAULT))]
    assert names(news_for(seen, seen, BOB, (KEEPERS,), ())) == [("CHANNEL_DELETE", str(VAULT))]


@pytest.mark.parametrize(
    ("bits", "is_told"), [(EVERYONE_DEFAULT | VIEW, False), (EVERYONE_DEFAULT & ~VIEW, True)]
)
def test_a_role_that_loses_view_hides_the_hall(bits: int, *, is_told: bool) -> None:
    before = house()
    payload = encode({"guild_id": str(GUILD), "role": role(GUILD, bits)})
    after = before.after(entry(5, "GUILD_ROLE_UPDATE", guild=GUILD, payload=payload))
    assert (names(news_for(before, after, BOB, (), ())) != []) is is_told
    assert after.sees(BOB, (), HALL) is not is_told


def test_whoever_gets_the_guild_sees_all_of_it() -> None:
    before = house()
    payload = encode({"owner_id": str(BOB)})
    after = before.after(entry(5, "GUILD_UPDATE", guild=GUILD, payload=payload))
    assert names(news_for(before, after, BOB, (), ())) == [("CHANNEL_CREATE", str(VAULT))]
    assert names(news_for(before, after, OWNER, (), ())) == [("CHANNEL_DELETE", str(VAULT))]


def test_a_channel_that_comes_or_goes_is_no_news_beside_its_event() -> None:
    before = house()
    payload = encode(channel(GUILD, 12))
    created = before.after(entry(5, "CHANNEL_CREATE", guild=GUILD, channel=12, payload=payload))
    assert created.sees(BOB, (), 12)
    assert news_for(before, created, BOB, (), ()) == []
    gone = created.after(entry(6, "CHANNEL_DELETE", guild=GUILD, channel=12, payload=payload))
    assert not gone.sees(BOB, (), 12)
    assert news_for(created, gone, BOB, (), ()) == []


def test_a_gained_channel_brings_its_last_message() -> None:
    seen = house(shown_to_keepers)
    seen.tally.count(entry(5, guild=GUILD, channel=VAULT, subject=777))
    seen.tally.count(entry(6, guild=GUILD, channel=VAULT, subject=778))
    ((_, payload),) = news_for(seen, seen, BOB, (), (KEEPERS,))
    assert msgspec.json.decode(payload)["last_message_id"] == "778"


# Threads.


def test_a_gained_channel_brings_its_threads() -> None:
    public, private = thread(20, VAULT, GUILD), thread(21, VAULT, GUILD, kind=12)
    seen = sight(
        GUILD,
        channel(GUILD, VAULT, hidden_to_all, shown_to_keepers),
        roles={KEEPERS: 0},
        threads=[(public, ()), (private, (membership(21, ADA),))],
    )
    assert names(news_for(seen, seen, BOB, (), (KEEPERS,))) == [
        ("CHANNEL_CREATE", str(VAULT)),
        ("THREAD_LIST_SYNC", "20"),
    ]
    _, (_, payload) = news_for(seen, seen, ADA, (), (KEEPERS,))
    sync = msgspec.json.decode(payload)
    assert [one["id"] for one in sync["threads"]] == ["20", "21"]
    assert [one["user_id"] for one in sync["members"]] == [str(ADA)]


def test_threads_come_go_and_are_counted() -> None:
    bare = sight(GUILD, channel(GUILD, VAULT, hidden_to_all, shown_to_keepers), roles={KEEPERS: 0})
    payload = encode(thread(20, VAULT, GUILD))
    started = bare.after(
        entry(5, "THREAD_CREATE", guild=GUILD, channel=20, parent=VAULT, payload=payload)
    )
    started.tally.count(entry(6, guild=GUILD, channel=20, parent=VAULT, subject=30))
    _, (_, sync) = news_for(started, started, BOB, (), (KEEPERS,))
    (told,) = msgspec.json.decode(sync)["threads"]
    assert (told["message_count"], told["last_message_id"]) == (3, "30")
    archived = encode(thread(20, VAULT, GUILD, archived=True))
    ended = started.after(
        entry(7, "THREAD_UPDATE", guild=GUILD, channel=20, parent=VAULT, payload=archived)
    )
    assert names(news_for(ended, ended, BOB, (), (KEEPERS,))) == [("CHANNEL_CREATE", str(VAULT))]


def test_members_of_threads_come_and_go() -> None:
    seen = sight(
        GUILD, channel(GUILD, VAULT), threads=[(thread(20, VAULT, GUILD), (membership(20, ADA),))]
    )
    payload = encode(
        {
            "id": "20",
            "guild_id": str(GUILD),
            "member_count": 1,
            "added_members": [membership(20, BOB)],
            "removed_member_ids": [str(ADA)],
        }
    )
    after = seen.after(entry(5, "THREAD_MEMBERS_UPDATE", guild=GUILD, channel=20, payload=payload))
    assert after.is_in_threads(BOB, [VAULT])
    assert not after.is_in_threads(ADA, [VAULT])


# Entries.


def test_what_happens_in_a_thread_is_for_those_who_see_its_channel() -> None:
    assert gate_of(entry(1, guild=GUILD, channel=20, parent=VAULT)) == VAULT
    assert gate_of(entry(1, guild=GUILD, channel=HALL)) == HALL
    assert gate_of(entry(1, guild=GUILD)) is None


def test_an_entry_says_whose_sight_it_changes() -> None:
    assert not is_about_sight(entry(1), ADA)
    assert is_about_sight(entry(1, reshapes=0), ADA)
    assert is_about_sight(entry(1, reshapes=ADA), ADA)
    assert not is_about_sight(entry(1, reshapes=BOB), ADA)


@pytest.mark.parametrize("kind", sorted(SIGHT_TYPES))
def test_what_changes_a_sight_is_state(kind: str) -> None:
    assert is_state(kind)


def test_messages_are_no_state() -> None:
    assert not is_state("MESSAGE_CREATE")
    assert not is_state("GUILD_AUDIT_LOG_ENTRY_CREATE")
