"""Threads: who starts them, sees them, writes in them, and how they come into the archive."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from internal.app import App
from internal.channel.service import ChannelService
from internal.channel.thread.archive.service import ThreadArchive
from internal.guild.audit.service import AuditTrail
from internal.guild.service import GuildService
from internal.permission.model import Permission
from internal.utils.snowflake import Snowflake
from tests.support.clock import StandingClock
from tests.support.people import Guild, Person, Refused, Town, refused
from tests.support.reducer import unchanged_view

PUBLIC, PRIVATE = {"name": "Open", "type": 11}, {"name": "Secret", "type": 12}
HAS_THREAD = 1 << 5


@pytest.fixture
async def guild(town: Town, ada: Person, bob: Person) -> Guild:
    return await town.guild(ada, bob)


async def start(person: Person, guild: Guild, **wish: Any) -> str:
    """The id of a new thread in the guild's first channel."""
    made = await person.post(f"/channels/{guild.channel_id}/threads", {**PUBLIC, **wish})
    return str(made["id"])


async def start_from_message(person: Person, guild: Guild, text: str = "Who bakes?") -> Any:
    sent = await person.say(guild.channel_id, text)
    path = f"/channels/{guild.channel_id}/messages/{sent['id']}/threads"
    return await person.post(path, {"name": "Bread"})


async def deny(owner: Person, guild: Guild, *bits: Permission) -> None:
    """Take permissions from everyone in the guild's first channel."""
    denied = sum(bits)
    path = f"/channels/{guild.channel_id}/permissions/{guild.id}"
    await owner.put(path, {"type": 0, "allow": "0", "deny": str(int(denied))})


def members(person: Person | None = None) -> str:
    return "thread-members/" + (person.id if person else "@me")


async def ids_of_members(person: Person, thread_id: str) -> set[str]:
    found = await person.get(f"/channels/{thread_id}/thread-members")
    return {member["user_id"] for member in found}


# Starting.


async def test_a_message_gets_a_thread_with_its_own_id_and_shows_it(
    ada: Person, bob: Person, guild: Guild
) -> None:
    await bob.connect()
    sent = await ada.say(guild.channel_id, "Who bakes?")
    path = f"/channels/{guild.channel_id}/messages/{sent['id']}/threads"
    made = await ada.post(path, {"name": "Bread", "auto_archive_duration": 60})

    assert made["id"] == sent["id"]
    assert (made["type"], made["parent_id"]) == (11, guild.channel_id)
    assert (made["owner_id"], made["member_count"], made["message_count"]) == (ada.id, 1, 0)
    assert made["thread_metadata"]["auto_archive_duration"] == 60
    assert made["member"]["user_id"] == ada.id

    told = await bob.gateway.expect("THREAD_CREATE", id=made["id"])
    assert told["newly_created"]
    assert "member" not in told
    update = await bob.gateway.expect("MESSAGE_UPDATE", id=sent["id"])
    assert update["flags"] & HAS_THREAD
    assert update["thread"]["name"] == "Bread"
    assert update["author"]["id"] == update["thread"]["owner_id"] == ada.id
    read = await bob.get(f"/messages/{guild.channel_id}/{sent['id']}")
    assert read["thread"]["id"] == sent["id"]
    listed = await bob.get(f"/messages/channel/{guild.channel_id}")
    assert listed[0]["flags"] & HAS_THREAD
    assert listed[0]["thread"]["id"] == sent["id"]
    assert (await bob.get(f"/channels/{made['id']}"))["name"] == "Bread"


async def test_of_many_who_start_the_thread_of_a_message_one_does(
    town: Town, ada: Person, guild: Guild
) -> None:
    people = await town.people(5)
    for person in people:
        await person.post(f"/guilds/{guild.id}/join")
    sent = await ada.say(guild.channel_id, "Who bakes?")
    path = f"/channels/{guild.channel_id}/messages/{sent['id']}/threads"
    outcomes = await asyncio.gather(
        *(person.post(path, {"name": person.username}) for person in people),
        return_exceptions=True,
    )

    made = [one for one in outcomes if isinstance(one, dict)]
    assert len(made) == 1
    codes = {getattr(one, "code", None) for one in outcomes if not isinstance(one, dict)}
    assert codes == {160004}
    assert (await ada.get(f"/channels/{sent['id']}"))["name"] == made[0]["name"]


