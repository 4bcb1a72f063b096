"""Who may do what to what: every route of the table, for everyone, to every kind of object."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import msgspec
import pytest

from internal.routes.catalogue import routes
from internal.routes.route import Route
from tests.support.people import Answer, Api, Person, Town, refused

PLACEHOLDER = re.compile(r"\{(\w+)\}")

# Answers: a status, or a refusal as its status and code.
Outcome = int | tuple[int, int]

NOBODY: Outcome = (401, 40001)
NO_CHANNEL: Outcome = (404, 10003)
NO_GUILD: Outcome = (404, 10004)
NO_MEMBER: Outcome = (404, 10007)
NO_MESSAGE: Outcome = (404, 10008)
NO_USER: Outcome = (404, 10013)
NO_SESSION: Outcome = (404, 10020)
NOT_THE_AUTHOR: Outcome = (403, 50005)
FORBIDDEN: Outcome = (403, 50013)
OWNER_STAYS: Outcome = (400, 50055)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a route answers. `missing`: the object was deleted, or has never been there."""

    anonymous: Outcome = NOBODY
    stranger: Outcome
    member: Outcome
    owner: Outcome
    missing: Outcome
    body: object = None


def everyone(outcome: Outcome, body: object = None) -> Rule:
    """A route about oneself: whoever is signed in may use it."""
    return Rule(stranger=outcome, member=outcome, owner=outcome, missing=outcome, body=body)


def public(outcome: Outcome, body: object = None) -> Rule:
    """A route for anybody."""
    return Rule(
        anonymous=outcome,
        stranger=outcome,
        member=outcome,
        owner=outcome,
        missing=outcome,
        body=body,
    )


def guild(member: Outcome, owner: Outcome, body: object = None) -> Rule:
    """A route of a guild, which is not there for strangers."""
    return Rule(stranger=NO_GUILD, member=member, owner=owner, missing=NO_GUILD, body=body)


def channel(member: Outcome, owner: Outcome, body: object = None) -> Rule:
    """A route of a channel, which is not there for strangers."""
    return Rule(stranger=NO_CHANNEL, member=member, owner=owner, missing=NO_CHANNEL, body=body)


# By the operation's own path. `owner` is the owner of the guild, author of its message, and whose
# session and account the ids name; `member` is somebody else in it.
RULES: dict[str, Rule] = {
    "POST /auth/register": public((400, 50035), {}),
    "POST /auth/login": public((401, 40011), {"email": "a@example.org", "password": "x"}),
    "POST /auth/refresh": public(NOBODY, {"refresh_token": "x"}),
    "POST /auth/logout": everyone(204),
    "GET /auth/sessions": everyone(200),
    "DELETE /auth/sessions/{session_id}": Rule(
        stranger=NO_SESSION, member=NO_SESSION, owner=204, missing=NO_SESSION
    ),
    "POST /auth/password": everyone((400, 50035), {"password": "x", "new_password": "long enough"}),
    "POST /auth/setup": everyone((403, 40014), {"secret": "x"}),
    # Owning a guild makes nobody an administrator of the server.
    "POST /auth/invites": everyone(FORBIDDEN, {}),
    "GET /auth/invites": everyone(FORBIDDEN),
    "DELETE /auth/invites/{invite_id}": everyone(FORBIDDEN),
    "PUT /admin/users/{user_id}/role": everyone(FORBIDDEN, {"role": "admin"}),
    "GET /users/@me": everyone(200),
    "PATCH /users/@me": everyone(200, {"bio": "here"}),
    "GET /users/{user_id}": Rule(stranger=200, member=200, owner=200, missing=NO_USER),
    "POST /guilds": everyone(201, {"name": "Another"}),
    "GET /guilds": everyone(200),
    "GET /guilds/my": everyone(200),
    "GET /guilds/{guild_id}": guild(200, 200),
    "PATCH /guilds/{guild_id}": guild(FORBIDDEN, 200, {"name": "Renamed"}),
    "DELETE /guilds/{guild_id}": guild(FORBIDDEN, 204),
    # The guild is no public one.
    "POST /guilds/{guild_id}/join": guild(200, 200),
    "POST /guilds/{guild_id}/leave": guild(204, OWNER_STAYS),
    "DELETE /users/@me/guilds/{guild_id}": guild(204, OWNER_STAYS),
    "GET /guilds/{guild_id}/members": guild(200, 200),
    "GET /guilds/{guild_id}/members/{user_id}": guild(200, 200),
    "POST /channels": guild(FORBIDDEN, 201, {"guild_id": "{guild_id}", "name": "hall"}),
    "GET /channels/guild/{guild_id}": guild(200, 200),
    "GET /channels/{channel_id}": channel(200, 200),
    "PATCH /channels/{channel_id}": channel(FORBIDDEN, 200, {"name": "hall"}),
    "DELETE /channels/{channel_id}": channel(FORBIDDEN, 200),
    "POST /users/@me/channels": Rule(
        stranger=200,
        member=200,
        owner=(403, 50007),
        missing=NO_USER,
        body={"recipient_id": "{user_id}"},
    ),
    "GET /users/@me/channels": everyone(200),
    "POST /channels/{channel_id}/typing": channel(204, 204),
    "POST /messages": channel(201, 201, {"channel_id": "{channel_id}", "content": "hello"}),
    "GET /messages/channel/{channel_id}": channel(200, 200),
    "GET /messages/{channel_id}/{message_id}": channel(200, 200),
    "PATCH /messages/{channel_id}/{message_id}": channel(NOT_THE_AUTHOR, 200, {"content": "new"}),
    "DELETE /messages/{channel_id}/{message_id}": channel(FORBIDDEN, 204),
    "POST /messages/{channel_id}/bulk-delete": channel(
        FORBIDDEN, 204, {"messages": ["{message_id}"]}
    ),
    "GET /gateway": public((426, 90005)),
    "GET /live": public(200),
    "GET /ready": public(200),
}

