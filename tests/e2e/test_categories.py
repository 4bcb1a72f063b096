"""Categories, the kinds of channels, and their order."""

import asyncio
from typing import Any

import asyncpg
import pytest

from internal.permission.model import Permission
from tests.e2e.test_overwrites import bits, let, role_of
from tests.support.people import Guild, Person, Refused, Town, refused
from tests.support.reducer import unchanged_view

HIDDEN = bits(Permission.VIEW_CHANNEL)


async def make(owner: Person, guild: Guild, name: str, **more: Any) -> Any:
    return await owner.post("/channels", {"guild_id": guild.id, "name": name, **more})


async def category_of(owner: Person, guild: Guild, **more: Any) -> str:
    return str((await make(owner, guild, "back rooms", type=4, **more))["id"])


async def hide(owner: Person, guild: Guild, channel_id: str) -> None:
    """Let nobody see a channel but who rules."""
    path = f"/channels/{channel_id}/permissions/{guild.id}"
    await owner.put(path, {"type": 0, "deny": HIDDEN})


async def rules_of(person: Person, channel_id: str) -> Any:
    return (await person.get(f"/channels/{channel_id}"))["permission_overwrites"]


@pytest.mark.parametrize("kind", [0, 5, 15])
async def test_kinds_of_channels_and_what_they_have(town: Town, ada: Person, kind: int) -> None:
    guild = await town.guild(ada)
    body = {
        "topic": "News",
        "nsfw": True,
        "rate_limit_per_user": 5,
        "default_auto_archive_duration": 1440,
        "default_thread_rate_limit_per_user": 7,
    }
    made = await make(ada, guild, "board", type=kind, **body)
    assert made == await ada.get(f"/channels/{made['id']}")
    assert {key: made[key] for key in body} == body
    assert made["type"] == kind
    assert ("available_tags" in made) == (kind == 15)
    changed = await ada.patch(
        f"/channels/{made['id']}",
        {"default_auto_archive_duration": 60, "rate_limit_per_user": None, "topic": None},
    )
    assert changed["default_auto_archive_duration"] == 60
    assert changed["rate_limit_per_user"] == 0
    assert changed["topic"] is None


