"""Channels of guilds."""

import asyncio
from typing import Any

import pytest

from tests.support.people import Person, Refused, Town, refused


async def test_a_new_channel_is_told_to_the_guild_and_listed_last(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    made = await ada.post(
        "/channels", {"guild_id": guild.id, "name": "kitchen", "topic": "What is cooking"}
    )

    assert made["type"] == 0
    assert made["guild_id"] == guild.id
    assert made["permission_overwrites"] == []
    told = await bob.gateway.expect("CHANNEL_CREATE", id=made["id"])
    assert told == made
    listed = await bob.get(f"/channels/guild/{guild.id}")
    assert [channel["name"] for channel in listed] == ["general", "kitchen"]
    assert await bob.get(f"/channels/{made['id']}") == made


async def test_the_documented_paths_do_the_same(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    # The guild of the path counts, whatever the body says.
    made = await ada.post(f"/api/v10/guilds/{guild.id}/channels", {"name": "a", "guild_id": "1"})
    assert made["guild_id"] == guild.id
    assert len(await ada.get(f"/api/v10/guilds/{guild.id}/channels")) == 2
    changed = await ada.patch(f"/api/v10/channels/{made['id']}", {"name": "b"})
    assert changed["name"] == "b"
    assert (await ada.delete(f"/api/v10/channels/{made['id']}"))["id"] == made["id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "\u200b"}, "name"),
        ({"name": "ok", "type": 2}, "type"),
        ({"name": "ok", "type": "0"}, "type"),
        ({"name": "ok", "topic": "x" * 1025}, "topic"),
        ({"name": "ok", "position": -1}, "position"),
        ({"name": "ok", "position": 2**64}, "position"),
        ({"name": "ok", "rate_limit_per_user": 21601}, "rate_limit_per_user"),
        ({"name": "ok", "nsfw": 1}, "nsfw"),
    ],
)
async def test_a_bad_channel_is_refused_by_field(
    town: Town, ada: Person, body: Any, field: str
) -> None:
    guild = await town.guild(ada)
    with pytest.raises(Refused) as refusal:
        await ada.post("/channels", {"guild_id": guild.id, **body})
    assert (refusal.value.status, refusal.value.code) == (400, 50035)
    assert field in refusal.value.body["errors"]


async def test_a_channel_needs_a_guild(ada: Person) -> None:
    with pytest.raises(Refused) as refusal:
        await ada.post("/channels", {"name": "adrift"})
    assert "guild_id" in refusal.value.body["errors"]
    with refused(404, 10004):
        await ada.post("/channels", {"name": "adrift", "guild_id": "1"})


async def test_changing_a_channel_tells_the_guild(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}"
    await bob.connect()
    body = {"name": "hall", "topic": "Come in", "nsfw": True, "position": 3}
    changed = await ada.patch(path, body)

    assert {key: changed[key] for key in body} == body
    assert await bob.gateway.expect("CHANNEL_UPDATE", id=guild.channel_id) == changed
    # Absent stays, null empties.
    assert (await ada.patch(path, {"name": "hall 2"}))["topic"] == "Come in"
    assert (await ada.patch(path, {"topic": None}))["topic"] is None
    await bob.fence()
    await ada.patch(path, {"name": "hall 2"})
    await bob.heard_nothing("CHANNEL_UPDATE")


async def test_a_deleted_channel_is_gone_with_its_messages(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    sent = await ada.say(guild.channel_id, "soon gone")
    await bob.connect()
    gone = await ada.delete(f"/channels/{guild.channel_id}")

    assert gone["id"] == guild.channel_id
    assert (await bob.gateway.expect("CHANNEL_DELETE", id=guild.channel_id))["name"] == "general"
    for attempt in (
        ada.get(f"/channels/{guild.channel_id}"),
        ada.delete(f"/channels/{guild.channel_id}"),
        ada.get(f"/messages/{guild.channel_id}/{sent['id']}"),
        ada.say(guild.channel_id, "hello?"),
    ):
        with refused(404, 10003):
            await attempt
    assert await ada.get(f"/channels/guild/{guild.id}") == []


async def test_members_see_channels_and_do_not_govern_them(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}"
    assert (await bob.get(path))["name"] == "general"
    for attempt in (bob.patch(path, {"name": "mine"}), bob.delete(path)):
        with refused(403, 50013):
            await attempt


async def test_for_strangers_there_is_no_channel(town: Town, ada: Person, eve: Person) -> None:
    guild = await town.guild(ada)
    path = f"/channels/{guild.channel_id}"
    bodies = []
    for attempt in (
        eve.get(path),
        eve.patch(path, {"name": "mine"}),
        eve.delete(path),
        eve.post(f"{path}/typing"),
        eve.say(guild.channel_id, "let me in"),
        eve.get(f"/messages/channel/{guild.channel_id}"),
        eve.get("/channels/1"),
    ):
        with pytest.raises(Refused) as refusal:
            await attempt
        assert (refusal.value.status, refusal.value.code) == (404, 10003)
        bodies.append(refusal.value.body)
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize("wrong", ["9223372036854775808", "99999999999999999999"])
async def test_an_id_beyond_64_bits_is_a_bad_request(ada: Person, wrong: str) -> None:
    with refused(400, 50035):
        await ada.get(f"/channels/{wrong}")


async def test_a_guild_has_five_hundred_channels_at_most(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    for number in range(499):
        await ada.post("/channels", {"guild_id": guild.id, "name": f"room {number}"})
    with refused(400, 30013):
        await ada.post("/channels", {"guild_id": guild.id, "name": "one too many"})


async def test_slow_mode_slows_members_and_not_the_owner(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.patch(f"/channels/{guild.channel_id}", {"rate_limit_per_user": 60})
    first = await bob.say(guild.channel_id, "one", nonce="1", enforce_nonce=True)

    with pytest.raises(Refused) as refusal:
        await bob.say(guild.channel_id, "two", nonce="2", enforce_nonce=True)
    assert (refusal.value.status, refusal.value.code) == (429, 20016)
    assert 55 < refusal.value.body["retry_after"] <= 60
    # A repetition is no second message.
    again = await bob.say(guild.channel_id, "one", nonce="1", enforce_nonce=True)
    assert again["id"] == first["id"]
    await ada.say(guild.channel_id, "quick")
    await ada.say(guild.channel_id, "quicker")
    # What was refused was not sent: its nonce is free.
    await ada.patch(f"/channels/{guild.channel_id}", {"rate_limit_per_user": 0})
    await bob.say(guild.channel_id, "two", nonce="2", enforce_nonce=True)


async def test_deleting_ones_message_does_not_end_the_wait_of_slow_mode(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.patch(f"/channels/{guild.channel_id}", {"rate_limit_per_user": 60})
    sent = await bob.say(guild.channel_id, "advert")
    await bob.delete(f"/messages/{guild.channel_id}/{sent['id']}")
    with refused(429, 20016):
        await bob.say(guild.channel_id, "another advert")
    # Neither does sending all at once, in a channel where nothing was sent before.
    body = {"guild_id": guild.id, "name": "slow", "rate_limit_per_user": 60}
    slow = await ada.post("/channels", body)
    outcomes = await asyncio.gather(
        *(bob.say(slow["id"], f"advert {n}") for n in range(10)), return_exceptions=True
    )
    assert len([outcome for outcome in outcomes if isinstance(outcome, dict)]) == 1
    assert [o.code for o in outcomes if isinstance(o, Refused)] == [20016] * 9
