"""The sync law for every event type: READY and the events after it equal a fresh READY."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from internal.events import Event
from tests.support.gateway import Op
from tests.support.people import Guild, Person, Town
from tests.support.reducer import EFFECTS, differences, unchanged_view, view_of


@dataclass
class Scene:
    """Ada owns a guild, Bob is in it and watches, Eve is not."""

    ada: Person
    bob: Person
    eve: Person
    guild: Guild


@pytest.fixture
async def scene(town: Town, ada: Person, bob: Person, eve: Person) -> Scene:
    return Scene(ada, bob, eve, await town.guild(ada, bob))


async def join_and_create(scene: Scene) -> None:
    other = await scene.ada.post("/guilds", {"name": "Reading room", "discoverable": True})
    await scene.bob.post(f"/guilds/{other['id']}/join")
    await scene.bob.post("/guilds", {"name": "Bob's own"})


async def rename_guild(scene: Scene) -> None:
    body = {"name": "Coffee house", "description": "No tea any more"}
    await scene.ada.patch(f"/guilds/{scene.guild.id}", body)
    await scene.ada.patch(f"/guilds/{scene.guild.id}", {"owner_id": scene.bob.id})


async def delete_and_leave_guilds(scene: Scene) -> None:
    other = await scene.ada.post("/guilds", {"name": "Waiting room", "discoverable": True})
    await scene.bob.post(f"/guilds/{other['id']}/join")
    await scene.bob.post(f"/guilds/{other['id']}/leave")
    await scene.ada.delete(f"/guilds/{scene.guild.id}")


async def come(scene: Scene) -> None:
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")


async def come_and_go(scene: Scene) -> None:
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")
    await scene.eve.post(f"/guilds/{scene.guild.id}/leave")


async def rename_friend(scene: Scene) -> None:
    await scene.ada.patch("/users/@me", {"global_name": "Countess"})


async def create_channels(scene: Scene) -> None:
    body = {"guild_id": scene.guild.id, "name": "kitchen", "topic": "What is cooking"}
    await scene.ada.post("/channels", body)
    await scene.bob.direct(scene.ada)
    await scene.eve.direct(scene.bob)


async def change_channel(scene: Scene) -> None:
    await scene.ada.patch(f"/channels/{scene.guild.channel_id}", {"name": "hall", "topic": "New"})
    body = {"guild_id": scene.guild.id, "name": "rooms", "type": 4}
    category = await scene.ada.post("/channels", body)
    move = {"id": scene.guild.channel_id, "parent_id": category["id"], "position": 5}
    await scene.ada.patch(f"/guilds/{scene.guild.id}/channels", [move])
    path = f"/channels/{category['id']}/permissions/{scene.guild.id}"
    await scene.ada.put(path, {"type": 0, "deny": "1024"})
    await scene.ada.delete(path)
    await scene.ada.delete(f"/channels/{category['id']}")


async def delete_channel(scene: Scene) -> None:
    await scene.ada.delete(f"/channels/{scene.guild.channel_id}")


async def add_to_group(scene: Scene) -> None:
    group = await group_of_three(scene)
    await scene.eve.put(f"/channels/{group}/recipients/{await carols_id(scene)}")


async def remove_from_group(scene: Scene) -> None:
    await add_to_group(scene)
    group = await group_of_three(scene)
    await scene.ada.delete(f"/channels/{group}/recipients/{scene.eve.id}")
    await scene.ada.delete(f"/channels/{group}")


async def group_of_three(scene: Scene) -> str:
    body = {"recipients": [scene.bob.id, scene.eve.id]}
    return str((await scene.ada.post("/users/@me/channels", body))["id"])


async def carols_id(scene: Scene) -> str:
    return (await scene.ada.town.person("carol")).id


async def talk(scene: Scene) -> None:
    await scene.ada.say(scene.guild.channel_id, "hello")
    await scene.bob.say(scene.guild.channel_id, "hello to you")
    direct = await scene.ada.direct(scene.bob)
    await scene.ada.say(direct, "psst")


async def edit(scene: Scene) -> None:
    sent = await scene.ada.say(scene.guild.channel_id, "helo")
    path = f"/messages/{scene.guild.channel_id}/{sent['id']}"
    await scene.ada.patch(path, {"content": "hello"})


async def take_back(scene: Scene) -> None:
    first = await scene.ada.say(scene.guild.channel_id, "one")
    await scene.ada.say(scene.guild.channel_id, "two")
    await scene.ada.delete(f"/messages/{scene.guild.channel_id}/{first['id']}")
    last = await scene.ada.say(scene.guild.channel_id, "three")
    await scene.ada.delete(f"/messages/{scene.guild.channel_id}/{last['id']}")


async def sweep(scene: Scene) -> None:
    sent = [await scene.bob.say(scene.guild.channel_id, f"advert {n}") for n in range(3)]
    await scene.ada.say(scene.guild.channel_id, "I clean up")
    path = f"/messages/{scene.guild.channel_id}/bulk-delete"
    await scene.ada.post(path, {"messages": [message["id"] for message in sent]})


async def change_oneself(scene: Scene) -> None:
    await scene.bob.patch("/users/@me", {"global_name": "Bobby", "bio": "I build things"})


async def type_something(scene: Scene) -> None:
    await scene.ada.post(f"/channels/{scene.guild.channel_id}/typing")


async def want_quiet(scene: Scene) -> None:
    gateway = await scene.ada.watch()
    await gateway.send(Op.UPDATE_PRESENCE, {"status": "dnd"})


async def ban(scene: Scene) -> None:
    """Bob watches somebody be sent away, with what they said, and forgiven."""
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")
    await scene.eve.say(scene.guild.channel_id, "buy this")
    path = f"/guilds/{scene.guild.id}/bans/{scene.eve.id}"
    await scene.ada.put(path, {"delete_message_seconds": 3600})
    await scene.ada.delete(path)


async def make_roles(scene: Scene) -> None:
    path = f"/guilds/{scene.guild.id}"
    role = await scene.ada.post(f"{path}/roles", {"name": "Cook", "color": 255, "hoist": True})
    await scene.ada.put(f"{path}/members/{scene.bob.id}/roles/{role['id']}")


async def change_roles(scene: Scene) -> None:
    path = f"/guilds/{scene.guild.id}/roles"
    cook, maid = [await scene.ada.post(path, {"name": name}) for name in ("Cook", "Maid")]
    await scene.ada.patch(path, [{"id": maid["id"], "position": 2}])
    await scene.ada.patch(f"{path}/{cook['id']}", {"name": "Chef", "permissions": "8"})
    await scene.ada.patch(f"{path}/{scene.guild.id}", {"permissions": "1024"})


async def delete_role(scene: Scene) -> None:
    """Bob has the role, and a channel speaks of it."""
    path = f"/guilds/{scene.guild.id}"
    role = await scene.ada.post(f"{path}/roles", {"name": "Cook"})
    await scene.ada.put(f"{path}/members/{scene.bob.id}/roles/{role['id']}")
    overwrite = {"type": 0, "allow": "2048", "deny": "0"}
    await scene.ada.put(f"/channels/{scene.guild.channel_id}/permissions/{role['id']}", overwrite)
    await scene.ada.delete(f"{path}/roles/{role['id']}")


async def hand_over(scene: Scene) -> None:
    """Who becomes the owner may read what was done."""
    await scene.ada.patch(f"/guilds/{scene.guild.id}", {"owner_id": scene.bob.id})


async def start_threads(scene: Scene) -> None:
    """From a message, without one, and a private one that Bob is brought into."""
    channel_id, ada = scene.guild.channel_id, scene.ada
    sent = await ada.say(channel_id, "Who bakes?")
    await ada.post(
        f"/channels/{channel_id}/messages/{sent['id']}/threads", {"name": "The baking of bread"}
    )
    public = {"name": "Open", "type": 11}
    thread = await ada.post(f"/channels/{channel_id}/threads", public)
    await ada.say(thread["id"], "one")
    await scene.bob.say(thread["id"], "two")
    secret = await ada.post(f"/channels/{channel_id}/threads", {"name": "Secret"})
    await ada.say(secret["id"], "nobody here")
    await ada.put(f"/channels/{secret['id']}/thread-members/{scene.bob.id}")
    await ada.say(secret["id"], "now somebody is")


async def change_threads(scene: Scene) -> None:
    """Rename one, archive another and take it out again."""
    channel_id, ada = scene.guild.channel_id, scene.ada
    thread = await ada.post(f"/channels/{channel_id}/threads", {"name": "Open", "type": 11})
    path = f"/channels/{thread['id']}"
    sent = await scene.bob.say(thread["id"], "I am in it")
    await ada.patch(path, {"name": "Renamed", "rate_limit_per_user": 5})
    await ada.patch(path, {"archived": True})
    await ada.delete(f"/messages/{thread['id']}/{sent['id']}")
    await ada.patch(path, {"archived": False})
    await ada.patch(path, {"archived": True})
    await ada.say(thread["id"], "and it is open again")


async def delete_thread(scene: Scene) -> None:
    channel_id, ada = scene.guild.channel_id, scene.ada
    sent = await ada.say(channel_id, "Who bakes?")
    path = f"/channels/{channel_id}/messages/{sent['id']}/threads"
    thread = await ada.post(path, {"name": "Short"})
    await ada.delete(f"/channels/{thread['id']}")


async def come_into_threads_and_go(scene: Scene) -> None:
    channel_id, ada, bob = scene.guild.channel_id, scene.ada, scene.bob
    public = await ada.post(f"/channels/{channel_id}/threads", {"name": "Open", "type": 11})
    secret = await ada.post(f"/channels/{channel_id}/threads", {"name": "Secret"})
    await bob.put(f"/channels/{public['id']}/thread-members/@me")
    await ada.put(f"/channels/{secret['id']}/thread-members/{bob.id}")
    await ada.delete(f"/channels/{secret['id']}/thread-members/{bob.id}")
    await ada.say(secret["id"], "he is gone")
    await bob.delete(f"/channels/{public['id']}/thread-members/@me")
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")
    await scene.eve.say(public["id"], "I came for this")
    await scene.eve.post(f"/guilds/{scene.guild.id}/leave")


async def invite(scene: Scene) -> None:
    """Who becomes the owner hears of codes: of one that is used up, too."""
    await hand_over(scene)
    path = f"/channels/{scene.guild.channel_id}/invites"
    code = (await scene.bob.post(path, {"max_uses": 1}))["code"]
    await scene.eve.post(f"/invites/{code}")


async def report(scene: Scene) -> None:
    await hand_over(scene)
    sent = await scene.ada.say(scene.guild.channel_id, "I want it back")
    path = f"/channels/{scene.guild.channel_id}/messages/{sent['id']}/report"
    made = await scene.bob.post(path, {"reason": "whining"})
    path = f"/guilds/{scene.guild.id}/reports/{made['id']}"
    await scene.bob.patch(path, {"status": "dismissed"})


async def moderate(scene: Scene) -> None:
    """Ada is timed out for what she says, and shown to say."""
    await hand_over(scene)
    path = f"/guilds/{scene.guild.id}/auto-moderation/rules"
    rule = {
        "name": "manners",
        "event_type": 1,
        "trigger_type": 1,
        "trigger_metadata": {"keyword_filter": ["darn"]},
        "actions": [
            {"type": 2, "metadata": {"channel_id": scene.guild.channel_id}},
            {"type": 3, "metadata": {"duration_seconds": 60}},
        ],
    }
    made = await scene.bob.post(path, rule)
    watching = await scene.bob.watch()
    await scene.bob.patch(f"{path}/{made['id']}", {"enabled": True})
    await scene.ada.say(scene.guild.channel_id, "darn")
    for _ in range(2):
        await watching.expect("AUTO_MODERATION_ACTION_EXECUTION")
    await scene.bob.delete(f"{path}/{made['id']}")


SCENARIOS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "GUILD_CREATE": join_and_create,
    "GUILD_UPDATE": rename_guild,
    "GUILD_DELETE": delete_and_leave_guilds,
    "GUILD_MEMBER_ADD": come,
    "GUILD_MEMBER_REMOVE": come_and_go,
    "GUILD_MEMBER_UPDATE": rename_friend,
    "GUILD_ROLE_CREATE": make_roles,
    "GUILD_ROLE_UPDATE": change_roles,
    "GUILD_ROLE_DELETE": delete_role,
    "GUILD_BAN_ADD": ban,
    "GUILD_BAN_REMOVE": ban,
    "GUILD_AUDIT_LOG_ENTRY_CREATE": hand_over,
    "INVITE_CREATE": invite,
    "INVITE_DELETE": invite,
    "MESSAGE_REPORT_CREATE": report,
    "MESSAGE_REPORT_UPDATE": report,
    "AUTO_MODERATION_RULE_CREATE": moderate,
    "AUTO_MODERATION_RULE_UPDATE": moderate,
    "AUTO_MODERATION_RULE_DELETE": moderate,
    "AUTO_MODERATION_ACTION_EXECUTION": moderate,
    "CHANNEL_CREATE": create_channels,
    "CHANNEL_UPDATE": change_channel,
    "CHANNEL_DELETE": delete_channel,
    "CHANNEL_RECIPIENT_ADD": add_to_group,
    "CHANNEL_RECIPIENT_REMOVE": remove_from_group,
    "THREAD_CREATE": start_threads,
    "THREAD_UPDATE": change_threads,
    "THREAD_DELETE": delete_thread,
    "THREAD_MEMBERS_UPDATE": come_into_threads_and_go,
    "THREAD_MEMBER_UPDATE": change_threads,
    "MESSAGE_CREATE": talk,
    "MESSAGE_UPDATE": edit,
    "MESSAGE_DELETE": take_back,
    "MESSAGE_DELETE_BULK": sweep,
    "USER_UPDATE": change_oneself,
    "TYPING_START": type_something,
    "PRESENCE_UPDATE": want_quiet,
}


def events(kind: type[Event] = Event) -> Iterator[type[Event]]:
    """Every event that the server defines; the fixtures have imported all of it."""
    for child in kind.__subclasses__():
        yield child
        yield from events(child)


DISPATCHED = sorted({kind.type for kind in events() if kind.type.isupper()})


def test_every_event_of_the_server_has_a_scenario() -> None:
    assert set(DISPATCHED) == set(SCENARIOS)
    assert set(DISPATCHED) <= set(EFFECTS)


@pytest.mark.parametrize("kind", sorted(SCENARIOS))
async def test_the_event_tells_all_that_has_changed(scene: Scene, kind: str) -> None:
    async with unchanged_view(scene.bob, scene.ada) as (bobs, _):
        await SCENARIOS[kind](scene)
        await bobs.expect(kind)


async def test_a_resumed_connection_knows_as_much_as_a_fresh_one(scene: Scene) -> None:
    """What happened in the gap is told on resume: the law holds over a broken connection."""
    await scene.bob.connect()
    before = scene.bob.gateway
    await before.abort()
    for act in (talk, create_channels, change_channel, come, rename_friend, edit, sweep):
        await act(scene)
    after = await scene.bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    await scene.bob.fence()
    fresh = await scene.bob.watch()

    told = view_of(before, after).state()
    assert not list(differences(told, view_of(fresh).state()))


async def test_a_friend_of_letters_is_told_of_a_new_name(
    ada: Person, bob: Person, eve: Person
) -> None:
    """Bob and Ada share no guild, only a direct message."""
    await ada.direct(bob)
    async with unchanged_view(bob):
        await ada.patch("/users/@me", {"global_name": "Countess"})
        await eve.patch("/users/@me", {"global_name": "Nobody"})
