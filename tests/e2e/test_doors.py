"""Ways round a door: a place of one's own, a body, a list or a letter shows nothing of others.

What each door says to whom is the matrix's work (test_matrix.py); here is what it can't say.
"""

from dataclasses import dataclass
from itertools import count

import msgspec
import pytest

from tests.support.expectations import RULES, TABLE, rules_of
from tests.support.matrix import NEVER, PLACEHOLDER
from tests.support.people import Person, Town, refused


@dataclass(frozen=True)
class Room:
    """A channel with a message in it, and the guild of both."""

    guild_id: str
    channel_id: str
    message_id: str


class Scene:
    """Ada and Mallory, who each rule something; Bob, who is with both; Eve, who is with nobody."""

    def __init__(self, town: Town, people: dict[str, Person]) -> None:
        self.town = town
        self.ada, self.bob = people["ada"], people["bob"]
        self.mallory, self.eve = people["mallory"], people["eve"]

    async def place(self, owner: Person, *members: Person) -> Room:
        """A private guild with a message of its owner."""
        made = await self.town.guild(owner, *members)
        await owner.patch(f"/guilds/{made.id}", {"discoverable": False})
        message = await owner.say(made.channel_id, "hello")
        return Room(made.id, made.channel_id, message["id"])


@pytest.fixture
async def scene(town: Town) -> Scene:
    names = ("ada", "bob", "mallory", "eve")
    return Scene(town, {name: await town.person(name) for name in names})


# A place of one's own is no way to the things of others.

_numbers = count()


async def elsewhere(scene: Scene) -> list[str]:
    """Channels in which Ada may do everything, and which the message is not in."""
    same = await scene.town.guild(scene.ada, scene.bob, name=f"Other {next(_numbers)}")
    sibling = await scene.ada.post("/channels", {"guild_id": same.id, "name": "sibling"})
    return [same.channel_id, sibling["id"], await scene.ada.direct(scene.bob)]


@pytest.mark.parametrize(
    "path",
    ["/messages/{}/{}", "/api/v10/channels/{}/messages/{}"],
)
async def test_a_message_is_not_reached_through_another_channel(scene: Scene, path: str) -> None:
    foreign = await scene.place(scene.mallory, scene.ada)
    own = await scene.place(scene.ada, scene.bob)
    letter_channel = await scene.mallory.direct(scene.bob)
    letter = await scene.mallory.say(letter_channel, "a letter")
    targets = [
        (scene.mallory, foreign.channel_id, foreign.message_id, "hello"),
        (scene.ada, own.channel_id, own.message_id, "hello"),
        (scene.mallory, letter_channel, letter["id"], "a letter"),
    ]
    for channel_id in await elsewhere(scene):
        for _, _, message_id, _ in targets:
            with refused(404, 10008):
                await scene.ada.get(path.format(channel_id, message_id))
            with refused(404, 10008):
                await scene.ada.patch(path.format(channel_id, message_id), {"content": "mine"})
            with refused(404, 10008):
                await scene.ada.delete(path.format(channel_id, message_id))
    for author, channel_id, message_id, content in targets:
        assert (await author.get(path.format(channel_id, message_id)))["content"] == content


@pytest.mark.parametrize(
    "path",
    ["/messages/{}/bulk-delete", "/api/v10/channels/{}/messages/bulk-delete"],
)
async def test_a_bulk_delete_reaches_its_own_channel_only(scene: Scene, path: str) -> None:
    """Ids of other channels among one's own are passed over, and nobody is told of them."""
    foreign = await scene.place(scene.mallory, scene.ada)
    await scene.ada.connect()
    for channel_id in (await elsewhere(scene))[:2]:
        own = await scene.ada.say(channel_id, "to be deleted")
        body = {"messages": [foreign.message_id, own["id"]]}
        await scene.ada.post(path.format(channel_id), body)
        told = await scene.ada.gateway.expect("MESSAGE_DELETE_BULK", channel_id=channel_id)
        assert told["ids"] == [own["id"]]
    where, which = foreign.channel_id, foreign.message_id
    assert (await scene.mallory.get(f"/messages/{where}/{which}"))["content"] == "hello"


async def test_the_anchor_of_a_page_shows_nothing_of_another_channel(scene: Scene) -> None:
    foreign = await scene.place(scene.mallory)
    own = await scene.place(scene.ada)
    for anchor in ("before", "after", "around"):
        query = {anchor: foreign.message_id}
        page = await scene.ada.get(f"/messages/channel/{own.channel_id}", **query)
        assert {message["channel_id"] for message in page} <= {own.channel_id}