async def test_forums_have_tags_with_ids_that_stay(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    tags = [
        {"name": "bug", "moderated": True},
        {"name": "idea", "emoji_name": "\N{ELECTRIC LIGHT BULB}"},
    ]
    forum = await make(
        ada,
        guild,
        "questions",
        type=15,
        available_tags=tags,
        default_reaction_emoji={"emoji_name": "\N{THUMBS UP SIGN}"},
        default_sort_order=1,
        default_forum_layout=2,
        topic="x" * 4096,
    )
    path = f"/channels/{forum['id']}"
    bug, idea = forum["available_tags"]
    assert (bug["name"], bug["moderated"], idea["emoji_id"]) == ("bug", True, None)
    assert forum["default_reaction_emoji"]["emoji_name"] == "\N{THUMBS UP SIGN}"
    assert (forum["default_sort_order"], forum["default_forum_layout"]) == (1, 2)
    kept = [{**idea, "name": "thought"}, {"name": "new"}, {"id": "5", "name": "not of here"}]
    told = (await ada.patch(path, {"available_tags": kept}))["available_tags"]
    assert [tag["name"] for tag in told] == ["thought", "new", "not of here"]
    assert told[0]["id"] == idea["id"]
    assert len({tag["id"] for tag in told} | {bug["id"], "5"}) == 5
    emptied = await ada.patch(path, {"available_tags": [], "default_reaction_emoji": None})
    assert (emptied["available_tags"], emptied["default_reaction_emoji"]) == ([], None)
    # A post needs a tag.
    assert (await ada.patch(path, {"flags": 16}))["flags"] == 16
    assert (await ada.patch(path, {"flags": None}))["flags"] == 0
    two = {"name": "both", "emoji_id": "1", "emoji_name": "x"}
    for body in (
        {"available_tags": [{"name": "x"}] * 21},
        {"available_tags": [two]},
        {"default_reaction_emoji": {"emoji_id": "1", "emoji_name": "x"}},
        {"default_sort_order": 2},
        {"default_forum_layout": 3},
        {"topic": "x" * 4097},
    ):
        with refused(400, 50035):
            await ada.patch(path, body)


@pytest.mark.parametrize("kind", [4, 15])
async def test_categories_and_forums_take_no_messages(town: Town, ada: Person, kind: int) -> None:
    guild = await town.guild(ada)
    made = await make(ada, guild, "holder", type=kind)
    with refused(400, 50008):
        await ada.say(made["id"], "hello")


async def test_texts_become_announcements_and_nothing_else(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}"
    await bob.connect()
    assert (await ada.patch(path, {"type": 5}))["type"] == 5
    assert (await bob.gateway.expect("CHANNEL_UPDATE", id=guild.channel_id))["type"] == 5
    assert (await ada.patch(path, {"type": 0}))["type"] == 0
    for kind in (4, 15):
        with refused(400, 50035):
            await ada.patch(path, {"type": kind})
    category = await category_of(ada, guild)
    with refused(400, 50035):
        await ada.patch(f"/channels/{category}", {"type": 0})
    with refused(400, 50035):
        await ada.patch(path, {"name": None})


async def test_a_parent_is_a_category_of_the_same_guild(
    town: Town, ada: Person, bob: Person
) -> None:
    guild, other = await town.guild(ada, bob), await town.guild(ada, name="Elsewhere")
    foreign, hidden = await category_of(ada, other), await category_of(ada, guild)
    await hide(ada, guild, hidden)
    await role_of(ada, guild, bob, Permission.MANAGE_CHANNELS)
    for parent, code in (
        (foreign, "CHANNEL_PARENT_INVALID"),
        ("1", "CHANNEL_PARENT_INVALID"),
        # For who can't see it there is none.
        (hidden, "CHANNEL_PARENT_INVALID"),
        (guild.channel_id, "CHANNEL_PARENT_INVALID_TYPE"),
    ):
        for attempt in (
            make(bob, guild, "new", parent_id=parent),
            bob.patch(f"/channels/{guild.channel_id}", {"parent_id": parent}),
            bob.patch(
                f"/guilds/{guild.id}/channels", [{"id": guild.channel_id, "parent_id": parent}]
            ),
        ):
            with pytest.raises(Refused) as refusal:
                await attempt
            assert refusal.value.code == 50035
            assert refusal.value.body["errors"]["parent_id"]["_errors"][0]["code"] == code
    with refused(400, 50035):
        await make(ada, guild, "inner", type=4, parent_id=hidden)


async def test_who_manages_a_category_fills_it_and_no_other(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    await let(ada, category, bob, Permission.MANAGE_CHANNELS)
    made = await make(bob, guild, "bobs", parent_id=category)
    assert made["parent_id"] == category
    with refused(403, 50013):
        await make(bob, guild, "outside")
    rules = [{"id": bob.id, "type": 1, "deny": "2048"}]
    with refused(403, 50013):
        await make(bob, guild, "mine", parent_id=category, permission_overwrites=rules)
    # Out of it he may take what he manages, but not bring in what he does not.
    with refused(403, 50013):
        await bob.patch(f"/channels/{guild.channel_id}", {"parent_id": category})


async def test_a_category_holds_fifty(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    category = await category_of(ada, guild)
    for number in range(49):
        await make(ada, guild, f"room {number}", parent_id=category)
    path = f"/channels/{guild.channel_id}"
    outcomes = await asyncio.gather(
        *(make(ada, guild, f"late {n}", parent_id=category) for n in range(3)),
        return_exceptions=True,
    )
    refusals = [one for one in outcomes if isinstance(one, Refused)]
    assert [one.code for one in refusals] == [50035, 50035]
    for attempt in (
        ada.patch(path, {"parent_id": category}),
        ada.patch(
            f"/guilds/{guild.id}/channels", [{"id": guild.channel_id, "parent_id": category}]
        ),
    ):
        with pytest.raises(Refused) as refusal:
            await attempt
        fault = refusal.value.body["errors"]["parent_id"]["_errors"][0]
        assert fault["code"] == "CHANNEL_PARENT_MAX_CHANNELS"


async def test_what_is_one_with_its_category_follows_it(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    synced = (await make(ada, guild, "synced", parent_id=category))["id"]
    apart = (await make(ada, guild, "apart", parent_id=category))["id"]
    await let(ada, apart, bob, Permission.ADD_REACTIONS)
    await bob.connect()
    async with unchanged_view(bob):
        await hide(ada, guild, category)
        for gone in (category, synced):
            await bob.gateway.expect("CHANNEL_DELETE", id=gone)
        with refused(404, 10003):
            await bob.say(synced, "still here?")
        await bob.say(apart, "I am")
    assert await rules_of(ada, synced) == await rules_of(ada, category)
    # By PATCH and DELETE alike.
    rules = [{"id": guild.id, "type": 0, "deny": bits(Permission.SEND_MESSAGES)}]
    await ada.patch(f"/channels/{category}", {"permission_overwrites": rules})
    await bob.gateway.expect("CHANNEL_CREATE", id=synced)
    with refused(403, 50013):
        await bob.say(synced, "hello")
    await ada.delete(f"/channels/{category}/permissions/{guild.id}")
    await bob.say(synced, "hello")
    # Once it has rules of its own it follows no more.
    await let(ada, synced, bob, Permission.ADD_REACTIONS)
    await hide(ada, guild, category)
    await bob.say(synced, "on my own")


async def test_a_new_channel_has_the_overwrites_of_its_category(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    await hide(ada, guild, category)
    await bob.connect()
    nothing_said: list[Any] = [{}, {"permission_overwrites": []}, {"permission_overwrites": None}]
    for more in nothing_said:
        made = await make(ada, guild, "closed", parent_id=category, **more)
        assert made["permission_overwrites"] == await rules_of(ada, category)
    await bob.heard_nothing("CHANNEL_CREATE")
    rules = [{"id": bob.id, "type": 1, "allow": HIDDEN}]
    made = await make(ada, guild, "open", parent_id=category, permission_overwrites=rules)
    await bob.gateway.expect("CHANNEL_CREATE", id=made["id"])


async def test_moving_keeps_the_overwrites_unless_they_are_to_be_locked(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    await hide(ada, guild, category)
    async with unchanged_view(bob):
        await ada.patch(f"/channels/{guild.channel_id}", {"parent_id": category})
    await bob.say(guild.channel_id, "still here")
    async with unchanged_view(bob):
        move = {"id": guild.channel_id, "parent_id": category, "lock_permissions": True}
        await ada.patch(f"/guilds/{guild.id}/channels", [move])
    with refused(404, 10003):
        await bob.say(guild.channel_id, "hello?")
    await ada.patch(f"/channels/{guild.channel_id}", {"permission_overwrites": []})
    await bob.say(guild.channel_id, "back")
    await ada.patch(f"/channels/{guild.channel_id}", {"lock_permissions": True})
    with refused(404, 10003):
        await bob.say(guild.channel_id, "hello?")


async def test_locking_asks_for_the_right_to_manage_permissions(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    await role_of(ada, guild, bob, Permission.MANAGE_CHANNELS)
    await ada.put(f"/channels/{category}/permissions/{ada.id}", {"type": 1, "deny": "2048"})
    move = {"id": guild.channel_id, "parent_id": category, "lock_permissions": True}
    with refused(403, 50013):
        await bob.patch(f"/guilds/{guild.id}/channels", [move])
    with refused(403, 50013):
        await bob.patch(f"/channels/{guild.channel_id}", {**move, "id": None})
    await bob.patch(f"/guilds/{guild.id}/channels", [{**move, "lock_permissions": False}])


async def test_deleting_a_category_leaves_what_was_in_it(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    deny = {"type": 0, "deny": bits(Permission.ADD_REACTIONS)}
    await ada.put(f"/channels/{category}/permissions/{guild.id}", deny)
    inside = await make(ada, guild, "inside", parent_id=category)
    await bob.connect()
    async with unchanged_view(bob):
        await ada.delete(f"/channels/{category}")
    told = await bob.gateway.expect("CHANNEL_UPDATE", id=inside["id"])
    assert told["parent_id"] is None
    assert told["permission_overwrites"] == inside["permission_overwrites"] != []
    await bob.gateway.expect("CHANNEL_DELETE", id=category)
    with refused(404, 10003):
        await ada.get(f"/channels/{category}")


async def test_channels_are_put_in_order_at_once(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    category = await category_of(ada, guild)
    second = (await make(ada, guild, "second"))["id"]
    third = (await make(ada, guild, "third"))["id"]
    await bob.connect()
    moves = [
        {"id": second, "position": 0},
        {"id": guild.channel_id, "position": 2, "parent_id": category},
        {"id": third, "position": 3},
    ]
    async with unchanged_view(bob):
        assert await ada.patch(f"/api/v10/guilds/{guild.id}/channels", moves) is None
    for moved in (second, guild.channel_id):
        await bob.gateway.expect("CHANNEL_UPDATE", id=moved)
    await bob.fence()
    updates = [f.d["id"] for f in bob.gateway.dispatches if f.t == "CHANNEL_UPDATE"]
    # The third was there already.
    assert sorted(updates) == sorted([second, guild.channel_id])
    listed = await ada.get(f"/channels/guild/{guild.id}")
    assert [one["id"] for one in listed] == [second, category, guild.channel_id, third]
    # Done twice it changes nothing.
    await ada.patch(f"/guilds/{guild.id}/channels", moves)
    await bob.heard_nothing("CHANNEL_UPDATE")


async def test_an_order_with_a_fault_is_refused_as_a_whole(
    town: Town, ada: Person, bob: Person
) -> None:
    guild, other = await town.guild(ada, bob), await town.guild(ada, name="Elsewhere")
    path = f"/guilds/{guild.id}/channels"
    good = {"id": guild.channel_id, "position": 7}
    for unknown in ("1", other.channel_id, guild.id):
        with refused(404, 10003):
            await ada.patch(path, [good, {"id": unknown, "position": 1}])
    assert (await ada.get(f"/channels/{guild.channel_id}"))["position"] == 0
    with refused(403, 50013):
        await bob.patch(path, [good])
    # Of what he can't see he is told that it is not there.
    await hide(ada, guild, guild.channel_id)
    with refused(404, 10003):
        await bob.patch(path, [good])
    faults: list[Any] = [[], [{"position": 1}], [{"id": guild.channel_id, "position": -1}], {}]
    for bad in faults:
        with refused(400, 50035):
            await ada.patch(path, bad)
    with refused(404, 10004):
        await (await town.person("eve")).patch(path, [good])


async def test_slow_mode_holds_in_announcements(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    news = await make(ada, guild, "news", type=5, rate_limit_per_user=60)
    await bob.say(news["id"], "one")
    with refused(429, 20016):
        await bob.say(news["id"], "two")


async def test_a_channel_goes_with_its_threads(
    town: Town, ada: Person, bob: Person, database_url: str
) -> None:
    guild = await town.guild(ada, bob)
    channel = f"/channels/{guild.channel_id}"
    thread = await ada.post(f"{channel}/threads", {"name": "aside", "type": 11})
    sent = await ada.say(thread["id"], "soon gone")
    await bob.connect()
    await bob.gateway.abort()
    await ada.say(thread["id"], "gone as well")
    await ada.delete(channel)
    after = await bob.resume(bob.gateway.session_id, bob.gateway.seq)
    await after.expect("RESUMED")
    await bob.fence()
    assert not [frame for frame in after.dispatches if b"gone as well" in frame.raw]
    conn = await asyncpg.connect(database_url)
    kept = await conn.fetchval(
        "SELECT count(*) FROM messages WHERE channel_id = $1", int(thread["id"])
    )
    await conn.close()
    assert kept == 0
    for attempt in (
        ada.get(f"/channels/{thread['id']}"),
        ada.get(f"/messages/{thread['id']}/{sent['id']}"),
        ada.say(thread["id"], "hello?"),
    ):
        with refused(404, 10003):
            await attempt