TABLE = {f"{row.method} {row.paths[0]}": row for row in routes()}
NESTED = {path for row in routes() for path in row.paths if len(PLACEHOLDER.findall(path)) > 1}


@dataclass
class Place:
    """Ids of things that belong together, and who is who there."""

    ids: dict[str, str]
    owner: Person | None = None
    members: list[Person] = field(default_factory=list)

    def outcome(self, rule: Rule, actor: Api) -> Outcome:
        if not isinstance(actor, Person):
            return rule.anonymous
        if self.owner is None:
            return rule.missing
        if actor is self.owner:
            return rule.owner
        return rule.member if actor in self.members else rule.stranger

    def fill(self, template: str) -> str:
        return PLACEHOLDER.sub(lambda found: self.ids[found[1]], template)


class Scene:
    """Ada's guild with Bob in it, Mallory's guild with nobody else, and Eve, who is in none."""

    def __init__(self, town: Town, people: dict[str, Person]) -> None:
        self.town = town
        self.ada, self.bob = people["ada"], people["bob"]
        self.mallory, self.eve = people["mallory"], people["eve"]
        # The owners act last: what they do may end the object.
        self.actors: list[Api] = [town.stranger, self.eve, self.bob, self.mallory, self.ada]
        self.never = Place(dict.fromkeys(_NAMES, "175928847299117063"))

    async def place(self, owner: Person, *members: Person) -> Place:
        """A private guild with a message of its owner; a session of the owner's."""
        made = await self.town.guild(owner, *members)
        await owner.patch(f"/guilds/{made.id}", {"discoverable": False})
        message = await owner.say(made.channel_id, "hello")
        other_login = Person(self.town, owner.username)
        await other_login.login()
        ids = {
            "guild_id": made.id,
            "channel_id": made.channel_id,
            "message_id": message["id"],
            "user_id": owner.id,
            "session_id": other_login.session_id,
            "invite_id": message["id"],
        }
        return Place(ids, owner, list(members))

    async def deleted(self) -> Place:
        """A place that Ada had, with Bob: everything in it is gone."""
        place = await self.place(self.ada, self.bob)
        await self.ada.delete(f"/auth/sessions/{place.ids['session_id']}")
        await self.ada.delete(f"/guilds/{place.ids['guild_id']}")
        # Accounts can't be deleted yet.
        return Place({**place.ids, "user_id": self.never.ids["user_id"]})


_NAMES = ("guild_id", "channel_id", "message_id", "user_id", "session_id", "invite_id")