async def test_the_path_outranks_the_body(scene: Scene) -> None:
    """What was checked is what is used, however many places name it."""
    foreign = await scene.place(scene.mallory, scene.ada)
    own = await scene.place(scene.ada)
    body = {"channel_id": foreign.channel_id, "content": "where?"}
    sent = await scene.ada.post(f"/api/v10/channels/{own.channel_id}/messages", body)
    assert sent["channel_id"] == own.channel_id
    wish = {"guild_id": foreign.guild_id, "name": "where"}
    made = await scene.ada.post(f"/api/v10/guilds/{own.guild_id}/channels", wish)
    assert made["guild_id"] == own.guild_id
    with refused(403, 50013):
        path = f"/api/v10/guilds/{foreign.guild_id}/channels"
        await scene.ada.post(path, {**wish, "guild_id": own.guild_id})


async def test_a_guild_is_not_handed_to_or_by_a_stranger(scene: Scene) -> None:
    own = await scene.place(scene.ada, scene.bob)
    path = f"/guilds/{own.guild_id}"
    with refused(404, 10007):
        await scene.ada.patch(path, {"owner_id": scene.mallory.id})
    with refused(403, 50013):
        await scene.bob.patch(path, {"owner_id": scene.bob.id})
    with refused(404, 10004):
        await scene.mallory.patch(path, {"owner_id": scene.mallory.id})
    assert (await scene.ada.get(path))["owner_id"] == scene.ada.id


# Letters between two.


async def through_every_door(actor: Person, channel_id: str, message_id: str) -> list[str]:
    """Try every route of a channel; what did not say that there is none."""
    names = {"channel_id": channel_id, "message_id": message_id}
    let_in = []
    for name, row in TABLE.items():
        for rule in rules_of(name) if name in RULES else ():
            if rule.scope != "channel":
                continue
            for path in row.paths:
                body = msgspec.json.encode(rule.body).decode() if rule.body else ""
                filled, sent = (
                    PLACEHOLDER.sub(lambda found: names.get(found[1], NEVER), text)
                    for text in (path, body)
                )
                headers = {"Content-Type": "application/json"} if sent else {}
                answer = await actor.call(
                    row.method, filled, content=sent.encode() or None, headers=headers
                )
                if (answer.status, answer.json().get("code")) != (404, 10003):
                    let_in.append(f"{row.method} {path}: {answer}")
    return let_in


async def test_a_direct_message_is_not_there_for_a_third(scene: Scene) -> None:
    channel_id = await scene.ada.direct(scene.bob)
    letter = await scene.ada.say(channel_id, "between us")
    for third in (scene.eve, scene.mallory):
        assert not await through_every_door(third, channel_id, letter["id"])
    seen = await scene.bob.get(f"/messages/{channel_id}/{letter['id']}")
    assert seen["content"] == "between us"


async def test_neither_of_two_governs_their_channel(scene: Scene) -> None:
    channel_id = await scene.ada.direct(scene.bob)
    letter = await scene.ada.say(channel_id, "mine")
    for person in (scene.ada, scene.bob):
        with refused(400, 50024):
            await person.patch(f"/channels/{channel_id}", {"name": "ours"})
        with refused(400, 50024):
            await person.delete(f"/channels/{channel_id}")
        with refused(403, 50013):
            await person.post(f"/messages/{channel_id}/bulk-delete", {"messages": [letter["id"]]})
    with refused(403, 50013):
        await scene.bob.delete(f"/messages/{channel_id}/{letter['id']}")
    with refused(403, 50005):
        await scene.bob.patch(f"/messages/{channel_id}/{letter['id']}", {"content": "yours"})


# Who is in no longer.


async def test_who_has_left_is_a_stranger_also_to_what_was_their_own(scene: Scene) -> None:
    room = await scene.place(scene.ada, scene.bob)
    said = await scene.bob.say(room.channel_id, "my own words")
    await scene.bob.post(f"/guilds/{room.guild_id}/leave")
    assert not await through_every_door(scene.bob, room.channel_id, said["id"])


async def test_no_list_shows_what_is_not_ones_own(scene: Scene) -> None:
    place = await scene.place(scene.ada, scene.bob)
    await scene.ada.say(await scene.ada.direct(scene.bob), "a letter")
    for path in ("/guilds", "/guilds/my", "/users/@me/channels", "/api/v10/users/@me/guilds"):
        assert await scene.eve.get(path) == []
    sessions = await scene.eve.get("/auth/sessions")
    assert [session["id"] for session in sessions] == [scene.eve.session_id]
    seen = await scene.eve.call("GET", f"/users/{scene.ada.id}")
    for secret in (scene.ada.email, place.guild_id, scene.ada.session_id):
        assert secret.encode() not in seen.content
