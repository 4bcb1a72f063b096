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


async def delete_channel(scene: Scene) -> None:
    await scene.ada.delete(f"/channels/{scene.guild.channel_id}")


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


SCENARIOS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "GUILD_CREATE": join_and_create,
    "GUILD_UPDATE": rename_guild,
    "GUILD_DELETE": delete_and_leave_guilds,
    "GUILD_MEMBER_ADD": come,
    "GUILD_MEMBER_REMOVE": come_and_go,
    "GUILD_MEMBER_UPDATE": rename_friend,
    "CHANNEL_CREATE": create_channels,
    "CHANNEL_UPDATE": change_channel,
    "CHANNEL_DELETE": delete_channel,
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
