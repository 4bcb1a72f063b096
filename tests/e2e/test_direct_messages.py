"""Direct messages: two people, one channel, nobody else."""

import asyncio

import asyncpg
import pytest

from tests.support.people import Person, Refused, Town, refused
from tests.support.reducer import unchanged_view


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


async def acquaint(database_url: str, person: Person, count: int) -> None:
    """Let so many strangers have opened a direct message with somebody, long ago."""
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute(
            """
            WITH strangers AS (
                INSERT INTO users (id, username, email, password_hash)
                SELECT n, 'stranger' || n, n || '@example.com', '-'
                  FROM generate_series(1, $2::integer) AS n
                RETURNING id
            )
            INSERT INTO channels (id, type, dm_low_id, dm_high_id)
            SELECT id, 1, id, $1 FROM strangers
            """,
            int(person.id),
            count,
        )
    finally:
        await conn.close()


async def test_all_direct_messages_are_told_so_that_none_comes_from_nowhere(
    ada: Person, bob: Person, eve: Person, database_url: str
) -> None:
    """The sync law holds with many, and the number is bounded."""
    first = await ada.direct(bob)
    await ada.connect()
    await ada.fence()  # with yet another one
    await acquaint(database_url, ada, 898)
    async with unchanged_view(ada):
        await bob.say(first, "do you remember me?")
        await bob.patch("/users/@me", {"global_name": "Old friend"})

    # Strangers can't use up all; what is left is one's own to open.
    with refused(403, 50007):
        await eve.direct(ada)
    opened = await ada.direct(eve)
    assert await eve.direct(ada) == opened
    assert await bob.direct(ada) == first


async def test_the_number_of_direct_messages_is_bounded(
    ada: Person, bob: Person, eve: Person, database_url: str
) -> None:
    await acquaint(database_url, ada, 999)
    outcomes = await asyncio.gather(ada.direct(bob), ada.direct(eve), return_exceptions=True)

    assert len([outcome for outcome in outcomes if isinstance(outcome, str)]) == 1
    refusal = next(outcome for outcome in outcomes if isinstance(outcome, Refused))
    assert (refusal.status, refusal.code) == (400, 90012)
    await ada.connect()
    ready = next(frame for frame in ada.gateway.dispatches if frame.t == "READY")
    assert len(ready.d["private_channels"]) == 1000


async def test_a_change_of_name_does_not_tell_of_the_last_message(ada: Person, bob: Person) -> None:
    """Whoever renames and whoever sends do not wait for each other: it could be an older one."""
    channel_id = await ada.direct(bob)
    await ada.say(channel_id, "hello")
    async with unchanged_view(bob) as (his,):
        await asyncio.gather(
            *(bob.say(channel_id, f"line {number}") for number in range(10)),
            ada.patch("/users/@me", {"global_name": "Countess"}),
            *(ada.say(channel_id, f"line {number}") for number in range(10)),
        )
        told = await his.expect("CHANNEL_UPDATE", id=channel_id)
        assert told["recipients"][0]["global_name"] == "Countess"
        assert "last_message_id" not in told
