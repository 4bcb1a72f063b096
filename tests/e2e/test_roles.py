"""Roles: who makes, changes, moves and deletes them, and how far that reaches."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from internal.app import App
from tests.support.people import Guild, Person, Refused, Town, refused
from tests.support.reducer import unchanged_view

Json = Any

KICK_MEMBERS = 1 << 1
ADMINISTRATOR = 1 << 3
MANAGE_GUILD = 1 << 5
VIEW_CHANNEL = 1 << 10
SEND_MESSAGES = 1 << 11
MANAGE_MESSAGES = 1 << 13
MANAGE_ROLES = 1 << 28

NOWHERE = "1"


async def make(owner: Person, guild: Guild, name: str, bits: int = 0) -> str:
    """A role right above those made before it."""
    path = f"/guilds/{guild.id}/roles"
    role = await owner.post(path, {"name": name, "permissions": str(bits)})
    await owner.patch(path, [{"id": role["id"], "position": 250}])
    return str(role["id"])


async def give(owner: Person, guild: Guild, member: Person, *roles: str) -> None:
    await owner.patch(f"/guilds/{guild.id}/members/{member.id}", {"roles": list(roles)})


async def order(person: Person, guild: Guild) -> list[str]:
    """The names of the roles, lowest first."""
    return [role["name"] for role in await person.get(f"/guilds/{guild.id}/roles")]


async def written(person: Person, guild: Guild, action: int) -> list[Json]:
    """What the audit log says of acts of a kind, newest first."""
    log = await person.get(f"/guilds/{guild.id}/audit-logs", action_type=action)
    return list(log["audit_log_entries"])


@dataclass
class Scene:
    """Ada owns a guild; Bob manages roles and stands in the middle; Eve has the lowest role."""

    ada: Person
    bob: Person
    eve: Person
    guild: Guild
    low: str
    middle: str
    high: str

    @property
    def path(self) -> str:
        return f"/guilds/{self.guild.id}/roles"


@pytest.fixture
async def scene(town: Town, ada: Person, bob: Person, eve: Person) -> Scene:
    guild = await town.guild(ada, bob, eve)
    low = await make(ada, guild, "low")
    middle = await make(ada, guild, "middle", MANAGE_ROLES | MANAGE_MESSAGES)
    high = await make(ada, guild, "high")
    await give(ada, guild, bob, middle)
    await give(ada, guild, eve, low)
    return Scene(ada, bob, eve, guild, low, middle, high)


async def test_a_new_role_stands_below_all_others_and_everybody_is_told(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    path = f"/guilds/{guild.id}/roles"
    body = {
        "name": "Cook",
        "permissions": str(MANAGE_MESSAGES),
        "color": 0x00FF00,
        "hoist": True,
        "mentionable": True,
        "unicode_emoji": "🍳",
    }
    role = await ada.post(path, body, X_Audit_Log_Reason="We are%20hungry")

    assert role == {
        "id": role["id"],
        **body,
        "colors": {"primary_color": 0x00FF00, "secondary_color": None, "tertiary_color": None},
        "icon": None,
        "position": 1,
        "managed": False,
        "flags": 0,
    }
    told = await bob.gateway.expect("GUILD_ROLE_CREATE", guild_id=guild.id)
    assert told == {"guild_id": guild.id, "role": role}
    assert await bob.get(f"{path}/{role['id']}") == role
    assert await order(bob, guild) == ["@everyone", "Cook"]
    (entry,) = await written(ada, guild, 30)
    assert (entry["user_id"], entry["target_id"]) == (ada.id, role["id"])
    assert entry["reason"] == "We are hungry"
    assert {"key": "name", "new_value": "Cook"} in entry["changes"]


async def test_a_role_without_wishes_is_like_everyone(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    path = f"/guilds/{guild.id}/roles"
    (everyone,) = await ada.get(path)
    role = await ada.post(path, {"name": None, "permissions": None, "color": None, "hoist": None})

    assert role["name"] == "new role"
    assert role["permissions"] == everyone["permissions"]
    assert (role["color"], role["hoist"], role["mentionable"]) == (0, False, False)


async def test_permissions_may_be_numbers_and_unknown_bits_are_dropped(
    town: Town, ada: Person
) -> None:
    guild = await town.guild(ada)
    path = f"/guilds/{guild.id}/roles"
    for wanted in (MANAGE_MESSAGES, str(MANAGE_MESSAGES), str(MANAGE_MESSAGES | 1 << 62)):
        role = await ada.post(path, {"permissions": wanted})
        assert role["permissions"] == str(MANAGE_MESSAGES)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"permissions": "-1"}, "permissions"),
        ({"permissions": -1}, "permissions"),
        ({"permissions": "lots"}, "permissions"),
        ({"permissions": True}, "permissions"),
        ({"color": 0x1000000}, "color"),
        ({"color": -1}, "color"),
        ({"colors": {"primary_color": 1, "secondary_color": 2}}, "colors"),
        ({"hoist": "yes"}, "hoist"),
        ({"unicode_emoji": "x" * 101}, "unicode_emoji"),
        ({"icon": "data:image/png;base64,AAAA"}, "icon"),
    ],
)
async def test_a_bad_role_is_refused_by_field(
    town: Town, ada: Person, body: Json, field: str
) -> None:
    guild = await town.guild(ada)
    path = f"/guilds/{guild.id}/roles"
    role = await ada.post(path, {"name": "Cook"})
    for attempt in (ada.post(path, body), ada.patch(f"{path}/{role['id']}", body)):
        with pytest.raises(Refused) as refusal:
            await attempt
        assert (refusal.value.status, refusal.value.code) == (400, 50035)
        assert field in refusal.value.body["errors"]
    assert await order(ada, guild) == ["@everyone", "Cook"]


async def test_a_role_is_changed_in_parts_and_only_changes_are_told(scene: Scene) -> None:
    one = f"{scene.path}/{scene.low}"
    await scene.eve.connect()
    changed = await scene.ada.patch(
        one, {"name": "lower", "colors": {"primary_color": 7}}, X_Audit_Log_Reason="Naming"
    )

    assert (changed["name"], changed["color"], changed["colors"]["primary_color"]) == (
        "lower",
        7,
        7,
    )
    told = await scene.eve.gateway.expect("GUILD_ROLE_UPDATE", guild_id=scene.guild.id)
    assert told["role"] == changed
    (entry, *_) = await written(scene.ada, scene.guild, 31)
    assert entry["reason"] == "Naming"
    assert entry["changes"] == [
        {"key": "name", "old_value": "low", "new_value": "lower"},
        {"key": "color", "old_value": 0, "new_value": 7},
    ]
    before = len(await written(scene.ada, scene.guild, 31))
    await scene.ada.patch(one, {"name": "lower"})
    await scene.ada.patch(one, {"name": None, "permissions": None})
    await scene.eve.heard_nothing("GUILD_ROLE_UPDATE")
    assert len(await written(scene.ada, scene.guild, 31)) == before


async def test_of_everyone_only_the_permissions_change(scene: Scene) -> None:
    everyone = f"{scene.path}/{scene.guild.id}"
    changed = await scene.ada.patch(everyone, {"permissions": str(VIEW_CHANNEL), "hoist": False})

    assert (changed["permissions"], changed["position"]) == (str(VIEW_CHANNEL), 0)
    with refused(403, 50013):
        await scene.eve.say(scene.guild.channel_id, "may I?")
    with refused(400, 50028):
        await scene.ada.patch(everyone, {"name": "nobody"})
    with refused(400, 50028):
        await scene.ada.delete(everyone)
    with refused(400, 50028):
        await scene.ada.put(
            f"/guilds/{scene.guild.id}/members/{scene.eve.id}/roles/{scene.guild.id}"
        )
    with refused(400, 50035):
        await scene.ada.patch(scene.path, [{"id": scene.guild.id, "position": 2}])


async def test_a_managed_role_is_not_touched_by_hand(scene: Scene, app: App) -> None:
    async with app.db.transaction() as tx:
        await tx.conn.execute("UPDATE roles SET managed = true WHERE id = $1", int(scene.low))
    one = f"{scene.path}/{scene.low}"
    member = f"/guilds/{scene.guild.id}/members/{scene.eve.id}"
    for attempt in (
        scene.ada.patch(one, {"name": "mine"}),
        scene.ada.delete(one),
        scene.ada.put(f"{member}/roles/{scene.low}"),
        scene.ada.delete(f"{member}/roles/{scene.low}"),
        scene.ada.patch(member, {"roles": []}),
    ):
        with refused(400, 50028):
            await attempt
    assert (await scene.ada.get(member))["roles"] == [scene.low]


async def test_one_role_is_moved_and_the_others_make_room(scene: Scene) -> None:
    await scene.eve.connect()
    answer = await scene.ada.patch(scene.path, [{"id": scene.high, "position": 1}])

    assert [(role["name"], role["position"]) for role in answer] == [
        ("@everyone", 0),
        ("high", 1),
        ("low", 2),
        ("middle", 3),
    ]
    told = {(await scene.eve.gateway.expect("GUILD_ROLE_UPDATE"))["role"]["name"] for _ in range(3)}
    assert told == {"high", "low", "middle"}
    await scene.ada.patch(scene.path, [{"id": scene.high, "position": 1}])
    await scene.eve.heard_nothing("GUILD_ROLE_UPDATE")


async def test_positions_of_all_roles_at_once_are_met_to_the_letter(scene: Scene) -> None:
    wishes = [
        {"id": scene.guild.id, "position": 0},
        {"id": scene.low, "position": 3},
        {"id": scene.middle, "position": 1},
        {"id": scene.high, "position": 2},
    ]
    await scene.ada.patch(scene.path, wishes, X_Audit_Log_Reason="Upside down")

    assert await order(scene.ada, scene.guild) == ["@everyone", "middle", "high", "low"]
    newest = (await written(scene.ada, scene.guild, 31))[:3]
    assert {entry["reason"] for entry in newest} == {"Upside down"}
    changes = [change for entry in newest for change in entry["changes"]]
    assert {"key": "position", "old_value": 1, "new_value": 3} in changes


async def test_bad_orders_change_nothing(scene: Scene) -> None:
    for body, status, code in (
        ([{"id": NOWHERE, "position": 1}], 404, 10011),
        ([{"id": scene.low, "position": 0}], 400, 50035),
        ([{"id": scene.low, "position": -1}], 400, 50035),
        ([{"id": scene.low, "position": 3}, {"id": scene.low, "position": 1}], 400, 50035),
        ({"id": scene.low, "position": 3}, 400, 50035),
    ):
        with refused(status, code):
            await scene.ada.patch(scene.path, body)
    assert await scene.ada.patch(scene.path, []) == await scene.ada.get(scene.path)
    assert await order(scene.ada, scene.guild) == ["@everyone", "low", "middle", "high"]


Act = Callable[[Scene], Awaitable[object]]

# What Bob, who manages roles, may not do with them.
BEYOND: dict[str, Act] = {
    "make a role with a permission that he lacks": lambda s: s.bob.post(
        s.path, {"permissions": str(KICK_MEMBERS)}
    ),
    "make an administrator": lambda s: s.bob.post(s.path, {"permissions": str(ADMINISTRATOR)}),
    "give a role a permission that he lacks": lambda s: s.bob.patch(
        f"{s.path}/{s.low}", {"permissions": str(MANAGE_GUILD)}
    ),
    "give everyone a permission that he lacks": lambda s: s.bob.patch(
        f"{s.path}/{s.guild.id}", {"permissions": str(VIEW_CHANNEL | KICK_MEMBERS)}
    ),
    "change his own role": lambda s: s.bob.patch(f"{s.path}/{s.middle}", {"name": "mine"}),
    "change a higher role": lambda s: s.bob.patch(f"{s.path}/{s.high}", {"name": "mine"}),
    "move his own role up": lambda s: s.bob.patch(s.path, [{"id": s.middle, "position": 3}]),
    "move a lower role above his": lambda s: s.bob.patch(s.path, [{"id": s.low, "position": 2}]),
    "move a higher role down": lambda s: s.bob.patch(s.path, [{"id": s.high, "position": 1}]),
    "delete his own role": lambda s: s.bob.delete(f"{s.path}/{s.middle}"),
    "delete a higher role": lambda s: s.bob.delete(f"{s.path}/{s.high}"),
    "take a higher role by himself": lambda s: s.bob.put(
        f"/guilds/{s.guild.id}/members/{s.bob.id}/roles/{s.high}"
    ),
    "give his own role away": lambda s: s.bob.put(
        f"/guilds/{s.guild.id}/members/{s.eve.id}/roles/{s.middle}"
    ),
    "without MANAGE_ROLES make a role": lambda s: s.eve.post(s.path, {}),
    "without MANAGE_ROLES change a role": lambda s: s.eve.patch(f"{s.path}/{s.low}", {}),
    "without MANAGE_ROLES move a role": lambda s: s.eve.patch(s.path, []),
    "without MANAGE_ROLES delete a role": lambda s: s.eve.delete(f"{s.path}/{s.low}"),
}


@pytest.mark.parametrize("name", BEYOND)
async def test_nobody_reaches_up_to_the_own_top_role(scene: Scene, name: str) -> None:
    before = await scene.ada.get(scene.path)
    with refused(403, 50013):
        await BEYOND[name](scene)
    assert await scene.ada.get(scene.path) == before


async def test_below_the_own_top_role_one_is_free(scene: Scene) -> None:
    made = await scene.bob.post(scene.path, {"permissions": str(MANAGE_MESSAGES)})
    await scene.bob.patch(f"{scene.path}/{made['id']}", {"name": "helper"})
    await scene.bob.patch(scene.path, [{"id": made["id"], "position": 2}])
    assert await order(scene.bob, scene.guild) == ["@everyone", "low", "helper", "middle", "high"]
    await scene.bob.delete(f"{scene.path}/{made['id']}")
    # What he lacks he may take away, only not give.
    await scene.ada.patch(f"{scene.path}/{scene.low}", {"permissions": str(KICK_MEMBERS)})
    await scene.bob.patch(f"{scene.path}/{scene.low}", {"permissions": "0"})


async def test_a_role_that_holds_too_much_can_be_renamed_but_not_given(scene: Scene) -> None:
    """It stands below Bob, and permits what he may not do."""
    await scene.ada.patch(f"{scene.path}/{scene.low}", {"permissions": str(KICK_MEMBERS)})
    await scene.bob.patch(f"{scene.path}/{scene.low}", {"name": "bouncer"})
    member = f"/guilds/{scene.guild.id}/members/{scene.bob.id}"
    for attempt in (
        scene.bob.put(f"{member}/roles/{scene.low}"),
        scene.bob.patch(member, {"roles": [scene.middle, scene.low]}),
    ):
        with refused(403, 50013):
            await attempt
    await scene.bob.delete(f"/guilds/{scene.guild.id}/members/{scene.eve.id}/roles/{scene.low}")


async def test_a_deleted_role_is_gone_from_members_and_channels(scene: Scene) -> None:
    channel_id = scene.guild.channel_id
    for role, allow, deny in ((scene.low, 0, SEND_MESSAGES), (scene.high, SEND_MESSAGES, 0)):
        overwrite = {"type": 0, "allow": str(allow), "deny": str(deny)}
        await scene.ada.put(f"/channels/{channel_id}/permissions/{role}", overwrite)
    with refused(403, 50013):
        await scene.eve.say(channel_id, "may I?")
    async with unchanged_view(scene.eve, scene.ada) as (watching, _):
        await scene.ada.delete(f"{scene.path}/{scene.low}", X_Audit_Log_Reason="Out of use")
        gone = await watching.expect("GUILD_ROLE_DELETE")
        told = await watching.expect("CHANNEL_UPDATE", id=channel_id)

    assert gone == {"guild_id": scene.guild.id, "role_id": scene.low}
    assert [one["id"] for one in told["permission_overwrites"]] == [scene.high]
    await scene.eve.say(channel_id, "now I may")
    member = await scene.ada.get(f"/guilds/{scene.guild.id}/members/{scene.eve.id}")
    assert member["roles"] == []
    (entry,) = await written(scene.ada, scene.guild, 32)
    assert (entry["target_id"], entry["reason"]) == (scene.low, "Out of use")
    assert {"key": "name", "old_value": "low"} in entry["changes"]
    for attempt in (
        scene.ada.delete(f"{scene.path}/{scene.low}"),
        scene.ada.get(f"{scene.path}/{scene.low}"),
        scene.ada.patch(f"{scene.path}/{scene.low}", {"name": "back"}),
    ):
        with refused(404, 10011):
            await attempt


async def test_members_are_counted_by_role(scene: Scene, ada: Person) -> None:
    await give(ada, scene.guild, scene.eve, scene.low, scene.middle)
    counts = await scene.eve.get(f"{scene.path}/member-counts")
    assert counts == {scene.low: 1, scene.middle: 2, scene.high: 0}


async def test_a_role_is_looked_up_with_its_guild(town: Town, scene: Scene) -> None:
    other = await town.guild(scene.ada)
    foreign = await make(scene.ada, other, "foreign")
    member = f"/guilds/{scene.guild.id}/members/{scene.eve.id}"
    for attempt in (
        scene.ada.get(f"{scene.path}/{foreign}"),
        scene.ada.get(f"{scene.path}/{other.id}"),
        scene.ada.patch(f"{scene.path}/{foreign}", {"name": "mine"}),
        scene.ada.delete(f"{scene.path}/{foreign}"),
        scene.ada.patch(scene.path, [{"id": foreign, "position": 1}]),
        scene.ada.put(f"{member}/roles/{foreign}"),
        scene.ada.patch(member, {"roles": [foreign]}),
    ):
        with refused(404, 10011):
            await attempt
    assert await order(scene.ada, other) == ["@everyone", "foreign"]


async def test_strangers_hear_that_there_is_no_guild(town: Town, ada: Person, eve: Person) -> None:
    guild = await town.guild(ada)
    role = await make(ada, guild, "secret")
    path = f"/guilds/{guild.id}/roles"
    for attempt in (
        eve.get(path),
        eve.get(f"{path}/{role}"),
        eve.get(f"{path}/member-counts"),
        eve.post(path, {}),
        eve.patch(path, []),
        eve.patch(f"{path}/{role}", {}),
        eve.delete(f"{path}/{role}"),
    ):
        with refused(404, 10004):
            await attempt
    with refused(401):
        await town.stranger.get(path)


async def test_of_two_roles_at_the_limit_one_is_made(town: Town, ada: Person, app: App) -> None:
    guild = await town.guild(ada)
    async with app.db.transaction() as tx:
        await tx.conn.execute(
            """
            INSERT INTO roles (id, guild_id, name, permissions, position)
            SELECT n, $1, 'crowd', 0, 1 FROM generate_series(1, 248) AS n
            """,
            int(guild.id),
        )
    path = f"/guilds/{guild.id}/roles"
    attempts = (ada.post(path, {"name": f"last {n}"}) for n in range(2))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)

    (refusal,) = [one for one in outcomes if isinstance(one, Refused)]
    assert (refusal.status, refusal.code) == (400, 30005)
    assert len(await ada.get(path)) == 250


async def test_giving_a_role_that_is_being_deleted_leaves_nothing_behind(scene: Scene) -> None:
    """Whichever is first: the member ends without the role, and is told no other."""
    path = f"/guilds/{scene.guild.id}/members/{scene.bob.id}/roles/{scene.low}"
    async with unchanged_view(scene.eve):
        outcomes = await asyncio.gather(
            scene.ada.put(path),
            scene.ada.delete(f"{scene.path}/{scene.low}"),
            return_exceptions=True,
        )
    given, deleted = outcomes
    assert deleted is None
    assert given is None or (isinstance(given, Refused) and given.code == 10011)
    member = await scene.ada.get(f"/guilds/{scene.guild.id}/members/{scene.bob.id}")
    assert member["roles"] == [scene.middle]


async def reshaping(app: App) -> dict[str, int | None]:
    """Whose sight the newest event of each type changes, as the log has it."""
    async with app.db.read() as conn:
        rows = await conn.fetch(
            "SELECT DISTINCT ON (type) type, reshapes FROM event_log ORDER BY type, pos DESC"
        )
    return {row["type"]: row["reshapes"] for row in rows}


async def test_only_what_changes_sight_is_marked_so(scene: Scene, app: App) -> None:
    await scene.eve.connect()
    one = f"{scene.path}/{scene.low}"
    for body, marked in (
        ({"name": "lower"}, None),
        ({"permissions": str(MANAGE_MESSAGES)}, None),
        ({"permissions": str(MANAGE_MESSAGES | VIEW_CHANNEL)}, 0),
        ({"permissions": str(MANAGE_MESSAGES)}, 0),
        ({"permissions": str(MANAGE_MESSAGES | ADMINISTRATOR)}, 0),
    ):
        await scene.ada.patch(one, body)
        await scene.eve.gateway.expect("GUILD_ROLE_UPDATE")
        assert (await reshaping(app))["GUILD_ROLE_UPDATE"] == marked, body
    await scene.ada.delete(one)
    await scene.eve.gateway.expect("GUILD_ROLE_DELETE")
    assert (await reshaping(app))["GUILD_ROLE_DELETE"] == 0


async def test_a_role_opens_a_channel_to_who_has_it_as_long_as_it_is_there(scene: Scene) -> None:
    """What Eve sees follows her roles, live, and what she can't see is not told to her."""
    secret = await scene.ada.post("/channels", {"guild_id": scene.guild.id, "name": "secret"})
    path = f"/channels/{secret['id']}"
    role = f"/guilds/{scene.guild.id}/members/{scene.eve.id}/roles/{scene.low}"
    seeing = {"type": 0, "allow": str(VIEW_CHANNEL), "deny": "0"}
    hidden = {"type": 0, "allow": "0", "deny": str(VIEW_CHANNEL)}
    await scene.ada.put(f"{path}/permissions/{scene.low}", seeing)
    await scene.ada.put(f"{path}/permissions/{scene.guild.id}", hidden)
    async with unchanged_view(scene.eve, scene.bob, scene.ada) as (eves, *_):
        await scene.ada.delete(role)
        await eves.expect("CHANNEL_DELETE", id=secret["id"])
        with refused(404, 10003):
            await scene.eve.get(path)
        await scene.ada.put(role)
        await eves.expect("CHANNEL_CREATE", id=secret["id"])
        await scene.ada.say(secret["id"], "psst")
        await eves.expect("MESSAGE_CREATE", content="psst")
        await scene.ada.delete(f"{scene.path}/{scene.low}")
        await eves.expect("CHANNEL_DELETE", id=secret["id"])
        await scene.ada.say(secret["id"], "she is gone")
        with refused(404, 10003):
            await scene.eve.get(path)
    assert [frame.d["content"] for frame in eves.of_type("MESSAGE_CREATE")][:1] == ["psst"]
    assert not [f for f in eves.of_type("MESSAGE_CREATE") if f.d["content"] == "she is gone"]


async def test_an_administrator_sees_all_channels_from_then_on(scene: Scene) -> None:
    secret = await scene.ada.post("/channels", {"guild_id": scene.guild.id, "name": "secret"})
    hidden = {"type": 0, "allow": "0", "deny": str(VIEW_CHANNEL)}
    await scene.ada.put(f"/channels/{secret['id']}/permissions/{scene.guild.id}", hidden)
    async with unchanged_view(scene.eve, scene.bob) as (eves, bobs):
        body = {"permissions": str(ADMINISTRATOR)}
        await scene.ada.patch(f"{scene.path}/{scene.low}", body)
        await eves.expect("CHANNEL_CREATE", id=secret["id"])
        await scene.ada.patch(f"{scene.path}/{scene.low}", {"permissions": "0"})
        await eves.expect("CHANNEL_DELETE", id=secret["id"])
    assert not [
        frame for frame in bobs.of_type("CHANNEL_CREATE") if frame.d.get("name") == "secret"
    ]