async def test_a_thread_starts_only_from_a_message_of_that_channel(
    ada: Person, bob: Person, guild: Guild
) -> None:
    other = await ada.post("/channels", {"guild_id": guild.id, "name": "kitchen"})
    sent = await ada.say(other["id"], "elsewhere")
    with refused(404, 10008):
        await bob.post(f"/channels/{guild.channel_id}/messages/{sent['id']}/threads", PUBLIC)
    with refused(404, 10008):
        await bob.post(f"/channels/{guild.channel_id}/messages/1/threads", PUBLIC)
    await ada.post(f"/channels/{other['id']}/messages/{sent['id']}/threads", {"name": "There"})
    with refused(404, 10008):
        await bob.post(f"/channels/{guild.channel_id}/messages/{sent['id']}/threads", PUBLIC)
    assert (await ada.get(f"/guilds/{guild.id}/threads/active"))["threads"][0]["name"] == "There"


async def test_threads_are_of_channels_of_guilds_alone(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(ada, guild)
    direct = await ada.direct(bob)
    for place in (thread_id, direct):
        sent = await ada.say(place, "hello")
        with refused(400, 50024):
            await ada.post(f"/channels/{place}/threads", PUBLIC)
        with refused(400, 50024):
            await ada.post(f"/channels/{place}/messages/{sent['id']}/threads", PUBLIC)
    for path in ("thread-members", "thread-members/1"):
        with refused(400, 50024):
            await ada.get(f"/channels/{guild.channel_id}/{path}")
    with refused(400, 50024):
        await ada.put(f"/channels/{guild.channel_id}/{members()}")


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "ok", "type": 0}, "type"),
        ({"name": "ok", "auto_archive_duration": 61}, "auto_archive_duration"),
        ({"name": "ok", "rate_limit_per_user": 21601}, "rate_limit_per_user"),
        ({"name": "ok", "applied_tags": ["1"]}, "applied_tags"),
    ],
)
async def test_a_bad_thread_is_refused_by_field(
    ada: Person, guild: Guild, wish: Any, field: str
) -> None:
    with refused(400, 50035) as _:
        await ada.post(f"/channels/{guild.channel_id}/threads", wish)
    answer = await ada.call(
        "POST",
        f"/channels/{guild.channel_id}/threads",
        content=msgspec.json.encode(wish),
        headers={"Content-Type": "application/json"},
    )
    assert field in answer.json()["errors"]


async def test_starting_takes_the_permission_for_that_kind(
    ada: Person, bob: Person, guild: Guild
) -> None:
    sent = await ada.say(guild.channel_id, "Who bakes?")
    await deny(ada, guild, Permission.CREATE_PUBLIC_THREADS)
    with refused(403, 50013):
        await start(bob, guild)
    with refused(403, 50013):
        await bob.post(f"/channels/{guild.channel_id}/messages/{sent['id']}/threads", PUBLIC)
    await start(bob, guild, type=12)
    await deny(ada, guild, Permission.CREATE_PRIVATE_THREADS)
    with refused(403, 50013):
        await start(bob, guild, type=12)
    await start(bob, guild)


async def test_the_channel_gives_its_threads_their_defaults(ada: Person, guild: Guild) -> None:
    await ada.patch(
        f"/channels/{guild.channel_id}",
        {"default_auto_archive_duration": 1440, "default_thread_rate_limit_per_user": 7},
    )
    made = await ada.post(f"/channels/{guild.channel_id}/threads", PUBLIC)
    assert made["thread_metadata"]["auto_archive_duration"] == 1440
    assert made["rate_limit_per_user"] == 7
    own = {**PUBLIC, "rate_limit_per_user": 0, "auto_archive_duration": 60}
    made = await ada.post(f"/channels/{guild.channel_id}/threads", own)
    assert made["thread_metadata"]["auto_archive_duration"] == 60
    assert made["rate_limit_per_user"] == 0


