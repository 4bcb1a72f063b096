"""Why somebody may do what: the steps of the decision, and who may ask for them."""

from typing import Any

from internal.permission.model import ALL, DIRECT_MESSAGE, EVERYONE_DEFAULT, Permission
from tests.e2e.test_categories import category_of, hide, make
from tests.e2e.test_overwrites import bits, role_of
from tests.support.people import Person, Town, refused


async def why(person: Person, channel_id: str, of: Person | None = None) -> Any:
    name = "@me" if of is None else of.id
    return await person.get(f"/channels/{channel_id}/permissions/{name}")


def kinds(explanation: Any) -> list[str]:
    return [step["kind"] for step in explanation["steps"]]


async def test_the_owner_may_everything_and_that_is_why(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    told = await why(ada, guild.channel_id)
    step = {"kind": "owner", "id": ada.id, "name": "ada", "allow": str(ALL), "deny": "0"}
    assert told == {
        "user_id": ada.id,
        "channel_id": guild.channel_id,
        "permissions": str(ALL),
        "steps": [{**step, "permissions": str(ALL)}],
        "synced_with": None,
    }
    path = f"/api/v10/channels/{guild.channel_id}/permissions"
    assert await ada.get(f"{path}/@me") == await ada.get(f"{path}/{ada.id}") == told


async def test_each_rule_is_a_step_in_the_order_of_the_decision(
    town: Town, ada: Person, bob: Person
) -> None:
    """Bob asks why he can't post, and sees."""
    guild = await town.guild(ada, bob)
    role = await role_of(ada, guild, bob, Permission.MANAGE_MESSAGES)
    path = f"/channels/{guild.channel_id}/permissions"
    await ada.put(f"{path}/{guild.id}", {"type": 0, "deny": bits(Permission.SEND_MESSAGES)})
    await ada.put(f"{path}/{role}", {"type": 0, "allow": bits(Permission.SEND_MESSAGES)})
    await ada.put(f"{path}/{bob.id}", {"type": 1, "deny": bits(Permission.SEND_MESSAGES)})
    told = await why(bob, guild.channel_id)

    assert kinds(told) == [
        "everyone",
        "role",
        "everyone_overwrite",
        "role_overwrite",
        "member_overwrite",
        "no_send_messages",
    ]
    assert [step["id"] for step in told["steps"]] == [guild.id, role, guild.id, role, bob.id, None]
    names = [step["name"] for step in told["steps"]]
    assert names == ["@everyone", "helper", "@everyone", "helper", "bob", None]
    base = EVERYONE_DEFAULT | Permission.MANAGE_MESSAGES
    send = int(Permission.SEND_MESSAGES)
    left = [int(step["permissions"]) for step in told["steps"]]
    assert left[:5] == [EVERYONE_DEFAULT, base, base & ~send, base, base & ~send]
    assert int(told["permissions"]) == left[-1]
    assert not left[-1] & int(Permission.ATTACH_FILES)
    assert told["steps"][4]["deny"] == str(send)


async def test_what_is_told_is_what_is_decided(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}/permissions/{bob.id}"
    for deny, may in ((Permission.SEND_MESSAGES, False), (Permission.ADD_REACTIONS, True)):
        await ada.put(path, {"type": 1, "deny": bits(deny)})
        told = int((await why(bob, guild.channel_id))["permissions"])
        assert bool(told & int(Permission.SEND_MESSAGES)) is may
        if may:
            await bob.say(guild.channel_id, "hello")
        else:
            with refused(403, 50013):
                await bob.say(guild.channel_id, "hello")


async def test_a_synced_category_says_that_it_is_the_reason(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    inside = (await make(ada, guild, "inside", parent_id=category))["id"]
    assert (await why(bob, inside))["synced_with"] == category
    assert kinds(await why(bob, inside)) == ["everyone"]
    await hide(ada, guild, category)
    told = await why(ada, inside, bob)
    assert told["synced_with"] == category
    assert kinds(told) == ["everyone", "category", "everyone_overwrite", "no_view_channel"]
    step = told["steps"][1]
    assert (step["id"], step["name"]) == (category, "back rooms")
    assert step["permissions"] == str(EVERYONE_DEFAULT)
    assert told["permissions"] == "0"
    # On its own it says so no more.
    rule = {"type": 1, "allow": bits(Permission.VIEW_CHANNEL)}
    await ada.put(f"/channels/{inside}/permissions/{bob.id}", rule)
    told = await why(bob, inside)
    assert told["synced_with"] is None
    assert kinds(told) == ["everyone", "everyone_overwrite", "member_overwrite"]


async def test_of_others_those_ask_who_manage_permissions_there(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    with refused(403, 50013):
        await why(bob, guild.channel_id, ada)
    await role_of(ada, guild, bob, Permission.MANAGE_ROLES)
    assert kinds(await why(bob, guild.channel_id, ada)) == ["owner"]
    with refused(404, 10007):
        await why(ada, guild.channel_id, eve)
    with refused(404, 10003):
        await why(eve, guild.channel_id)
    await hide(ada, guild, guild.channel_id)
    with refused(404, 10003):
        await why(bob, guild.channel_id)


async def test_direct_messages_and_groups_have_one_step(
    ada: Person, bob: Person, eve: Person
) -> None:
    direct = await ada.direct(bob)
    group = await ada.post("/users/@me/channels", {"recipients": [bob.id, eve.id]})
    for channel_id in (direct, group["id"]):
        told = await why(bob, channel_id)
        assert kinds(told) == ["direct_message"]
        assert told["permissions"] == str(DIRECT_MESSAGE)
        assert told["synced_with"] is None
        with refused(403, 50013):
            await why(bob, channel_id, ada)


async def test_a_thread_has_the_steps_of_its_channel_and_its_own(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob, eve)
    category = await category_of(ada, guild)
    inside = (await make(ada, guild, "inside", parent_id=category))["id"]
    rule = {"type": 0, "deny": bits(Permission.SEND_MESSAGES)}
    await ada.put(f"/channels/{category}/permissions/{guild.id}", rule)
    thread = await bob.post(f"/channels/{inside}/threads", {"name": "aside", "type": 12})
    told = await why(bob, thread["id"])
    assert told["synced_with"] == category
    assert kinds(told) == ["everyone", "category", "everyone_overwrite", "send_in_threads"]
    assert int(told["permissions"]) & int(Permission.SEND_MESSAGES)
    # Who is not in a private one sees nothing of it.
    assert kinds(await why(ada, thread["id"], eve))[-1] == "private_thread"
    assert (await why(ada, thread["id"], eve))["permissions"] == "0"
    with refused(404, 10003):
        await why(eve, thread["id"])
