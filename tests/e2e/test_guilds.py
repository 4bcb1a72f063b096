"""Guilds: owner, member and stranger."""

import asyncio
from typing import Any

import pytest

from tests.support.people import Person, Refused, Town, refused

NOWHERE = "/guilds/1"


async def test_a_new_guild_has_a_channel_and_a_role_and_its_owner_is_told(ada: Person) -> None:
    await ada.connect()
    made = await ada.post("/guilds", {"name": "Tea house", "description": "Leaves"})

    assert made["owner_id"] == ada.id
    assert made["description"] == "Leaves"
    assert made["features"] == []
    assert [channel["name"] for channel in made["channels"]] == ["general"]
    assert [(role["id"], role["name"]) for role in made["roles"]] == [(made["id"], "@everyone")]
    told = await ada.gateway.expect("GUILD_CREATE", id=made["id"])
    assert [member["user"]["id"] for member in told["members"]] == [ada.id]
    assert told["member_count"] == 1
    assert told["channels"] == made["channels"]
    assert (await ada.get(f"/guilds/{made['id']}"))["name"] == "Tea house"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " \t"}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": 7}, "name"),
        ({"name": {"$ne": ""}}, "name"),
        ({"name": "nul\x00"}, "name"),
        ({"name": "ok", "description": "x" * 301}, "description"),
        ({"name": "ok", "description": "nul\x00"}, "description"),
        ({"name": "ok", "discoverable": "yes"}, "discoverable"),
    ],
)
async def test_a_bad_guild_is_refused_by_field(ada: Person, body: Any, field: str) -> None:
    with pytest.raises(Refused) as refusal:
        await ada.post("/guilds", body)
    assert refusal.value.status == 400
    assert refusal.value.code == 50035
    assert field in refusal.value.body["errors"]
    assert await ada.get("/guilds/my") == []


async def test_joining_tells_the_guild_and_the_joiner_each_what_they_need(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada)
    await ada.connect()
    await bob.connect()
    joined = await bob.post(f"/guilds/{guild.id}/join")

    assert joined["approximate_member_count"] == 2
    told = await ada.gateway.expect("GUILD_MEMBER_ADD", guild_id=guild.id)
    assert told["user"]["username"] == "bob"
    created = await bob.gateway.expect("GUILD_CREATE", id=guild.id)
    assert {member["user"]["id"] for member in created["members"]} == {ada.id, bob.id}
    assert not bob.gateway.of_type("GUILD_MEMBER_ADD")
    # What is said from now on reaches the newcomer.
    await ada.say(guild.channel_id, "welcome")
    await bob.gateway.expect("MESSAGE_CREATE", content="welcome")


