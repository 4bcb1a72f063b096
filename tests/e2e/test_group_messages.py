"""Groups: some people, one channel, one who owns it."""

import asyncio
from typing import Any

import asyncpg

from tests.e2e.test_direct_messages import acquaint
from tests.support.people import Person, Refused, Town, refused
from tests.support.reducer import unchanged_view


async def group_of(owner: Person, *others: Person) -> Any:
    return await owner.post("/users/@me/channels", {"recipients": [one.id for one in others]})


async def add(person: Person, channel_id: str, other: Person) -> None:
    assert await person.put(f"/channels/{channel_id}/recipients/{other.id}") is None


async def remove(person: Person, channel_id: str, other: Person) -> None:
    assert await person.delete(f"/channels/{channel_id}/recipients/{other.id}") is None


def people_in(channel: Any) -> set[str]:
    return {user["username"] for user in channel["recipients"]}


async def test_a_group_appears_to_all_of_it(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    mallory = await town.person("mallory")
    for person in (ada, bob, eve, mallory):
        await person.connect()
    made = await group_of(ada, bob, eve)

    assert (made["type"], made["owner_id"], made["name"], made["icon"]) == (3, ada.id, None, None)
    assert made["last_message_id"] is None
    for person, others in ((ada, {"bob", "eve"}), (bob, {"ada", "eve"}), (eve, {"ada", "bob"})):
        told = await person.gateway.expect("CHANNEL_CREATE", id=made["id"])
        assert people_in(told) == others
        assert await person.get(f"/channels/{made['id']}") == told
        assert told in await person.get("/users/@me/channels")
    assert await mallory.get("/users/@me/channels") == []
    sent = await eve.say(made["id"], "hello")
    for person in (ada, bob, eve):
        told = await person.gateway.expect("MESSAGE_CREATE", id=sent["id"])
        assert "guild_id" not in told
    path = f"/messages/{made['id']}/{sent['id']}"
    await eve.patch(path, {"content": "hello all"})
    await bob.gateway.expect("MESSAGE_UPDATE", id=sent["id"], content="hello all")
    await bob.post(f"/channels/{made['id']}/typing")
    await ada.gateway.expect("TYPING_START", channel_id=made["id"], user_id=bob.id)
    with refused(403, 50013):
        await ada.delete(path)
    await eve.delete(path)
    await bob.gateway.expect("MESSAGE_DELETE", id=sent["id"])
    await mallory.heard_nothing()
    for attempt in (
        mallory.get(f"/channels/{made['id']}"),
        mallory.say(made["id"], "me too"),
        mallory.get(f"/messages/channel/{made['id']}"),
        mallory.patch(f"/channels/{made['id']}", {"name": "mine"}),
        mallory.delete(f"/channels/{made['id']}"),
        add(mallory, made["id"], mallory),
        remove(mallory, made["id"], ada),
    ):
        with refused(404, 10003):
            await attempt


async def test_every_way_to_name_the_people(ada: Person, bob: Person, eve: Person) -> None:
    path = "/users/@me/channels"
    for body in (
        {"recipient_ids": [bob.id, eve.id]},
        {"recipients": [bob.id, eve.id, bob.id, ada.id]},
        {"recipients": [bob.id], "recipient_id": eve.id},
    ):
        made = await ada.post(path, body)
        assert (made["type"], people_in(made)) == (3, {"bob", "eve"})
    # One other makes no group, however often they are named.
    assert (await ada.post(path, {"recipients": [bob.id, ada.id, bob.id]}))["type"] == 1
    with refused(404, 10013):
        await ada.post(path, {"recipients": [bob.id, "1"]})
    faults: list[Any] = [{"recipients": []}, {"recipient_ids": "1"}]
    for wrong in faults:
        with refused(400, 50035):
            await ada.post(path, wrong)
    with refused(403, 50007):
        await ada.post(path, {"recipients": [ada.id]})


async def test_the_law_holds_for_all_that_happens_to_a_group(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    carol = await town.person("carol")
    before = (await group_of(ada, bob, eve))["id"]
    async with unchanged_view(ada, bob, eve, carol):
        await group_of(bob, ada, carol)
        await bob.say(before, "hello")
        await bob.patch(f"/channels/{before}", {"name": "The three of us"})
        await add(bob, before, carol)
        await carol.say(before, "I am new")
        await eve.patch("/users/@me", {"global_name": "Evelyn"})
        await remove(ada, before, eve)
        await ada.delete(f"/channels/{before}")
        await bob.patch(f"/channels/{before}", {"name": None})
        await bob.delete(f"/channels/{before}")
        await carol.delete(f"/channels/{before}")


async def test_renaming_tells_all_and_nobody_twice(ada: Person, bob: Person, eve: Person) -> None:
    path = f"/channels/{(await group_of(ada, bob, eve))['id']}"
    await bob.connect()
    renamed = await eve.patch(path, {"name": "Tea"})
    assert (renamed["name"], people_in(renamed)) == ("Tea", {"ada", "bob"})
    told = await bob.gateway.expect("CHANNEL_UPDATE", id=renamed["id"], name="Tea")
    assert people_in(told) == {"ada", "eve"}
    assert "last_message_id" not in told
    await bob.fence()
    await eve.patch(path, {"name": "Tea"})
    await eve.patch(path, {})
    await bob.heard_nothing("CHANNEL_UPDATE")
    for name in ("", "x" * 101, 5):
        with refused(400, 50035):
            await eve.patch(path, {"name": name})


async def test_any_of_them_adds_and_it_is_told_once(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    carol = await town.person("carol")
    group = await group_of(ada, bob, eve)
    sent = await ada.say(group["id"], "before you came")
    for person in (ada, bob, carol):
        await person.connect()
    await add(bob, group["id"], carol)

    told = await ada.gateway.expect("CHANNEL_RECIPIENT_ADD", channel_id=group["id"])
    assert told["user"]["username"] == "carol"
    theirs = await carol.gateway.expect("CHANNEL_CREATE", id=group["id"])
    assert people_in(theirs) == {"ada", "bob", "eve"}
    assert theirs["last_message_id"] == sent["id"]
    await ada.fence()
    await add(eve, group["id"], carol)
    await ada.heard_nothing("CHANNEL_RECIPIENT_ADD")
    await carol.heard_nothing("CHANNEL_RECIPIENT_ADD", "CHANNEL_CREATE")
    with refused(404, 10013):
        await ada.put(f"/channels/{group['id']}/recipients/1")


async def test_only_the_owner_removes_and_who_is_out_hears_nothing(
    ada: Person, bob: Person, eve: Person
) -> None:
    group_id = (await group_of(ada, bob, eve))["id"]
    for person in (ada, bob, eve):
        await person.connect()
    with refused(403, 50013):
        await remove(bob, group_id, eve)
    await remove(ada, group_id, bob)

    await bob.gateway.expect("CHANNEL_DELETE", id=group_id)
    told = await eve.gateway.expect("CHANNEL_RECIPIENT_REMOVE", channel_id=group_id)
    assert told["user"]["id"] == bob.id
    await ada.say(group_id, "now that he is gone")
    await eve.patch(f"/channels/{group_id}", {"name": "Without Bob"})
    await eve.patch("/users/@me", {"global_name": "Evelyn"})
    await bob.heard_nothing()
    for attempt in (
        bob.get(f"/channels/{group_id}"),
        bob.say(group_id, "hello?"),
        bob.get(f"/messages/channel/{group_id}"),
        remove(bob, group_id, bob),
    ):
        with refused(404, 10003):
            await attempt
    # Twice does no harm.
    await eve.fence()
    await remove(ada, group_id, bob)
    await eve.heard_nothing("CHANNEL_RECIPIENT_REMOVE")
    await add(eve, group_id, bob)
    await bob.say(group_id, "hello again")


async def test_what_is_said_after_a_removal_is_not_told_on_resume(
    ada: Person, bob: Person, eve: Person
) -> None:
    group_id = (await group_of(ada, bob, eve))["id"]
    await bob.connect()
    await bob.gateway.abort()
    await remove(ada, group_id, bob)
    await ada.say(group_id, "now that he is gone")
    after = await bob.resume(bob.gateway.session_id, bob.gateway.seq)
    await after.expect("CHANNEL_DELETE", id=group_id)
    await after.expect("RESUMED")
    await bob.fence()
    assert not [frame for frame in after.dispatches if b"now that he is gone" in frame.raw]


async def test_no_message_slips_in_behind_a_removal(ada: Person, bob: Person, eve: Person) -> None:
    """Of many sends at once with it, none is told to him after he was told that he is out."""
    group_id = (await group_of(ada, bob, eve))["id"]
    await bob.connect()
    outcomes = await asyncio.gather(
        *(eve.say(group_id, f"line {number}") for number in range(15)),
        *(bob.say(group_id, f"mine {number}") for number in range(15)),
        remove(ada, group_id, bob),
        return_exceptions=True,
    )
    assert {one.code for one in outcomes if isinstance(one, Refused)} <= {10003}
    assert all(isinstance(one, Refused | dict | None) for one in outcomes)
    await bob.gateway.expect("CHANNEL_DELETE", id=group_id)
    await bob.heard_nothing("MESSAGE_CREATE")
    kept = {one["id"] for one in await ada.get(f"/messages/channel/{group_id}", limit=100)}
    assert kept == {one["id"] for one in outcomes if isinstance(one, dict)}


async def test_a_send_waits_for_a_removal_that_is_under_way(
    ada: Person, bob: Person, eve: Person, database_url: str
) -> None:
    group_id = (await group_of(ada, bob, eve))["id"]
    sent = await bob.say(group_id, "while I am here")
    conn = await asyncpg.connect(database_url)
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", int(group_id))
            await conn.execute(
                "DELETE FROM channel_recipients WHERE channel_id = $1 AND user_id = $2",
                int(group_id),
                int(bob.id),
            )
            attempts = [
                asyncio.create_task(bob.say(group_id, "one more")),
                asyncio.create_task(
                    bob.patch(f"/messages/{group_id}/{sent['id']}", {"content": "changed"})
                ),
            ]
            done, _ = await asyncio.wait(attempts, timeout=0.5)
            assert not done
    finally:
        await conn.close()
    for attempt in attempts:
        with refused(404, 10003):
            await attempt


async def test_the_owner_leaves_and_another_one_owns(ada: Person, bob: Person, eve: Person) -> None:
    group_id = (await group_of(ada, bob, eve))["id"]
    for person in (ada, eve):
        await person.connect()
    left = await ada.delete(f"/channels/{group_id}")
    assert (left["id"], left["type"]) == (group_id, 3)
    await ada.gateway.expect("CHANNEL_DELETE", id=group_id)
    await eve.gateway.expect("CHANNEL_RECIPIENT_REMOVE", channel_id=group_id)
    told = await eve.gateway.expect("CHANNEL_UPDATE", id=group_id)
    assert told["owner_id"] == min((bob.id, eve.id), key=int)
    owner, other = (bob, eve) if told["owner_id"] == bob.id else (eve, bob)
    await remove(owner, group_id, other)
    await owner.delete(f"/api/v10/channels/{group_id}")
    for person in (ada, bob, eve):
        with refused(404, 10003):
            await person.get(f"/channels/{group_id}")


async def test_the_last_one_out_turns_off_the_light(ada: Person, bob: Person, eve: Person) -> None:
    group_id = (await group_of(ada, bob, eve))["id"]
    await eve.connect()
    await eve.gateway.abort()
    await ada.say(group_id, "between us")
    await bob.delete(f"/channels/{group_id}")
    await remove(eve, group_id, eve)
    await ada.delete(f"/channels/{group_id}")
    # With it, all that was said in it is gone, also for who was away.
    after = await eve.resume(eve.gateway.session_id, eve.gateway.seq)
    await after.expect("RESUMED")
    await eve.fence()
    assert not [frame for frame in after.dispatches if b"between us" in frame.raw]
    assert await ada.get("/users/@me/channels", limit=100) == []


async def test_ten_people_and_no_more_also_at_once(town: Town, ada: Person) -> None:
    others = await town.people(10)
    ids = [one.id for one in others]
    with refused(400, 30004):
        await ada.post("/users/@me/channels", {"recipients": ids})
    group_id = (await group_of(ada, *others[:8]))["id"]
    outcomes = await asyncio.gather(
        *(add(ada, group_id, one) for one in others[8:]), return_exceptions=True
    )
    refusals = [one for one in outcomes if isinstance(one, Refused)]
    assert [(one.status, one.code) for one in refusals] == [(400, 30004)]
    assert outcomes.count(None) == 1
    assert len((await ada.get(f"/channels/{group_id}"))["recipients"]) == 9


async def gather_groups(database_url: str, person: Person, count: int) -> None:
    """Let somebody be in so many groups, all alone."""
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute(
            """
            WITH groups AS (
                INSERT INTO channels (id, type, owner_id)
                SELECT 1000000 + n, 3, $1 FROM generate_series(1, $2::integer) AS n
                RETURNING id
            )
            INSERT INTO channel_recipients (channel_id, user_id)
            SELECT id, $1 FROM groups
            """,
            int(person.id),
            count,
        )
    finally:
        await conn.close()


async def test_groups_count_as_direct_messages_do(
    ada: Person, bob: Person, eve: Person, database_url: str
) -> None:
    """Others can't fill somebody's list up; what is left is one's own to open."""
    group_id = (await group_of(bob, eve, ada))["id"]
    await ada.delete(f"/channels/{group_id}")
    await acquaint(database_url, ada, 900)
    with refused(403, 50007):
        await add(bob, group_id, ada)
    with refused(403, 50007):
        await group_of(bob, eve, ada)
    await group_of(ada, bob, eve)
    await gather_groups(database_url, ada, 99)
    with refused(400, 90012):
        await group_of(ada, bob, eve)


async def test_people_are_added_and_removed_at_once(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    carol = await town.person("carol")
    group_id = (await group_of(ada, bob, eve))["id"]
    async with unchanged_view(ada, bob, eve, carol):
        await asyncio.gather(
            *(add(ada, group_id, carol) for _ in range(3)),
            *(remove(ada, group_id, carol) for _ in range(3)),
            carol.patch("/users/@me", {"global_name": "Caroline"}),
            bob.patch(f"/channels/{group_id}", {"name": "Busy"}),
            eve.patch("/users/@me", {"global_name": "Evelyn"}),
            eve.delete(f"/channels/{group_id}"),
        )


async def test_a_group_has_recipients_and_other_channels_have_none(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    for channel_id in (guild.channel_id, await ada.direct(bob)):
        with refused(400, 50024):
            await add(ada, channel_id, bob)
        with refused(400, 50024):
            await remove(ada, channel_id, bob)


async def test_a_group_is_listed_by_pages_and_is_no_channel_of_a_guild(
    ada: Person, bob: Person, eve: Person
) -> None:
    direct = await ada.direct(bob)
    group_id = (await group_of(ada, bob, eve))["id"]
    page = await ada.get("/users/@me/channels", limit=1)
    assert [one["id"] for one in page] == [group_id]
    page = await ada.get("/users/@me/channels", before=group_id)
    assert [one["id"] for one in page] == [direct]
    with refused(400, 50024):
        await ada.put(f"/channels/{group_id}/permissions/{bob.id}", {"type": 1})
