"""Resuming: what was missed comes once and in order, or the server says that it can't tell."""

import base64
from typing import Any

import pytest

from tests.e2e.conftest import OpenTown
from tests.support.gateway import Gateway, Op
from tests.support.people import Guild, Person, Town


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    """Ada's guild, with Bob in it. Both are connected; Ada's fence tells that the log is written.

    What is acknowledged and not in the log yet comes behind RESUMED, which is as good for clients.
    """
    made = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    return made


async def refused_session(gateway: Gateway) -> None:
    """The server says that the session can't go on, and lets one identify on the same socket."""
    frame = await gateway.expect_op(Op.INVALID_SESSION)
    assert frame.d is False


async def test_what_was_missed_comes_once_and_in_order(
    ada: Person, bob: Person, guild: Guild
) -> None:
    before = bob.gateway
    await ada.say(guild.channel_id, "heard live")
    await before.expect("MESSAGE_CREATE", content="heard live")
    await before.abort()
    for number in range(30):
        await ada.say(guild.channel_id, f"missed {number}")
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    await ada.say(guild.channel_id, "live again")
    await after.expect("MESSAGE_CREATE", content="live again")
    heard = [frame.d["content"] for frame in after.of_type("MESSAGE_CREATE")]
    assert heard == [f"missed {number}" for number in range(30)] + ["live again"]
    positions = [frame.s or 0 for frame in after.of_type("MESSAGE_CREATE")]
    assert positions == sorted(set(positions))
    assert min(positions) > before.seq


async def test_resumed_says_so_with_an_object_behind_the_replay(
    ada: Person, bob: Person, guild: Guild
) -> None:
    before = bob.gateway
    await before.abort()
    await ada.say(guild.channel_id, "missed")
    await ada.fence()
    after = await bob.resume(before.session_id, before.seq)
    resumed = await after.expect_frame("RESUMED")
    assert isinstance(resumed.d, dict)
    kinds = [frame.t for frame in after.dispatches]
    assert kinds == ["MESSAGE_CREATE", "RESUMED"]


async def test_a_session_resumes_any_number_of_times(
    ada: Person, bob: Person, guild: Guild
) -> None:
    session_id, seq, heard = bob.gateway.session_id, bob.gateway.seq, []
    await bob.gateway.abort()
    for number in range(5):
        await ada.say(guild.channel_id, str(number))
        await ada.fence()
        gateway = await bob.resume(session_id, seq)
        await gateway.expect("RESUMED")
        heard += [frame.d["content"] for frame in gateway.of_type("MESSAGE_CREATE")]
        seq = gateway.seq
        await gateway.abort()
    assert heard == [str(number) for number in range(5)]


@pytest.mark.usefixtures("guild")
async def test_resuming_with_nothing_missed_is_fine(bob: Person) -> None:
    before = bob.gateway
    await before.abort()
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    assert [frame.t for frame in after.dispatches] == ["RESUMED"]


@pytest.mark.usefixtures("guild")
async def test_a_second_resume_ends_the_first_socket(bob: Person) -> None:
    before = bob.gateway
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    await before.expect_close(4902)
    await after.heartbeat()


async def test_a_send_during_the_gap_and_a_leave_are_told_as_they_stand_now(
    ada: Person, bob: Person, guild: Guild
) -> None:
    """Who was removed gets the removal, and nothing that was said after it."""
    before = bob.gateway
    await before.abort()
    await bob.post(f"/guilds/{guild.id}/leave")
    await ada.say(guild.channel_id, "he is gone")
    await ada.fence()
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    assert [frame.t for frame in after.dispatches] == ["GUILD_DELETE", "RESUMED"]


async def test_who_came_back_gets_the_guild_afresh(ada: Person, bob: Person, guild: Guild) -> None:
    before = bob.gateway
    await before.abort()
    await bob.post(f"/guilds/{guild.id}/leave")
    await ada.say(guild.channel_id, "not for him")
    await bob.post(f"/guilds/{guild.id}/join")
    said = await ada.say(guild.channel_id, "welcome back")
    await ada.fence()
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    assert [frame.t for frame in after.dispatches] == [
        "GUILD_DELETE",
        "GUILD_CREATE",
        "MESSAGE_CREATE",
        "RESUMED",
    ]
    assert after.of_type("MESSAGE_CREATE")[0].d["id"] == said["id"]