@pytest.fixture
async def scene(town: Town) -> Scene:
    names = ("ada", "bob", "mallory", "eve")
    return Scene(town, {name: await town.person(name) for name in names})


def test_every_route_has_an_expectation() -> None:
    assert set(RULES) == set(TABLE)


def test_what_is_for_anybody_is_said_to_be() -> None:
    for name, row in TABLE.items():
        assert (RULES[name].anonymous != NOBODY) == row.is_public or name == "POST /auth/refresh"


@pytest.mark.parametrize("tag", sorted({row.tag for row in TABLE.values()}))
async def test_everyone_gets_what_the_rules_say(scene: Scene, tag: str) -> None:
    wrong: list[str] = []
    gone = await scene.deleted()
    for name, row in TABLE.items():
        if row.tag == tag:
            for path in row.paths:
                places = {
                    "Ada's": await scene.place(scene.ada, scene.bob),
                    "Mallory's": await scene.place(scene.mallory),
                    "deleted": gone,
                    "nonexistent": scene.never,
                }
                wrong += [fault async for fault in faults(scene, name, row, path, places)]
    assert not wrong, "\n".join(wrong)


async def faults(
    scene: Scene, name: str, row: Route, path: str, places: dict[str, Place]
) -> AsyncIterator[str]:
    rule = RULES[name]
    for kind, place in places.items():
        refusals: dict[str, bytes] = {}
        for actor in sorted(scene.actors, key=lambda actor: actor is place.owner):
            answer = await act(row, path, rule, place, actor)
            got: Outcome = answer.status
            if answer.status >= 400:
                got = (answer.status, answer.json()["code"])
            who = actor.username if isinstance(actor, Person) else "nobody"
            wanted = place.outcome(rule, actor)
            if got != wanted:
                yield f"{row.method} {path}, {kind} object, by {who}: {got}, not {wanted}"
            if wanted == rule.missing and isinstance(wanted, tuple) and wanted[0] == 404:
                refusals[who] = answer.content
        if len(set(refusals.values())) > 1:
            yield f"{row.method} {path}, {kind} object: refusals differ: {refusals}"


async def act(row: Route, path: str, rule: Rule, place: Place, actor: Api) -> Answer:
    content = None
    if rule.body is not None:
        content = place.fill(msgspec.json.encode(rule.body).decode()).encode()
    answer = await actor.call(row.method, place.fill(path), content=content)
    if path == "/auth/logout" and isinstance(actor, Person):
        await actor.login()
    return answer


# A place of one's own is no way to the things of others.


def test_every_nested_id_has_a_test() -> None:
    assert {
        "/guilds/{guild_id}/members/{user_id}",
        "/api/v10/guilds/{guild_id}/members/{user_id}",
        "/messages/{channel_id}/{message_id}",
        "/api/v10/channels/{channel_id}/messages/{message_id}",
    } == NESTED


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
        (scene.mallory, foreign.ids["channel_id"], foreign.ids["message_id"], "hello"),
        (scene.ada, own.ids["channel_id"], own.ids["message_id"], "hello"),
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
        body = {"messages": [foreign.ids["message_id"], own["id"]]}
        await scene.ada.post(path.format(channel_id), body)
        told = await scene.ada.gateway.expect("MESSAGE_DELETE_BULK", channel_id=channel_id)
        assert told["ids"] == [own["id"]]
    where, which = foreign.ids["channel_id"], foreign.ids["message_id"]
    assert (await scene.mallory.get(f"/messages/{where}/{which}"))["content"] == "hello"


async def test_the_anchor_of_a_page_shows_nothing_of_another_channel(scene: Scene) -> None:
    foreign = await scene.place(scene.mallory)
    own = await scene.place(scene.ada)
    for anchor in ("before", "after", "around"):
        query = {anchor: foreign.ids["message_id"]}
        page = await scene.ada.get(f"/messages/channel/{own.ids['channel_id']}", **query)
        assert {message["channel_id"] for message in page} <= {own.ids["channel_id"]}


@pytest.mark.parametrize("path", ["/guilds/{}/members/{}", "/api/v10/guilds/{}/members/{}"])
async def test_a_member_of_another_guild_is_no_member_here(scene: Scene, path: str) -> None:
    own = await scene.place(scene.ada, scene.bob)
    await scene.place(scene.mallory, scene.bob)
    for outsider in (scene.mallory.id, scene.eve.id, scene.never.ids["user_id"]):
        with refused(404, 10007):
            await scene.ada.get(path.format(own.ids["guild_id"], outsider))


