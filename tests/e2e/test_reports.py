"""Reports: what people bring before the moderators of their guild."""

import asyncio
from typing import Any

import pytest

from internal.app import App
from tests.support.people import Guild, Person, Town, refused

VIEW_CHANNEL = 1 << 10
MANAGE_MESSAGES = 1 << 13
READ_MESSAGE_HISTORY = 1 << 16
MANAGE_THREADS = 1 << 34


async def report(person: Person, message: Any, **wish: Any) -> Any:
    path = f"/channels/{message['channel_id']}/messages/{message['id']}/report"
    return await person.post(path, {"reason": "rude", **wish})


async def make_moderator(
    guild: Guild, owner: Person, person: Person, bits: int = MANAGE_MESSAGES
) -> None:
    made = await owner.post(
        f"/guilds/{guild.id}/roles", {"name": "keeper", "permissions": str(bits)}
    )
    await owner.put(f"/guilds/{guild.id}/members/{person.id}/roles/{made['id']}")


@pytest.fixture
def app(town: Town) -> App:
    assert town.app is not None
    return town.app


async def test_the_moderators_see_what_was_said_whatever_becomes_of_it(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    zoe = await town.person("zoe")
    guild = await town.guild(ada, bob, eve, zoe)
    await make_moderator(guild, ada, bob)
    for person in (ada, bob, eve, zoe):
        await person.connect()
    said = await eve.say(guild.channel_id, "buy my pills")
    made = await report(zoe, said, category="spam")

    assert (made["status"], made["category"], made["reason"]) == ("open", "spam", "rude")
    for moderator in (ada, bob):
        told = await moderator.gateway.expect("MESSAGE_REPORT_CREATE", id=made["id"])
        assert told == made
    await eve.heard_nothing("MESSAGE_REPORT_CREATE")
    await zoe.heard_nothing("MESSAGE_REPORT_CREATE")
    path = f"/messages/{guild.channel_id}/{said['id']}"
    await eve.patch(path, {"content": "have a nice day"})
    await eve.delete(path)

    (listed,) = await bob.get(f"/guilds/{guild.id}/reports", status="open")
    assert listed == made
    assert listed["message"]["content"] == "buy my pills"
    assert listed["message"]["author"]["id"] == eve.id
    assert listed["message"]["timestamp"] == said["timestamp"]
    assert listed["message"]["attachments"] == []
    assert listed["reporter"]["id"] == zoe.id

    one = f"/guilds/{guild.id}/reports/{made['id']}"
    done = await bob.patch(one, {"status": "resolved", "note": "warned her"})
    assert (done["status"], done["note"], done["resolver"]["id"]) == (
        "resolved",
        "warned her",
        bob.id,
    )
    assert await ada.gateway.expect("MESSAGE_REPORT_UPDATE", id=made["id"]) == done
    again = await bob.patch(one, {"status": "resolved", "note": "warned her"})
    assert again == done
    await ada.heard_nothing("MESSAGE_REPORT_UPDATE")
    assert await ada.get(f"/guilds/{guild.id}/reports", status="open") == []
    log = await ada.get(f"/guilds/{guild.id}/audit-logs", action_type=1000)
    (entry,) = log["audit_log_entries"]
    assert (entry["user_id"], entry["target_id"]) == (bob.id, eve.id)
    assert entry["changes"] == [{"key": "status", "old_value": "open", "new_value": "resolved"}]
    assert "warned" not in str(entry)


async def test_a_message_is_reported_once_by_each_as_long_as_it_is_open(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    said = await eve.say(guild.channel_id, "boo")
    made = await asyncio.gather(*(report(bob, said, reason=f"{n}") for n in range(5)))
    assert len({one["id"] for one in made}) == 1
    # Even after it was deleted.
    await eve.delete(f"/messages/{guild.channel_id}/{said['id']}")
    with refused(404, 10008):
        await report(bob, said)
    other = await eve.say(guild.channel_id, "boo again")
    first, second = await report(bob, other), await report(ada, other)
    assert first["id"] != second["id"]
    await ada.patch(f"/guilds/{guild.id}/reports/{first['id']}", {"status": "dismissed"})
    third = await report(bob, other, reason="she goes on")
    assert third["id"] not in {first["id"], second["id"]}


async def test_reports_are_read_page_by_page(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    made = [await report(bob, await bob.say(guild.channel_id, f"{n}")) for n in range(5)]
    ids = [one["id"] for one in made]
    path = f"/guilds/{guild.id}/reports"
    assert [one["id"] for one in await ada.get(path, limit=2)] == ids[:2:-1]
    assert [one["id"] for one in await ada.get(path, limit=2, before=ids[3])] == ids[2:0:-1]
    assert [one["id"] for one in await ada.get(path, limit=9, after=ids[1])] == ids[2:]
    await ada.patch(f"{path}/{ids[0]}", {"status": "dismissed"})
    assert [one["id"] for one in await ada.get(path, status="dismissed")] == ids[:1]
    with refused(400, 50035):
        await ada.get(path, status="forgotten")
    with refused(400, 50035):
        await ada.get(path, limit=101)


async def test_nobody_judges_what_they_said_or_can_not_see(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    await make_moderator(guild, ada, bob)
    await bob.connect()
    hidden = await ada.post(
        "/channels",
        {
            "guild_id": guild.id,
            "name": "staff",
            "permission_overwrites": [
                {"id": guild.id, "type": 0, "deny": str(VIEW_CHANNEL)},
                {"id": eve.id, "type": 1, "allow": str(VIEW_CHANNEL)},
            ],
        },
    )
    of_bob = await report(eve, await bob.say(guild.channel_id, "I am the law"))
    of_staff = await report(eve, await ada.say(hidden["id"], "about Bob"))
    path = f"/guilds/{guild.id}/reports"

    await bob.heard_nothing("MESSAGE_REPORT_CREATE")
    assert await bob.get(path) == []
    for one in (of_bob, of_staff):
        with refused(404, 90041):
            await bob.patch(f"{path}/{one['id']}", {"status": "dismissed"})
    # What Ada said herself is not hers to judge, either.
    assert [one["id"] for one in await ada.get(path)] == [of_bob["id"]]
    # Of a channel that is gone, administrators read on.
    other = await report(eve, await eve.say(hidden["id"], "I was wrong"))
    await ada.delete(f"/channels/{hidden['id']}")
    assert [one["id"] for one in await ada.get(path)] == [other["id"], of_bob["id"]]


async def test_only_who_reads_reports_and_only_moderators_look(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    other = await town.guild(eve)
    said = await ada.say(guild.channel_id, "hello")
    made = await report(bob, said)
    with refused(404, 10003):
        await report(eve, said)
    with refused(404, 10008):
        await report(bob, {**said, "id": "175928847299117063"})
    with refused(403, 50013):
        await bob.get(f"/guilds/{guild.id}/reports")
    with refused(404, 10004):
        await eve.get(f"/guilds/{guild.id}/reports")
    # A report is looked up with its guild.
    with refused(404, 90041):
        await eve.patch(f"/guilds/{other.id}/reports/{made['id']}", {"status": "resolved"})
    with refused(403, 50013):
        await bob.patch(f"/guilds/{guild.id}/reports/{made['id']}", {"status": "resolved"})
    letter = await ada.say(await ada.direct(bob), "psst")
    with refused(400, 50024):
        await report(bob, letter)


@pytest.mark.parametrize(
    "wish",
    [{"reason": ""}, {"reason": "x" * 513}, {"reason": "\0"}, {"category": "boring"}],
)
async def test_a_report_says_why(
    town: Town, ada: Person, bob: Person, wish: dict[str, str]
) -> None:
    guild = await town.guild(ada, bob)
    said = await ada.say(guild.channel_id, "hello")
    with refused(400, 50035):
        await report(bob, said, **wish)


async def test_a_report_from_a_private_thread_is_for_who_manages_threads(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    await make_moderator(guild, ada, bob)
    await ada.connect()
    await bob.connect()
    thread = await ada.post(
        f"/channels/{guild.channel_id}/threads", {"name": "between us", "type": 12}
    )
    await ada.put(f"/channels/{thread['id']}/thread-members/{eve.id}")
    said = await eve.say(thread["id"], "something bad")
    made = await report(ada, said)
    await ada.gateway.expect("MESSAGE_REPORT_CREATE", id=made["id"])
    await bob.heard_nothing("MESSAGE_REPORT_CREATE")
    assert await bob.get(f"/guilds/{guild.id}/reports") == []
    assert [one["id"] for one in await ada.get(f"/guilds/{guild.id}/reports")] == [made["id"]]


async def stay_unknown(moderator: Person, guild: Guild, made: Any) -> None:
    """What was reported is nothing to this moderator, who did not hear of it either."""
    path = f"/guilds/{guild.id}/reports"
    await moderator.heard_nothing("MESSAGE_REPORT_CREATE", "MESSAGE_REPORT_UPDATE")
    assert await moderator.get(path) == []
    with refused(404, 90041):
        await moderator.patch(f"{path}/{made['id']}", {"status": "dismissed"})


@pytest.mark.parametrize("denied", [VIEW_CHANNEL, READ_MESSAGE_HISTORY, MANAGE_MESSAGES])
async def test_what_one_may_do_in_the_channel_decides(
    town: Town, ada: Person, bob: Person, eve: Person, denied: int
) -> None:
    dan = await town.person("dan")
    guild = await town.guild(ada, bob, eve, dan)
    for one in (bob, dan):
        await make_moderator(guild, ada, one)
        await one.connect()
    rule = f"/channels/{guild.channel_id}/permissions/{bob.id}"
    await ada.put(rule, {"type": 1, "deny": str(denied)})
    made = await report(ada, await eve.say(guild.channel_id, "nasty"))
    path = f"/guilds/{guild.id}/reports/{made['id']}"

    assert await dan.gateway.expect("MESSAGE_REPORT_CREATE", id=made["id"]) == made
    await stay_unknown(bob, guild, made)
    done = await dan.patch(path, {"status": "resolved"})
    assert await dan.gateway.expect("MESSAGE_REPORT_UPDATE", id=made["id"]) == done
    await stay_unknown(bob, guild, made)
    await ada.delete(rule)
    assert await bob.get(f"/guilds/{guild.id}/reports") == [done]


async def test_private_threads_are_for_who_manages_threads_in_the_channel(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    dan = await town.person("dan")
    guild = await town.guild(ada, bob, eve, dan)
    for one in (bob, dan):
        await make_moderator(guild, ada, one, MANAGE_MESSAGES | MANAGE_THREADS)
        await one.connect()
    await ada.put(
        f"/channels/{guild.channel_id}/permissions/{bob.id}",
        {"type": 1, "deny": str(MANAGE_THREADS)},
    )
    thread = await ada.post(
        f"/channels/{guild.channel_id}/threads", {"name": "between us", "type": 12}
    )
    await ada.put(f"/channels/{thread['id']}/thread-members/{eve.id}")
    made = await report(ada, await eve.say(thread["id"], "something bad"))

    await dan.gateway.expect("MESSAGE_REPORT_CREATE", id=made["id"])
    assert await dan.get(f"/guilds/{guild.id}/reports") == [made]
    await stay_unknown(bob, guild, made)
    # From the channel itself he sees it.
    other = await report(ada, await eve.say(guild.channel_id, "and again"))
    await bob.gateway.expect("MESSAGE_REPORT_CREATE", id=other["id"])
    assert await bob.get(f"/guilds/{guild.id}/reports") == [other]


async def test_what_is_left_of_a_channel_that_is_gone_is_for_administrators(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    await make_moderator(guild, ada, bob)
    channel = await ada.post("/channels", {"guild_id": guild.id, "name": "short"})
    made = await report(ada, await eve.say(channel["id"], "nasty"))
    await ada.delete(f"/channels/{channel['id']}")
    await bob.connect()
    await stay_unknown(bob, guild, made)
    path = f"/guilds/{guild.id}/reports/{made['id']}"
    assert (await ada.patch(path, {"status": "resolved"}))["status"] == "resolved"
    await stay_unknown(bob, guild, made)