async def test_joining_twice_changes_nothing_and_tells_nobody(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    again = await bob.post(f"/guilds/{guild.id}/join")

    assert again["approximate_member_count"] == 2
    await ada.heard_nothing("GUILD_MEMBER_ADD")
    await bob.heard_nothing("GUILD_CREATE")


async def test_many_who_join_at_once_are_all_counted(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    crowd = await town.people(12)
    await ada.connect()
    await asyncio.gather(*(one.post(f"/guilds/{guild.id}/join") for one in crowd * 2))

    assert (await ada.get(f"/guilds/{guild.id}"))["approximate_member_count"] == 13
    await ada.fence()
    told = [frame.d["user"]["id"] for frame in ada.gateway.of_type("GUILD_MEMBER_ADD")]
    assert sorted(told) == sorted(one.id for one in crowd)


async def test_a_private_guild_is_not_there_for_strangers(
    town: Town, ada: Person, eve: Person
) -> None:
    made = await ada.post("/guilds", {"name": "Backroom"})
    path = f"/guilds/{made['id']}"
    refusals = [
        eve.get(path),
        eve.patch(path, {"name": "Mine"}),
        eve.delete(path),
        eve.post(f"{path}/join"),
        eve.post(f"{path}/leave"),
        eve.get(f"{path}/members"),
        eve.get(f"{path}/members/{ada.id}"),
        eve.get(f"/channels/guild/{made['id']}"),
        eve.post("/channels", {"guild_id": made["id"], "name": "mine"}),
    ]
    bodies = []
    for attempt in refusals:
        with pytest.raises(Refused) as refusal:
            await attempt
        assert (refusal.value.status, refusal.value.code) == (404, 10004)
        bodies.append(refusal.value.body)
    # Word for word what is said of a guild that does not exist.
    with pytest.raises(Refused) as refusal:
        await eve.get(NOWHERE)
    assert all(body == refusal.value.body for body in bodies)
    with refused(401):
        await town.stranger.get(path)


async def test_members_look_and_do_not_govern(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = f"/guilds/{guild.id}"
    assert (await bob.get(path))["owner_id"] == ada.id
    for attempt in (
        bob.patch(path, {"name": "Mine"}),
        bob.patch(path, {"owner_id": bob.id}),
        bob.delete(path),
        bob.post("/channels", {"guild_id": guild.id, "name": "mine"}),
    ):
        with refused(403, 50013):
            await attempt
    assert (await ada.get(path))["name"] == "Tea house"


async def test_changing_a_guild_tells_its_members(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    path = f"/guilds/{guild.id}"
    changed = await ada.patch(path, {"name": "Coffee house", "description": "Beans"})

    assert (changed["name"], changed["description"]) == ("Coffee house", "Beans")
    told = await bob.gateway.expect("GUILD_UPDATE", id=guild.id)
    assert (told["name"], told["description"]) == ("Coffee house", "Beans")
    # Absent stays, null empties.
    await ada.patch(path, {"name": "Coffee"})
    assert (await ada.get(path))["description"] == "Beans"
    await ada.patch(path, {"description": None})
    assert (await ada.get(path))["description"] is None
    with refused(400, 50035):
        await ada.patch(path, {"name": None})
    await bob.fence()
    await ada.patch(path, {"name": "Coffee"})
    await bob.heard_nothing("GUILD_UPDATE")


async def test_a_guild_is_handed_over_to_a_member_only(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = f"/guilds/{guild.id}"
    with refused(404, 10007):
        await ada.patch(path, {"owner_id": eve.id})
    await ada.patch(path, {"owner_id": bob.id})

    with refused(403, 50013):
        await ada.patch(path, {"owner_id": ada.id})
    with refused(403, 50013):
        await ada.delete(path)
    with refused(400, 50055):
        await bob.post(f"{path}/leave")
    await ada.post(f"{path}/leave")
    await bob.delete(path)


async def test_leaving_ends_access_at_once(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await bob.post(f"/guilds/{guild.id}/leave")

    gone = await bob.gateway.expect("GUILD_DELETE", id=guild.id)
    assert gone == {"id": guild.id, "unavailable": False}
    told = await ada.gateway.expect("GUILD_MEMBER_REMOVE", guild_id=guild.id)
    assert told["user"]["id"] == bob.id
    await ada.say(guild.channel_id, "he is gone")
    await bob.heard_nothing("MESSAGE_CREATE", "GUILD_MEMBER_REMOVE")
    for attempt in (
        bob.say(guild.channel_id, "am I?"),
        bob.get(f"/messages/channel/{guild.channel_id}"),
        bob.get(f"/channels/{guild.channel_id}"),
    ):
        with refused(404, 10003):
            await attempt
    with refused(404, 10004):
        await bob.post(f"/guilds/{guild.id}/leave")
    assert (await ada.get(f"/guilds/{guild.id}"))["approximate_member_count"] == 1


async def test_the_documented_path_leaves_too(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await bob.delete(f"/api/v10/users/@me/guilds/{guild.id}")
    assert await bob.get("/api/v10/users/@me/guilds") == []


async def test_a_deleted_guild_is_gone_for_everyone(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.say(guild.channel_id, "last words")
    await ada.connect()
    await bob.connect()
    await ada.delete(f"/guilds/{guild.id}")

    await ada.gateway.expect("GUILD_DELETE", id=guild.id)
    await bob.gateway.expect("GUILD_DELETE", id=guild.id)
    with refused(404, 10004):
        await ada.get(f"/guilds/{guild.id}")
    with refused(404, 10003):
        await ada.get(f"/messages/channel/{guild.channel_id}")
    assert await bob.get("/guilds/my") == []


async def test_public_guilds_are_listed_newest_first_in_pages(town: Town, ada: Person) -> None:
    made = [(await town.guild(ada, name=f"Guild {number}")).id for number in range(5)]
    await ada.post("/guilds", {"name": "Backroom"})
    newest_first = made[::-1]
    someone = await town.person("bob")

    def ids(page: Any) -> list[str]:
        return [guild["id"] for guild in page]

    assert ids(await someone.get("/guilds")) == newest_first
    assert ids(await someone.get("/guilds", limit=2)) == newest_first[:2]
    assert ids(await someone.get("/guilds", limit=2, before=newest_first[1])) == newest_first[2:4]
    assert ids(await someone.get("/guilds", limit=2, after=newest_first[4])) == newest_first[2:4]
    assert ids(await someone.get("/guilds", after=newest_first[0])) == []
    assert ids(await someone.get("/guilds", before=newest_first[4])) == []
    page = await someone.get("/guilds", limit=1)
    assert page[0]["approximate_member_count"] == 1
    assert page[0]["features"] == ["DISCOVERABLE"]


async def test_ones_own_guilds_are_listed_by_id_in_pages(
    town: Town, ada: Person, bob: Person
) -> None:
    made = [(await town.guild(ada, bob)).id for _ in range(3)]

    async def ids(**page: Any) -> list[str]:
        return [guild["id"] for guild in await bob.get("/guilds/my", **page)]

    assert await ids() == made
    assert await ids(limit=2) == made[:2]
    assert await ids(after=made[1]) == made[2:]
    assert await ids(before=made[2], limit=1) == made[1:2]
    assert await ids(after=made[2]) == []
    first = (await bob.get("/guilds/my", limit=1))[0]
    assert first["owner"] is False
    assert int(first["permissions"]) & 1 << 11
    assert (await ada.get("/guilds/my", limit=1))[0]["owner"] is True


async def test_members_are_paged_by_id(town: Town, ada: Person) -> None:
    crowd = [ada, *await town.people(4)]
    guild = await town.guild(*crowd)
    ids = sorted((person.id for person in crowd), key=int)

    async def page(**query: Any) -> list[str]:
        members = await ada.get(f"/guilds/{guild.id}/members", **query)
        return [member["user"]["id"] for member in members]

    assert await page() == ids
    assert await page(limit=2) == ids[:2]
    assert await page(limit=2, after=ids[1]) == ids[2:4]
    assert await page(after=ids[-1]) == []
    member = await ada.get(f"/guilds/{guild.id}/members/{ids[1]}")
    assert member["user"]["id"] == ids[1]
    assert {"roles", "joined_at", "deaf", "mute", "flags"} <= member.keys()
    with refused(404, 10007):
        await ada.get(f"/guilds/{guild.id}/members/1")


@pytest.mark.parametrize("limit", ["0", "-1", "all", "1_0", "9223372036854775808", "1001", "٣"])
async def test_a_limit_is_a_small_positive_number(town: Town, ada: Person, limit: str) -> None:
    guild = await town.guild(ada)
    for path in (
        "/guilds",
        "/guilds/my",
        f"/guilds/{guild.id}/members",
        f"/messages/channel/{guild.channel_id}",
        "/users/@me/channels",
    ):
        with refused(400, 50035):
            await ada.get(path, limit=limit)


async def test_a_new_name_is_told_to_the_guilds_of_its_bearer(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await eve.connect()
    await bob.patch("/users/@me", {"global_name": "Robert"})

    told = await ada.gateway.expect("GUILD_MEMBER_UPDATE", guild_id=guild.id)
    assert told["user"]["global_name"] == "Robert"
    await eve.heard_nothing()


async def test_one_account_is_in_two_hundred_guilds_at_most(ada: Person, bob: Person) -> None:
    last = await bob.post("/guilds", {"name": "One too many", "discoverable": True})
    for _ in range(8):
        await asyncio.gather(*(ada.post("/guilds", {"name": "Another"}) for _ in range(24)))
    outcomes = await asyncio.gather(
        *(ada.post("/guilds", {"name": "Another"}) for _ in range(12)), return_exceptions=True
    )
    full = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert [(one.status, one.code) for one in full] == [(400, 30001)] * 4
    with refused(400, 30001):
        await ada.post(f"/guilds/{last['id']}/join")
    assert len(await ada.get("/guilds/my")) == 200


async def test_joining_again_while_leaving_is_answered_either_way(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada)
    path = f"/guilds/{guild.id}"
    for _ in range(25):
        await ada.patch(path, {"discoverable": True})
        await bob.post(f"{path}/join")
        await ada.patch(path, {"discoverable": False})
        outcomes = await asyncio.gather(
            *(bob.post(f"{path}/join") for _ in range(4)),
            bob.post(f"{path}/leave"),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, Refused)
                assert (outcome.status, outcome.code) == (404, 10004)