async def test_what_was_deleted_meanwhile_never_appears(
    ada: Person, bob: Person, guild: Guild
) -> None:
    before = bob.gateway
    await before.abort()
    slip = await ada.say(guild.channel_id, "a secret that slipped")
    await ada.delete(f"/messages/{guild.channel_id}/{slip['id']}")
    fixed = await ada.say(guild.channel_id, "the wrong words")
    await ada.patch(f"/messages/{guild.channel_id}/{fixed['id']}", {"content": "the right ones"})
    await ada.fence()
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    everything = b"".join(frame.raw for frame in after.frames)
    assert b"slipped" not in everything
    assert b"wrong words" not in everything
    assert after.of_type("MESSAGE_DELETE")[0].d["id"] == slip["id"]


@pytest.mark.usefixtures("guild")
@pytest.mark.parametrize("seq", [0, None, 10**9, 2**63 - 1, 2**63, 2**64, 10**40])
async def test_a_position_that_was_never_told_is_refused(bob: Person, seq: int | None) -> None:
    before = bob.gateway
    await before.abort()
    after = await bob.resume(before.session_id, seq)
    await refused_session(after)
    ready, *_ = await after.identify(bob.access_token)
    assert ready.t == "READY"


@pytest.mark.parametrize("seq", [-1, -(2**63), 1.5, "7", True, [], {}])
async def test_what_is_no_position_is_refused_without_harm(
    ada: Person, bob: Person, guild: Guild, seq: Any
) -> None:
    before = bob.gateway
    after = await bob.resume(before.session_id, seq)
    await after.expect_close(4002, 4007)
    said = await ada.say(guild.channel_id, "as if nothing had been")
    await before.expect("MESSAGE_CREATE", id=said["id"])


@pytest.mark.usefixtures("guild")
@pytest.mark.parametrize(
    "forge",
    [
        lambda _: "",
        lambda _: "nonsense",
        lambda _: "\u00e9\u00e9\u00e9",
        lambda _: "A" * 4096,
        lambda real: real[:-2],
        lambda real: real + "AAAA",
        lambda real: ("B" if real[0] != "B" else "C") + real[1:],
        lambda _: base64.urlsafe_b64encode(b"\x96\x01\x02\x03\x04\x05\x90").decode(),
    ],
)
async def test_a_forged_session_is_refused(bob: Person, forge: Any) -> None:
    before = bob.gateway
    after = await bob.resume(forge(before.session_id), before.seq)
    await refused_session(after)
    await after.identify(bob.access_token)


@pytest.mark.usefixtures("guild")
async def test_the_session_of_somebody_else_is_refused(bob: Person, eve: Person) -> None:
    after = await eve.resume(bob.gateway.session_id, bob.gateway.seq)
    await refused_session(after)
    await bob.gateway.heartbeat()


@pytest.mark.usefixtures("guild")
async def test_another_login_of_the_same_person_can_not_take_a_session_over(bob: Person) -> None:
    before = bob.gateway
    await bob.login()
    after = await bob.resume(before.session_id, before.seq)
    await refused_session(after)


@pytest.mark.usefixtures("guild")
async def test_a_revoked_login_resumes_nothing(bob: Person) -> None:
    before = bob.gateway
    await before.abort()
    await bob.post("/auth/logout")
    after = await bob.resume(before.session_id, before.seq)
    await after.expect_close(4004)


async def test_too_much_missed_is_said(open_town: OpenTown) -> None:
    town = await open_town(REPLAY_LIMIT="5")
    ada, bob = await town.person("ada"), await town.person("bob")
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    before = bob.gateway
    await before.abort()
    for number in range(6):
        await ada.say(guild.channel_id, str(number))
    await ada.fence()
    await refused_session(await bob.resume(before.session_id, before.seq))


async def test_events_of_the_opening_are_not_told_twice(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    """People identify while others talk: the opening, then events, tell each thing once."""
    for number in range(20):
        said = await ada.say(guild.channel_id, str(number))
        opening = await bob.connect()
        told = opening[1].d["channels"][0]["last_message_id"]
        assert told == said["id"]
        last = await ada.say(guild.channel_id, "and")
        await bob.gateway.expect("MESSAGE_CREATE", id=last["id"])
        heard = [frame.d["id"] for frame in bob.gateway.of_type("MESSAGE_CREATE")]
        assert heard == [last["id"]], town.url
        await bob.gateway.close()