async def test_the_path_outranks_the_body(scene: Scene) -> None:
    """What was checked is what is used, however many places name it."""
    foreign = await scene.place(scene.mallory, scene.ada)
    own = await scene.place(scene.ada)
    body = {"channel_id": foreign.ids["channel_id"], "content": "where?"}
    sent = await scene.ada.post(f"/api/v10/channels/{own.ids['channel_id']}/messages", body)
    assert sent["channel_id"] == own.ids["channel_id"]
    wish = {"guild_id": foreign.ids["guild_id"], "name": "where"}
    made = await scene.ada.post(f"/api/v10/guilds/{own.ids['guild_id']}/channels", wish)
    assert made["guild_id"] == own.ids["guild_id"]
    with refused(403, 50013):
        path = f"/api/v10/guilds/{foreign.ids['guild_id']}/channels"
        await scene.ada.post(path, {**wish, "guild_id": own.ids["guild_id"]})


async def test_a_guild_is_not_handed_to_or_by_a_stranger(scene: Scene) -> None:
    own = await scene.place(scene.ada, scene.bob)
    path = f"/guilds/{own.ids['guild_id']}"
    with refused(404, 10007):
        await scene.ada.patch(path, {"owner_id": scene.mallory.id})
    with refused(403, 50013):
        await scene.bob.patch(path, {"owner_id": scene.bob.id})
    with refused(404, 10004):
        await scene.mallory.patch(path, {"owner_id": scene.mallory.id})
    assert (await scene.ada.get(path))["owner_id"] == scene.ada.id


# Letters between two.


async def test_a_direct_message_is_not_there_for_a_third(scene: Scene) -> None:
    channel_id = await scene.ada.direct(scene.bob)
    letter = await scene.ada.say(channel_id, "between us")
    ids = {"channel_id": channel_id, "message_id": letter["id"]}
    place = Place({**scene.never.ids, **ids})
    wrong = []
    for name, row in TABLE.items():
        rule = RULES[name]
        if rule.missing != NO_CHANNEL:
            continue
        for path in row.paths:
            for actor in (scene.eve, scene.mallory):
                answer = await act(row, path, rule, place, actor)
                if (answer.status, answer.json()["code"]) != NO_CHANNEL:
                    wrong.append(f"{row.method} {path}: {answer}")
    assert not wrong, "\n".join(wrong)
    assert (await scene.bob.get(f"/messages/{channel_id}/{letter['id']}"))[
        "content"
    ] == "between us"


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


async def test_who_has_left_is_a_stranger_everywhere(scene: Scene) -> None:
    place = await scene.place(scene.ada, scene.bob)
    said = await scene.bob.say(place.ids["channel_id"], "my own words")
    await scene.bob.post(f"/guilds/{place.ids['guild_id']}/leave")
    left = Place({**place.ids, "message_id": said["id"]})
    wrong = []
    for name, row in TABLE.items():
        rule = RULES[name]
        if rule.missing not in {NO_CHANNEL, NO_GUILD}:
            continue
        for path in row.paths:
            answer = await act(row, path, rule, left, scene.bob)
            if (answer.status, answer.json()["code"]) != rule.missing:
                wrong.append(f"{row.method} {path}: {answer}")
    assert not wrong, "\n".join(wrong)


async def test_no_list_shows_what_is_not_ones_own(scene: Scene) -> None:
    place = await scene.place(scene.ada, scene.bob)
    await scene.ada.say(await scene.ada.direct(scene.bob), "a letter")
    for path in ("/guilds", "/guilds/my", "/users/@me/channels", "/api/v10/users/@me/guilds"):
        assert await scene.eve.get(path) == []
    sessions = await scene.eve.get("/auth/sessions")
    assert [session["id"] for session in sessions] == [scene.eve.session_id]
    seen = await scene.eve.call("GET", f"/users/{scene.ada.id}")
    for secret in (scene.ada.email, place.ids["guild_id"], scene.ada.session_id):
        assert secret.encode() not in seen.content
