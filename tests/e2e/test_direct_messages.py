"""Direct messages: two people, one channel, nobody else."""

import asyncio

import pytest

from tests.support.people import Person, Refused, Town, refused


async def test_two_people_have_one_channel_whoever_opens_it(ada: Person, bob: Person) -> None:
    await ada.connect()
    await bob.connect()
    opened = await asyncio.gather(
        *(ada.direct(bob) for _ in range(10)), *(bob.direct(ada) for _ in range(10))
    )

    assert len(set(opened)) == 1
    hers = await ada.gateway.expect("CHANNEL_CREATE", id=opened[0])
    his = await bob.gateway.expect("CHANNEL_CREATE", id=opened[0])
    assert hers["type"] == 1
    assert [user["id"] for user in hers["recipients"]] == [bob.id]
    assert [user["id"] for user in his["recipients"]] == [ada.id]
    assert "guild_id" not in hers
    await ada.heard_nothing("CHANNEL_CREATE")


async def test_a_direct_message_reaches_the_two_and_nobody_else(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    await town.guild(ada, bob, eve)
    channel_id = await ada.direct(bob)
    for person in (ada, bob, eve):
        await person.connect()
    sent = await ada.say(channel_id, "between us")

    for person in (ada, bob):
        told = await person.gateway.expect("MESSAGE_CREATE", id=sent["id"])
        assert told["content"] == "between us"
        assert "guild_id" not in told
        assert "member" not in told
    await eve.heard_nothing()
    refusals = [
        eve.get(f"/channels/{channel_id}"),
        eve.get(f"/messages/channel/{channel_id}"),
        eve.get(f"/messages/{channel_id}/{sent['id']}"),
        eve.patch(f"/messages/{channel_id}/{sent['id']}", {"content": "mine"}),
        eve.delete(f"/messages/{channel_id}/{sent['id']}"),
        eve.post(f"/messages/{channel_id}/bulk-delete", {"messages": [sent["id"]]}),
        eve.post(f"/channels/{channel_id}/typing"),
        eve.say(channel_id, "hello"),
    ]
    for attempt in refusals:
        with refused(404, 10003):
            await attempt


async def test_direct_messages_are_listed_newest_first(
    ada: Person, bob: Person, eve: Person
) -> None:
    first, second = await ada.direct(bob), await eve.direct(ada)
    listed = await ada.get("/users/@me/channels")

    assert [channel["id"] for channel in listed] == [second, first]
    assert [channel["recipients"][0]["username"] for channel in listed] == ["eve", "bob"]
    page = await ada.get("/users/@me/channels", limit=1, before=second)
    assert [channel["id"] for channel in page] == [first]
    sent = await bob.say(first, "hi")
    assert (await ada.get(f"/channels/{first}"))["last_message_id"] == sent["id"]


async def test_both_spellings_of_the_recipient_are_read(ada: Person, bob: Person) -> None:
    one = await ada.post("/users/@me/channels", {"recipient_id": int(bob.id)})
    other = await ada.post("/api/v10/users/@me/channels", {"recipients": [bob.id]})
    assert one["id"] == other["id"]


async def test_whom_one_cannot_write_to(ada: Person) -> None:
    with refused(403, 50007):
        await ada.post("/users/@me/channels", {"recipient_id": ada.id})
    with refused(404, 10013):
        await ada.post("/users/@me/channels", {"recipient_id": "1"})
    with pytest.raises(Refused) as refusal:
        await ada.post("/users/@me/channels", {})
    assert "recipient_id" in refusal.value.body["errors"]


async def test_nobody_governs_a_direct_message(ada: Person, bob: Person) -> None:
    channel_id = await ada.direct(bob)
    sent = await bob.say(channel_id, "mine")
    with refused(403, 50013):
        await ada.delete(f"/messages/{channel_id}/{sent['id']}")
    with refused(403, 50013):
        await ada.post(f"/messages/{channel_id}/bulk-delete", {"messages": [sent["id"]]})
    with refused(400, 50024):
        await ada.delete(f"/channels/{channel_id}")
    with refused(400, 50024):
        await ada.patch(f"/channels/{channel_id}", {"name": "ours"})