async def test_announcements_have_threads_of_their_own_kind(ada: Person, guild: Guild) -> None:
    news = await ada.post("/channels", {"guild_id": guild.id, "name": "news", "type": 5})
    sent = await ada.say(news["id"], "We open at nine")
    made = await ada.post(f"/channels/{news['id']}/messages/{sent['id']}/threads", {"name": "Why"})
    assert made["type"] == 10
    assert (await ada.post(f"/channels/{news['id']}/threads", {"name": "Alone"}))["type"] == 10
    with refused(400, 50024):
        await ada.post(f"/channels/{news['id']}/threads", PRIVATE)
    with refused(400, 50024):
        await ada.post(f"/channels/{guild.channel_id}/threads", {"name": "x", "type": 10})


# Seeing.


async def test_a_private_thread_is_for_its_members_and_moderators(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    cid = await town.person("cid")
    await cid.post(f"/guilds/{guild.id}/join")
    await cid.connect()
    await bob.connect()
    thread_id = await start(bob, guild, type=12)
    await bob.gateway.expect("THREAD_CREATE", id=thread_id)
    await bob.say(thread_id, "psst")

    for attempt in (
        cid.get(f"/channels/{thread_id}"),
        cid.get(f"/messages/channel/{thread_id}"),
        cid.say(thread_id, "hello?"),
        cid.put(f"/channels/{thread_id}/{members()}"),
        cid.get(f"/channels/{thread_id}/thread-members"),
        cid.patch(f"/channels/{thread_id}", {"name": "Mine"}),
        cid.delete(f"/channels/{thread_id}"),
    ):
        with refused(404, 10003):
            await attempt
    await cid.heard_nothing()
    assert (await cid.get(f"/guilds/{guild.id}/threads/active"))["threads"] == []
    # The owner may do everything, and does not hear of it all the same.
    assert (await ada.get(f"/channels/{thread_id}"))["name"] == "Open"
    found = await ada.get(f"/guilds/{guild.id}/threads/active")
    assert [thread["id"] for thread in found["threads"]] == [thread_id]
    assert found["members"] == []
    *_, state = await ada.connect()
    assert state.d["threads"] == []


async def test_who_is_brought_into_a_private_thread_hears_of_it_from_then_on(
    ada: Person, bob: Person, guild: Guild
) -> None:
    await bob.connect()
    thread_id = await start(ada, guild, type=12)
    await ada.say(thread_id, "before")
    for _ in range(2):
        await ada.put(f"/channels/{thread_id}/{members(bob)}")
    told = await bob.gateway.expect("THREAD_CREATE", id=thread_id)
    assert told["member"]["user_id"] == bob.id
    assert "newly_created" not in told
    change = await bob.gateway.expect("THREAD_MEMBERS_UPDATE", id=thread_id)
    assert change["member_count"] == 2
    (added,) = change["added_members"]
    assert added["user_id"] == added["member"]["user"]["id"] == bob.id
    assert added["presence"] is None
    sent = await ada.say(thread_id, "welcome")
    await bob.gateway.expect("MESSAGE_CREATE", id=sent["id"])

    await ada.delete(f"/channels/{thread_id}/{members(bob)}")
    gone = await bob.gateway.expect("THREAD_MEMBERS_UPDATE", removed_member_ids=[bob.id])
    assert gone["member_count"] == 1
    await ada.say(thread_id, "he is gone")
    await bob.heard_nothing()
    with refused(404, 10003):
        await bob.get(f"/channels/{thread_id}")


async def test_a_channel_that_is_not_seen_has_no_threads_to_see(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(ada, guild)
    secret_id = await start(ada, guild, type=12)
    await ada.put(f"/channels/{secret_id}/{members(bob)}")
    await deny(ada, guild, Permission.VIEW_CHANNEL)
    for one in (thread_id, secret_id):
        with refused(404, 10003):
            await bob.get(f"/channels/{one}")
        with refused(404, 10003):
            await bob.say(one, "hello?")
    assert (await bob.get(f"/guilds/{guild.id}/threads/active"))["threads"] == []
    with refused(404, 10003):
        await bob.get(f"/channels/{guild.channel_id}/threads/archived/public")
    cid = await town.person("cid")
    await cid.post(f"/guilds/{guild.id}/join")
    with refused(404, 10007):
        await ada.put(f"/channels/{thread_id}/{members(cid)}")


async def test_a_new_connection_is_told_the_active_threads_and_its_place_in_them(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(ada, guild)
    other_id = await start(ada, guild)
    await ada.patch(f"/channels/{other_id}", {"archived": True})
    *_, state = await bob.connect()
    assert [(one["id"], "member" in one) for one in state.d["threads"]] == [(thread_id, False)]
    await bob.put(f"/channels/{thread_id}/{members()}")
    *_, state = await bob.connect()
    assert state.d["threads"][0]["member"]["user_id"] == bob.id


async def test_who_loses_and_regains_sight_of_a_channel_knows_its_threads_as_they_are(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(ada, guild)
    secret_id = await start(ada, guild, type=12)
    for one in (thread_id, secret_id):
        await ada.put(f"/channels/{one}/{members(bob)}")
    async with unchanged_view(bob, ada) as (gateway, _):
        await deny(ada, guild, Permission.VIEW_CHANNEL)
        await gateway.expect("CHANNEL_DELETE", id=guild.channel_id)
        mark = gateway.mark
        await start_from_message(ada, guild)
        for one in (thread_id, secret_id):
            first = await ada.say(one, "one")
            await ada.say(one, "two")
            await ada.delete(f"/messages/{one}/{first['id']}")
            await ada.patch(f"/channels/{one}", {"archived": True})
            await ada.say(one, "three")
        await bob.fence(gateway)
        assert not [
            frame for frame in gateway.frames[mark:] if (frame.t or "").startswith("THREAD")
        ]
        await deny(ada, guild)
        synced = await gateway.expect("THREAD_LIST_SYNC")
        assert {thread["id"] for thread in synced["threads"]} >= {thread_id, secret_id}


# Members.


async def test_coming_and_going_is_told_once(ada: Person, bob: Person, guild: Guild) -> None:
    thread_id = await start(ada, guild)
    await ada.connect()
    for _ in range(2):
        await bob.put(f"/channels/{thread_id}/{members()}")
    change = await ada.gateway.expect("THREAD_MEMBERS_UPDATE", id=thread_id)
    assert change["member_count"] == 2
    assert await ids_of_members(bob, thread_id) == {ada.id, bob.id}
    one = await bob.get(f"/channels/{thread_id}/{members(bob)}", with_member="true")
    assert one["member"]["user"]["id"] == bob.id
    for _ in range(2):
        await bob.delete(f"/channels/{thread_id}/{members()}")
    change = await ada.gateway.expect("THREAD_MEMBERS_UPDATE", id=thread_id)
    assert change["removed_member_ids"] == [bob.id]
    await ada.heard_nothing()
    with refused(404, 10007):
        await bob.get(f"/channels/{thread_id}/{members(bob)}")


async def test_members_come_in_pages(town: Town, ada: Person, guild: Guild) -> None:
    thread_id = await start(ada, guild)
    people = await town.people(3)
    for person in people:
        await person.post(f"/guilds/{guild.id}/join")
        await person.put(f"/channels/{thread_id}/{members()}")
    wanted = sorted(int(person.id) for person in (ada, *people))
    path = f"/channels/{thread_id}/thread-members"
    first = await ada.get(path, limit=2, with_member="true")
    second = await ada.get(path, limit=100, after=first[-1]["user_id"])
    assert [int(one["user_id"]) for one in (*first, *second)] == wanted
    assert all("user" in one["member"] for one in first)
    assert not any("member" in one for one in second)
    for limit in (0, 101):
        with refused(400, 50035):
            await ada.get(path, limit=limit)


async def test_only_moderators_and_who_started_a_private_thread_remove_others(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    cid = await town.person("cid")
    await cid.post(f"/guilds/{guild.id}/join")
    public = await start(bob, guild)
    secret = await start(bob, guild, type=12)
    for thread_id in (public, secret):
        await bob.put(f"/channels/{thread_id}/{members(cid)}")
        with refused(403, 50013):
            await cid.delete(f"/channels/{thread_id}/{members(bob)}")
    with refused(403, 50013):
        await bob.delete(f"/channels/{public}/{members(cid)}")
    await bob.delete(f"/channels/{secret}/{members(cid)}")
    await ada.delete(f"/channels/{public}/{members(cid)}")
    assert await ids_of_members(ada, public) == await ids_of_members(ada, secret) == {bob.id}


async def test_a_closed_private_thread_is_filled_by_its_starter_and_moderators(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    cid = await town.person("cid")
    dan = await town.person("dan")
    for person in (cid, dan):
        await person.post(f"/guilds/{guild.id}/join")
    thread_id = await start(bob, guild, type=12, invitable=False)
    await bob.put(f"/channels/{thread_id}/{members(cid)}")
    with refused(403, 50013):
        await cid.put(f"/channels/{thread_id}/{members(dan)}")
    await bob.patch(f"/channels/{thread_id}", {"invitable": True})
    await cid.put(f"/channels/{thread_id}/{members(dan)}")
    assert len(await ids_of_members(ada, thread_id)) == 3
    with refused(404, 10007):
        await cid.put(f"/channels/{thread_id}/thread-members/1")


async def test_who_leaves_the_guild_leaves_its_threads(
    ada: Person, bob: Person, guild: Guild
) -> None:
    public = await start(ada, guild)
    secret = await start(ada, guild, type=12)
    for thread_id in (public, secret):
        await ada.put(f"/channels/{thread_id}/{members(bob)}")
    await ada.connect()
    await bob.post(f"/guilds/{guild.id}/leave")
    told = [await ada.gateway.expect("THREAD_MEMBERS_UPDATE") for _ in range(2)]
    assert {change["id"] for change in told} == {public, secret}
    assert all(change["removed_member_ids"] == [bob.id] for change in told)
    assert await ids_of_members(ada, secret) == {ada.id}
    assert (await ada.get(f"/channels/{public}"))["member_count"] == 1
    await bob.post(f"/guilds/{guild.id}/join")
    with refused(404, 10003):
        await bob.get(f"/channels/{secret}")


# Writing.


async def test_writing_in_a_thread_is_counted_and_makes_one_a_member(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(ada, guild)
    await ada.connect()
    first = await bob.say(thread_id, "one", nonce="n1", enforce_nonce=True)
    again = await bob.say(thread_id, "one", nonce="n1", enforce_nonce=True)
    assert again["id"] == first["id"]
    second = await bob.say(thread_id, "two")
    change = await ada.gateway.expect("THREAD_MEMBERS_UPDATE", id=thread_id)
    assert [one["user_id"] for one in change["added_members"]] == [bob.id]
    await ada.gateway.expect("MESSAGE_CREATE", id=first["id"])

    thread = await bob.get(f"/channels/{thread_id}")
    assert (thread["message_count"], thread["total_message_sent"]) == (2, 2)
    assert (thread["member_count"], thread["last_message_id"]) == (2, second["id"])
    await bob.delete(f"/messages/{thread_id}/{first['id']}")
    await ada.post(f"/messages/{thread_id}/bulk-delete", {"messages": [second["id"], first["id"]]})
    thread = await bob.get(f"/channels/{thread_id}")
    assert (thread["message_count"], thread["total_message_sent"]) == (0, 2)


async def test_many_who_write_at_once_are_each_counted_once(
    town: Town, ada: Person, guild: Guild
) -> None:
    people = await town.people(6)
    for person in people:
        await person.post(f"/guilds/{guild.id}/join")
    threads = [await start(ada, guild) for _ in range(3)]
    await asyncio.gather(
        *(
            person.say(thread_id, f"{number}")
            for person in people
            for thread_id in threads
            for number in range(3)
        )
    )
    for thread_id in threads:
        thread = await ada.get(f"/channels/{thread_id}")
        assert (thread["message_count"], thread["member_count"]) == (18, 7)
        assert len(await ids_of_members(ada, thread_id)) == 7


async def test_in_threads_another_permission_to_write_counts(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(ada, guild)
    await deny(ada, guild, Permission.SEND_MESSAGES)
    await bob.say(thread_id, "here I may")
    with refused(403, 50013):
        await bob.say(guild.channel_id, "here I may not")
    await deny(ada, guild, Permission.SEND_MESSAGES_IN_THREADS)
    with refused(403, 50013):
        await bob.say(thread_id, "here I may not")
    await bob.say(guild.channel_id, "here I may")


async def test_a_thread_slows_its_members_down(ada: Person, bob: Person, guild: Guild) -> None:
    thread_id = await start(ada, guild, rate_limit_per_user=3600)
    await bob.say(thread_id, "one")
    with refused(429, 20016):
        await bob.say(thread_id, "two")
    await bob.say(guild.channel_id, "elsewhere")
    assert (await ada.get(f"/channels/{thread_id}"))["message_count"] == 1


async def test_a_moderator_who_writes_in_a_private_thread_comes_into_it(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(bob, guild, type=12)
    await bob.connect()
    await ada.connect()
    sent = await ada.say(thread_id, "I look in")
    assert (await ada.gateway.expect("THREAD_CREATE", id=thread_id))["member"]["user_id"] == ada.id
    await ada.gateway.expect("MESSAGE_CREATE", id=sent["id"])
    change = await bob.gateway.expect("THREAD_MEMBERS_UPDATE", id=thread_id)
    assert change["member_count"] == 2
    await bob.gateway.expect("MESSAGE_CREATE", id=sent["id"])


# The archive.


async def test_who_writes_takes_a_thread_out_of_the_archive(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(bob, guild)
    await bob.patch(f"/channels/{thread_id}", {"archived": True})
    await bob.connect()
    sent = await ada.say(thread_id, "one more thing", nonce="n1", enforce_nonce=True)
    told = await bob.gateway.expect("THREAD_UPDATE", id=thread_id)
    assert told["thread_metadata"]["archived"] is False
    assert told["message_count"] == 0
    own = await bob.gateway.expect("THREAD_MEMBER_UPDATE", id=thread_id)
    assert own["user_id"] == bob.id
    await bob.gateway.expect("MESSAGE_CREATE", id=sent["id"])
    assert (await ada.get(f"/channels/{thread_id}"))["message_count"] == 1

    await bob.patch(f"/channels/{thread_id}", {"archived": True})
    again = await ada.say(thread_id, "one more thing", nonce="n1", enforce_nonce=True)
    assert again["id"] == sent["id"]
    # What is only said again takes nothing out of the archive.
    assert (await ada.get(f"/channels/{thread_id}"))["thread_metadata"]["archived"]


async def test_what_is_in_the_archive_is_left_alone(ada: Person, bob: Person, guild: Guild) -> None:
    thread_id = await start(bob, guild)
    sent = await bob.say(thread_id, "helo")
    await bob.patch(f"/channels/{thread_id}", {"archived": True})
    for attempt in (
        bob.patch(f"/messages/{thread_id}/{sent['id']}", {"content": "hello"}),
        bob.put(f"/channels/{thread_id}/{members()}"),
        bob.delete(f"/channels/{thread_id}/{members()}"),
        bob.put(f"/channels/{thread_id}/{members(ada)}"),
        bob.patch(f"/channels/{thread_id}", {"name": "Other"}),
        ada.patch(f"/channels/{thread_id}", {"name": "Other"}),
    ):
        with refused(400, 50083):
            await attempt
    changed = await bob.patch(f"/channels/{thread_id}", {"name": "Other", "archived": False})
    assert changed["name"] == "Other"
    assert not changed["thread_metadata"]["archived"]


async def test_what_is_locked_only_moderators_touch(ada: Person, bob: Person, guild: Guild) -> None:
    thread_id = await start(bob, guild)
    with refused(403, 50013):
        await bob.patch(f"/channels/{thread_id}", {"locked": True})
    await ada.patch(f"/channels/{thread_id}", {"locked": True})
    with refused(400, 160005):
        await bob.say(thread_id, "still here?")
    await ada.say(thread_id, "only I")
    await ada.patch(f"/channels/{thread_id}", {"archived": True})
    with refused(400, 50083):
        await bob.say(thread_id, "still here?")
    with refused(400, 50083):
        await bob.patch(f"/channels/{thread_id}", {"archived": False})
    assert (await ada.get(f"/channels/{thread_id}"))["thread_metadata"]["archived"]
    await ada.say(thread_id, "only I")
    thread = await ada.get(f"/channels/{thread_id}")
    assert (thread["thread_metadata"]["archived"], thread["message_count"]) == (False, 2)


async def test_its_starter_changes_a_thread_and_other_members_do_not(
    town: Town, ada: Person, bob: Person, guild: Guild
) -> None:
    cid = await town.person("cid")
    await cid.post(f"/guilds/{guild.id}/join")
    thread_id = await start(bob, guild)
    path = f"/channels/{thread_id}"
    for wish in ({"name": "Mine"}, {"archived": True}, {"auto_archive_duration": 60}):
        with refused(403, 50013):
            await cid.patch(path, wish)
        await bob.patch(path, {**wish, "archived": False})
    with refused(403, 50013):
        await bob.patch(path, {"rate_limit_per_user": 5})
    await ada.patch(path, {"rate_limit_per_user": 5})
    await bob.patch(path, {"archived": True})
    assert not (await cid.patch(path, {"archived": False}))["thread_metadata"]["archived"]
    with refused(403, 50013):
        await bob.delete(path)
    with refused(400, 50035):
        await ada.patch(path, {"flags": 2})
    await bob.connect()
    await ada.patch(path, {})
    await ada.patch(path, {"name": "Mine", "archived": False})
    await bob.heard_nothing()


async def test_archived_threads_are_listed_by_page_and_by_who_may_see_them(
    ada: Person, bob: Person, guild: Guild
) -> None:
    public = [await start(bob, guild, name=f"p{number}") for number in range(5)]
    secret = [await start(bob, guild, name=f"s{number}", type=12) for number in range(3)]
    for thread_id in (*public, *secret):
        await bob.patch(f"/channels/{thread_id}", {"archived": True})
    here = f"/channels/{guild.channel_id}"

    found: list[str] = []
    page = await ada.get(f"{here}/threads/archived/public", limit=2)
    while True:
        found += [thread["id"] for thread in page["threads"]]
        assert page["members"] == []
        if not page["has_more"]:
            break
        before = page["threads"][-1]["thread_metadata"]["archive_timestamp"]
        page = await ada.get(f"{here}/threads/archived/public", limit=2, before=before)
    assert found == public[::-1]

    with refused(403, 50013):
        await bob.get(f"{here}/threads/archived/private")
    page = await ada.get(f"{here}/threads/archived/private")
    assert [thread["id"] for thread in page["threads"]] == secret[::-1]
    own = f"{here}/users/@me/threads/archived/private"
    assert (await ada.get(own))["threads"] == []
    page = await bob.get(own, limit=2)
    assert (len(page["members"]), page["has_more"]) == (2, True)
    page = await bob.get(own, limit=2, before=page["threads"][-1]["id"])
    assert ([thread["id"] for thread in page["threads"]], page["has_more"]) == (secret[:1], False)
    assert (await bob.get(f"/guilds/{guild.id}/threads/active"))["threads"] == []
    for path in ("threads/archived/public", "threads/archived/private"):
        with refused(400, 50035):
            await ada.get(f"{here}/{path}", before="yesterday")


async def archive_of(app: App, clock: StandingClock) -> ThreadArchive:
    """What archives threads on another node, with a clock of its own."""

    def new_id() -> Snowflake:
        raise AssertionError("nothing new is made")

    guilds = GuildService(app.db, new_id, AuditTrail(new_id))
    return ThreadArchive(app.db, guilds, ChannelService(app.db, guilds, new_id), clock)


async def test_a_thread_in_which_nobody_writes_is_archived_once(
    app: App, ada: Person, bob: Person, guild: Guild
) -> None:
    clock = StandingClock()
    quiet = [await start(bob, guild, auto_archive_duration=60) for _ in range(3)]
    secret = await start(ada, guild, auto_archive_duration=60, type=12)
    busy = await start(bob, guild, auto_archive_duration=10080)
    await bob.say(busy, "I am still here")
    async with app.db.read() as conn:
        # As if it had been written in a day before the clock's time, and looked at in vain.
        await conn.execute(
            "UPDATE threads SET last_active_at = $2, archive_check_at = $2 WHERE channel_id = $1",
            int(busy),
            clock.now() - timedelta(days=1),
        )
    await bob.connect()
    nodes = [await archive_of(app, clock) for _ in range(2)]

    async def archive(node: ThreadArchive) -> None:
        while await node.archive_idle(2):
            pass

    await asyncio.gather(*map(archive, nodes))
    told = [await bob.gateway.expect("THREAD_UPDATE") for _ in quiet]
    assert {thread["id"] for thread in told} == set(quiet)
    assert all(thread["thread_metadata"]["archived"] for thread in told)
    await bob.heard_nothing()
    times = {thread["thread_metadata"]["archive_timestamp"] for thread in told}
    assert len(times) == len(quiet)
    active = (await bob.get(f"/guilds/{guild.id}/threads/active"))["threads"]
    assert [thread["id"] for thread in active] == [busy]
    assert (await ada.get(f"/channels/{secret}"))["thread_metadata"]["archived"]

    clock.pass_by(days=7)
    await archive(nodes[0])
    assert (await bob.gateway.expect("THREAD_UPDATE"))["id"] == busy


async def test_there_is_an_end_to_active_threads(app: App, ada: Person, guild: Guild) -> None:
    kept = await start(ada, guild)
    await ada.patch(f"/channels/{kept}", {"archived": True})
    async with app.db.read() as conn:
        await conn.execute(
            """
            WITH made AS (
                INSERT INTO channels (id, guild_id, type, name, parent_id, owner_id)
                SELECT n, $1, 11, 'full', $2, $3 FROM generate_series(1, 1000) AS n
                RETURNING id
            )
            INSERT INTO threads (channel_id, guild_id, parent_id, auto_archive_duration)
            SELECT id, $1, $2, 60 FROM made
            """,
            int(guild.id),
            int(guild.channel_id),
            int(ada.id),
        )
    with refused(400, 160006):
        await start(ada, guild)
    with refused(400, 160006):
        await ada.patch(f"/channels/{kept}", {"archived": False})
    with refused(400, 160006):
        await ada.say(kept, "one more")
    await ada.patch("/channels/1", {"archived": True})
    await ada.say(kept, "one more")


# Deleting.


async def test_a_deleted_thread_is_gone_with_all_in_it_and_its_message_can_have_another(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread = await start_from_message(bob, guild)
    await bob.say(thread["id"], "inside")
    await bob.connect()
    answer = await ada.delete(f"/channels/{thread['id']}")
    assert answer["id"] == thread["id"]
    gone = await bob.gateway.expect("THREAD_DELETE")
    assert gone == {
        "id": thread["id"],
        "guild_id": guild.id,
        "parent_id": guild.channel_id,
        "type": 11,
    }
    update = await bob.gateway.expect("MESSAGE_UPDATE", id=thread["id"])
    assert not update["flags"] & HAS_THREAD
    for path in (f"/channels/{thread['id']}", f"/messages/channel/{thread['id']}"):
        with refused(404, 10003):
            await bob.get(path)
    message = await bob.get(f"/messages/{guild.channel_id}/{thread['id']}")
    assert "thread" not in message
    path = f"/channels/{guild.channel_id}/messages/{thread['id']}/threads"
    # Not before the messages of the first one are gone, which the server sees to each second.
    again = None
    async with asyncio.timeout(20):
        while again is None:
            with suppress(Refused):
                again = await bob.post(path, {"name": "Again"})
    assert again["message_count"] == 0
    assert await bob.get(f"/messages/channel/{thread['id']}") == []


async def test_moderation_of_threads_is_written_down(
    ada: Person, bob: Person, guild: Guild
) -> None:
    thread_id = await start(bob, guild)
    await ada.patch(f"/channels/{thread_id}", {"locked": True}, X_Audit_Log_Reason="Enough")
    await ada.delete(f"/channels/{thread_id}", X_Audit_Log_Reason="Really")
    log = await ada.get(f"/guilds/{guild.id}/audit-logs", limit=3)
    entries = log["audit_log_entries"]
    assert [entry["action_type"] for entry in entries] == [112, 111, 110]
    assert [entry["user_id"] for entry in entries] == [ada.id, ada.id, bob.id]
    assert all(entry["target_id"] == thread_id for entry in entries)
    assert [entry.get("reason") for entry in entries] == ["Really", "Enough", None]
    assert entries[1]["changes"] == [{"key": "locked", "old_value": False, "new_value": True}]
