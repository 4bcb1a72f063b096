"""Members: names, roles, timeouts, kicks and prunes, and who may do that to whom."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from internal.app import App
from tests.e2e.test_roles import ADMINISTRATOR, MANAGE_MESSAGES, give, make, written
from tests.support.people import Guild, Person, Refused, Town, refused
from tests.support.reducer import unchanged_view

Json = Any

# Kick, manage the guild, names and roles, time out.
MODERATOR = 1 << 1 | 1 << 5 | MANAGE_MESSAGES | 1 << 27 | 1 << 28 | 1 << 40
EVERYONE_WITHOUT_OWN_NAME = 1 << 10 | 1 << 11

MEMBER_KICK, MEMBER_PRUNE, MEMBER_UPDATE, MEMBER_ROLE_UPDATE = 20, 21, 24, 25


def soon(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


@dataclass
class Scene:
    """Ada owns, Bob moderates, Dan stands as high as Bob, Max is administrator, Eve has no role."""

    ada: Person
    bob: Person
    dan: Person
    max: Person
    eve: Person
    guild: Guild
    low: str
    moderators: str
    administrators: str

    def member(self, person: Person) -> str:
        return f"/guilds/{self.guild.id}/members/{person.id}"


@pytest.fixture
async def scene(town: Town, ada: Person, bob: Person, eve: Person) -> Scene:
    dan, other = await town.person("dan"), await town.person("max")
    guild = await town.guild(ada, bob, dan, other, eve)
    administrators = await make(ada, guild, "administrators", ADMINISTRATOR)
    low = await make(ada, guild, "low")
    moderators = await make(ada, guild, "moderators", MODERATOR)
    await give(ada, guild, bob, moderators)
    await give(ada, guild, dan, moderators)
    await give(ada, guild, other, administrators)
    return Scene(ada, bob, dan, other, eve, guild, low, moderators, administrators)


async def test_a_member_is_changed_in_one_call_and_everybody_is_told(scene: Scene) -> None:
    await scene.eve.connect()
    until = soon(hours=1)
    body = {"nick": "Evie", "roles": [scene.low], "communication_disabled_until": until}
    changed = await scene.bob.patch(scene.member(scene.eve), body, X_Audit_Log_Reason="Hm")

    assert (changed["nick"], changed["roles"]) == ("Evie", [scene.low])
    assert datetime.fromisoformat(changed["communication_disabled_until"]) == (
        datetime.fromisoformat(until)
    )
    told = await scene.eve.gateway.expect("GUILD_MEMBER_UPDATE")
    assert told == {**changed, "guild_id": scene.guild.id}
    assert await scene.ada.get(scene.member(scene.eve)) == changed
    (entry, *_) = await written(scene.ada, scene.guild, MEMBER_UPDATE)
    assert (entry["user_id"], entry["target_id"], entry["reason"]) == (
        scene.bob.id,
        scene.eve.id,
        "Hm",
    )
    assert [change["key"] for change in entry["changes"]] == [
        "nick",
        "communication_disabled_until",
    ]
    (entry, *_) = await written(scene.ada, scene.guild, MEMBER_ROLE_UPDATE)
    assert entry["changes"] == [{"key": "$add", "new_value": [{"id": scene.low, "name": "low"}]}]
    # The same once more is nothing.
    await scene.bob.patch(scene.member(scene.eve), body)
    await scene.bob.patch(scene.member(scene.eve), {})
    await scene.eve.heard_nothing("GUILD_MEMBER_UPDATE")


async def test_the_rest_of_a_member_stays_as_it_is(scene: Scene) -> None:
    path = scene.member(scene.eve)
    until = soon(hours=1)
    await scene.bob.patch(path, {"communication_disabled_until": until, "roles": [scene.low]})
    await scene.bob.patch(path, {"nick": "Evie"})
    member = await scene.bob.get(path)
    assert (member["nick"], member["roles"]) == ("Evie", [scene.low])
    assert member["communication_disabled_until"] is not None
    await scene.bob.patch(path, {"communication_disabled_until": None, "roles": None})
    member = await scene.bob.get(path)
    assert (member["nick"], member["roles"]) == ("Evie", [])
    assert member["communication_disabled_until"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"nick": "x" * 33}, "nick"),
        ({"nick": "two\nlines"}, "nick"),
        ({"nick": "nul\x00"}, "nick"),
        ({"nick": 7}, "nick"),
        ({"roles": ["one"]}, "roles"),
        ({"roles": "1"}, "roles"),
        ({"roles": ["1"] * 251}, "roles"),
        ({"communication_disabled_until": "tomorrow"}, "communication_disabled_until"),
        ({"communication_disabled_until": "2026-01-01T00:00:00"}, "communication_disabled_until"),
        ({"communication_disabled_until": soon(days=28.1)}, "communication_disabled_until"),
    ],
)
async def test_bad_wishes_are_refused_by_field(scene: Scene, body: Json, field: str) -> None:
    with pytest.raises(Refused) as refusal:
        await scene.ada.patch(scene.member(scene.eve), body)
    assert (refusal.value.status, refusal.value.code) == (400, 50035)
    assert field in refusal.value.body["errors"]


async def test_one_names_oneself_where_that_is_allowed(scene: Scene) -> None:
    mine = f"/guilds/{scene.guild.id}/members/@me"
    assert (await scene.eve.patch(mine, {"nick": "  Evie "}))["nick"] == "Evie"
    assert (await scene.eve.patch(scene.member(scene.eve), {"nick": "Eva"}))["nick"] == "Eva"
    # Existing libraries send an empty one.
    assert (await scene.eve.patch(mine, {"nick": ""}))["nick"] is None
    (entry, *_) = await written(scene.ada, scene.guild, MEMBER_UPDATE)
    assert (entry["user_id"], entry["target_id"]) == (scene.eve.id, scene.eve.id)
    assert entry["changes"] == [{"key": "nick", "old_value": "Eva", "new_value": None}]

    everyone = f"/guilds/{scene.guild.id}/roles/{scene.guild.id}"
    await scene.ada.patch(everyone, {"permissions": str(EVERYONE_WITHOUT_OWN_NAME)})
    for path in (mine, scene.member(scene.eve)):
        with refused(403, 50013):
            await scene.eve.patch(path, {"nick": "Evie"})
    # Who names others names oneself; so does the owner.
    await scene.bob.patch(mine, {"nick": "Bobby"})
    await scene.ada.patch(mine, {"nick": "Countess"})


async def test_who_is_timed_out_reads_and_waits(scene: Scene) -> None:
    channel_id, path = scene.guild.channel_id, scene.member(scene.eve)
    await scene.bob.patch(path, {"communication_disabled_until": soon(days=27.9)})
    with refused(403, 50013):
        await scene.eve.say(channel_id, "let me")
    assert await scene.eve.get(f"/messages/channel/{channel_id}") == []
    with refused(403, 50013):
        await scene.eve.patch(f"/guilds/{scene.guild.id}/members/@me", {"nick": "Free"})
    # What is over already is none.
    changed = await scene.bob.patch(path, {"communication_disabled_until": soon(seconds=-1)})
    assert changed["communication_disabled_until"] is None
    await scene.eve.say(channel_id, "thanks")


async def test_a_timeout_outlives_leaving_and_joining_again(scene: Scene) -> None:
    path, until = scene.member(scene.eve), soon(hours=1)
    timed_out = await scene.bob.patch(path, {"communication_disabled_until": until})
    shown = timed_out["communication_disabled_until"]
    await scene.ada.connect()
    await scene.eve.connect()
    ends: list[Deed] = [
        lambda s: s.eve.post(f"/guilds/{s.guild.id}/leave"),
        lambda s: s.bob.delete(s.member(s.eve)),
    ]
    for end in ends:
        await end(scene)
        await scene.eve.post(f"/guilds/{scene.guild.id}/join")
        told = await scene.ada.gateway.expect("GUILD_MEMBER_ADD", guild_id=scene.guild.id)
        assert told["communication_disabled_until"] == shown
        state = await scene.eve.gateway.expect("GUILD_CREATE", id=scene.guild.id)
        (own,) = [one for one in state["members"] if one["user"]["id"] == scene.eve.id]
        assert own["communication_disabled_until"] == shown
        with refused(403, 50013):
            await scene.eve.say(scene.guild.channel_id, "fresh start")
    # Once it is ended, leaving does not bring it back.
    await scene.bob.patch(path, {"communication_disabled_until": None})
    await scene.bob.delete(path)
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")
    assert (await scene.ada.get(path))["communication_disabled_until"] is None
    await scene.eve.say(scene.guild.channel_id, "thanks")


async def test_a_timeout_that_ends_meanwhile_is_over(scene: Scene, app: App) -> None:
    path = scene.member(scene.eve)
    await scene.bob.patch(path, {"communication_disabled_until": soon(hours=1)})
    await scene.bob.delete(path)
    async with app.db.transaction() as tx:
        await tx.conn.execute(
            "UPDATE timeouts SET until = now() - interval '1 second' WHERE user_id = $1",
            int(scene.eve.id),
        )
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")
    assert (await scene.ada.get(path))["communication_disabled_until"] is None
    await scene.eve.say(scene.guild.channel_id, "I am back")


async def test_who_moderates_loses_that_with_a_timeout(scene: Scene) -> None:
    await scene.ada.patch(scene.member(scene.bob), {"communication_disabled_until": soon(hours=1)})
    for attempt in (
        scene.bob.patch(scene.member(scene.eve), {"nick": "x"}),
        scene.bob.delete(scene.member(scene.eve)),
        scene.bob.patch(scene.member(scene.bob), {"communication_disabled_until": None}),
    ):
        with refused(403, 50013):
            await attempt


Deed = Callable[[Scene], Awaitable[object]]
LATER = {"communication_disabled_until": soon(hours=1)}

# What a moderator may not do, and to whom.
BEYOND: dict[str, Deed] = {
    "rename the owner": lambda s: s.bob.patch(s.member(s.ada), {"nick": "x"}),
    "rename an equal": lambda s: s.bob.patch(s.member(s.dan), {"nick": "x"}),
    "kick the owner": lambda s: s.bob.delete(s.member(s.ada)),
    "kick an equal": lambda s: s.bob.delete(s.member(s.dan)),
    "kick oneself": lambda s: s.bob.delete(s.member(s.bob)),
    "kick as an administrator upward": lambda s: s.max.delete(s.member(s.bob)),
    "kick as an administrator the owner": lambda s: s.max.delete(s.member(s.ada)),
    "time out the owner": lambda s: s.bob.patch(s.member(s.ada), LATER),
    "time out an equal": lambda s: s.bob.patch(s.member(s.dan), LATER),
    "time out an administrator": lambda s: s.bob.patch(s.member(s.max), LATER),
    "time out an administrator as the owner": lambda s: s.ada.patch(s.member(s.max), LATER),
    "time out oneself as the owner": lambda s: s.ada.patch(s.member(s.ada), LATER),
    "take the own top role": lambda s: s.bob.patch(s.member(s.bob), {"roles": []}),
    "give the own top role": lambda s: s.bob.patch(s.member(s.eve), {"roles": [s.moderators]}),
    "give what one lacks": lambda s: s.bob.put(f"{s.member(s.eve)}/roles/{s.administrators}"),
    "give what one lacks to many": lambda s: s.bob.post(
        f"/guilds/{s.guild.id}/members/roles",
        {"user_ids": [s.eve.id], "add_role_ids": [s.administrators]},
    ),
    "take a role of the same height from many": lambda s: s.bob.post(
        f"/guilds/{s.guild.id}/members/roles",
        {"user_ids": [s.dan.id], "remove_role_ids": [s.moderators]},
    ),
    "prune holders of the own role": lambda s: s.bob.post(
        f"/guilds/{s.guild.id}/prune", {"include_roles": [s.moderators]}
    ),
    "count holders of the own role": lambda s: s.bob.get(
        f"/guilds/{s.guild.id}/prune", include_roles=s.moderators
    ),
    "rename others without the permission": lambda s: s.eve.patch(s.member(s.bob), {"nick": "x"}),
    "time out without the permission": lambda s: s.eve.patch(s.member(s.bob), LATER),
    "change roles without the permission": lambda s: s.eve.patch(s.member(s.eve), {"roles": []}),
    "give a role without the permission": lambda s: s.eve.put(f"{s.member(s.eve)}/roles/{s.low}"),
    "take a role without the permission": lambda s: s.eve.delete(
        f"{s.member(s.bob)}/roles/{s.low}"
    ),
    "kick without the permission": lambda s: s.eve.delete(s.member(s.bob)),
    "prune without the permission": lambda s: s.eve.post(f"/guilds/{s.guild.id}/prune", {}),
    "change many without the permission": lambda s: s.eve.post(
        f"/guilds/{s.guild.id}/members/roles",
        {"user_ids": [s.eve.id], "add_role_ids": [s.low]},
    ),
}


@pytest.mark.parametrize("name", BEYOND)
async def test_nobody_acts_on_who_stands_as_high(scene: Scene, name: str) -> None:
    before = await scene.ada.get(f"/guilds/{scene.guild.id}/members")
    with refused(403, 50013):
        await BEYOND[name](scene)
    assert await scene.ada.get(f"/guilds/{scene.guild.id}/members") == before


async def test_the_owner_stands_above_all(scene: Scene) -> None:
    await scene.ada.patch(scene.member(scene.max), {"nick": "Maximum", "roles": []})
    await scene.ada.patch(scene.member(scene.dan), LATER)
    await scene.ada.delete(scene.member(scene.bob))


async def test_a_role_is_given_and_taken_once(scene: Scene) -> None:
    await scene.eve.connect()
    path = f"{scene.member(scene.eve)}/roles/{scene.low}"
    assert await scene.bob.put(path, X_Audit_Log_Reason="Well done") is None
    told = await scene.eve.gateway.expect("GUILD_MEMBER_UPDATE")
    assert told["roles"] == [scene.low]
    await scene.bob.put(path)
    await scene.eve.heard_nothing("GUILD_MEMBER_UPDATE")
    await scene.bob.delete(path)
    told = await scene.eve.gateway.expect("GUILD_MEMBER_UPDATE")
    assert told["roles"] == []
    await scene.bob.delete(path)
    await scene.eve.heard_nothing("GUILD_MEMBER_UPDATE")
    taken, given, *_ = await written(scene.ada, scene.guild, MEMBER_ROLE_UPDATE)
    assert given["reason"] == "Well done"
    assert given["changes"] == [{"key": "$add", "new_value": [{"id": scene.low, "name": "low"}]}]
    assert [change["key"] for change in taken["changes"]] == ["$remove"]


async def test_who_or_what_is_not_there_is_said(town: Town, scene: Scene) -> None:
    stranger = await town.person("zoe")
    for attempt in (
        scene.ada.patch(scene.member(stranger), {"nick": "x"}),
        scene.ada.delete(scene.member(stranger)),
        scene.ada.put(f"{scene.member(stranger)}/roles/{scene.low}"),
        scene.ada.delete(f"{scene.member(stranger)}/roles/{scene.low}"),
    ):
        with refused(404, 10007):
            await attempt
    for attempt in (
        scene.ada.put(f"{scene.member(scene.eve)}/roles/1"),
        scene.ada.delete(f"{scene.member(scene.eve)}/roles/1"),
        scene.ada.patch(scene.member(scene.eve), {"roles": ["1"]}),
        scene.ada.post(f"/guilds/{scene.guild.id}/prune", {"include_roles": ["1"]}),
    ):
        with refused(404, 10011):
            await attempt
    for attempt in (
        stranger.patch(scene.member(scene.eve), {"nick": "x"}),
        stranger.patch(f"/guilds/{scene.guild.id}/members/@me", {"nick": "x"}),
        stranger.delete(scene.member(scene.eve)),
        stranger.put(f"{scene.member(scene.eve)}/roles/{scene.low}"),
        stranger.get(f"/guilds/{scene.guild.id}/members/search", query="e"),
        stranger.get(f"/guilds/{scene.guild.id}/prune"),
        stranger.post(f"/guilds/{scene.guild.id}/prune", {}),
    ):
        with refused(404, 10004):
            await attempt


async def test_members_are_found_by_how_their_names_begin(town: Town, scene: Scene) -> None:
    path = f"/guilds/{scene.guild.id}/members/search"

    async def found(query: str, limit: int = 10) -> list[str]:
        members = await scene.eve.get(path, query=query, limit=limit)
        return [member["user"]["username"] for member in members]

    await town.person("bobby")  # not in the guild
    await scene.ada.patch("/users/@me", {"global_name": "Bountiful Ada"})
    await scene.ada.patch(scene.member(scene.eve), {"nick": "Bób_the 100%"})
    assert await found("b") == ["ada", "bob", "eve"]
    assert await found("BO") == ["ada", "bob"]
    assert await found("BÓB_") == ["eve"]
    assert await found("bób_the 100%") == ["eve"]
    assert await found("b", limit=2) == ["ada", "bob"]
    assert await found("%") == await found("_") == await found("ob") == []
    # A name that has changed is found by what it is now.
    await scene.ada.patch(scene.member(scene.eve), {"nick": None})
    await scene.bob.patch("/users/@me", {"username": "robert"})
    assert await found("b") == ["ada"]
    assert await found("Rob") == ["robert"]
    assert len(await scene.eve.get(path, query="a")) == 1
    for bad in ({"query": "a", "limit": 0}, {"query": "a", "limit": 1001}, {"query": ""}, {}):
        with refused(400, 50035):
            await scene.eve.get(path, **bad)


async def test_a_kick_ends_access_and_is_told(scene: Scene) -> None:
    await scene.ada.connect()
    await scene.eve.connect()
    await scene.bob.delete(scene.member(scene.eve), X_Audit_Log_Reason="Spam")

    gone = await scene.eve.gateway.expect("GUILD_DELETE", id=scene.guild.id)
    assert gone == {"id": scene.guild.id, "unavailable": False}
    told = await scene.ada.gateway.expect("GUILD_MEMBER_REMOVE", guild_id=scene.guild.id)
    assert told["user"]["id"] == scene.eve.id
    with refused(404, 10003):
        await scene.eve.say(scene.guild.channel_id, "but")
    with refused(404, 10007):
        await scene.bob.delete(scene.member(scene.eve))
    (entry,) = await written(scene.ada, scene.guild, MEMBER_KICK)
    assert (entry["user_id"], entry["target_id"], entry["reason"]) == (
        scene.bob.id,
        scene.eve.id,
        "Spam",
    )
    # It is no ban.
    await scene.eve.post(f"/guilds/{scene.guild.id}/join")
    assert (await scene.eve.get(f"/guilds/{scene.guild.id}"))["approximate_member_count"] == 5


async def test_of_two_kicks_one_counts(scene: Scene) -> None:
    outcomes = await asyncio.gather(
        scene.ada.delete(scene.member(scene.eve)),
        scene.bob.delete(scene.member(scene.eve)),
        return_exceptions=True,
    )
    assert sorted(getattr(one, "code", 0) for one in outcomes) == [0, 10007]
    assert (await scene.ada.get(f"/guilds/{scene.guild.id}"))["approximate_member_count"] == 4


async def test_many_get_other_roles_at_once(scene: Scene) -> None:
    path = f"/guilds/{scene.guild.id}/members/roles"
    await scene.ada.put(f"{scene.member(scene.dan)}/roles/{scene.low}")
    await scene.eve.connect()
    everybody = [one.id for one in (scene.ada, scene.bob, scene.dan, scene.eve, scene.eve)]
    answer = await scene.bob.post(
        path, {"user_ids": everybody, "add_role_ids": [scene.low]}, X_Audit_Log_Reason="Party"
    )

    assert sorted(answer["changed_user_ids"]) == sorted(
        one.id for one in (scene.ada, scene.bob, scene.eve)
    )
    await scene.eve.fence()
    told = [frame.d["user"]["id"] for frame in scene.eve.gateway.of_type("GUILD_MEMBER_UPDATE")]
    assert sorted(told) == sorted(answer["changed_user_ids"])
    entries = await written(scene.ada, scene.guild, MEMBER_ROLE_UPDATE)
    party = [entry["target_id"] for entry in entries if entry.get("reason") == "Party"]
    assert sorted(party) == sorted(answer["changed_user_ids"])
    again = await scene.bob.post(path, {"user_ids": everybody, "add_role_ids": [scene.low]})
    assert again == {"changed_user_ids": []}
    counts = await scene.ada.get(f"/guilds/{scene.guild.id}/roles/member-counts")
    assert counts[scene.low] == 4


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"user_ids": ["eve", "1"], "add_role_ids": ["low"]}, 404, 10007),
        ({"user_ids": ["eve"], "add_role_ids": ["low", "1"]}, 404, 10011),
        ({"user_ids": ["eve"], "add_role_ids": ["low", "moderators"]}, 403, 50013),
        ({"user_ids": ["eve"], "add_role_ids": ["low"], "remove_role_ids": ["low"]}, 400, 50035),
        ({"user_ids": ["eve"]}, 400, 50035),
        ({"user_ids": [], "add_role_ids": ["low"]}, 400, 50035),
        ({"user_ids": ["1"] * 1001, "add_role_ids": ["low"]}, 400, 50035),
        ({"add_role_ids": ["low"]}, 400, 50035),
    ],
)
async def test_many_are_changed_together_or_not_at_all(
    scene: Scene, body: dict[str, list[str]], status: int, code: int
) -> None:
    ids = {"eve": scene.eve.id, "low": scene.low, "moderators": scene.moderators}
    wish = {key: [ids.get(name, name) for name in names] for key, names in body.items()}
    with refused(status, code):
        await scene.bob.post(f"/guilds/{scene.guild.id}/members/roles", wish)
    assert (await scene.ada.get(scene.member(scene.eve)))["roles"] == []


async def test_a_role_makes_a_membership_last(scene: Scene, app: App) -> None:
    async def is_temporary() -> bool:
        async with app.db.transaction() as tx:
            found: bool = await tx.conn.fetchval(
                "SELECT is_temporary FROM members WHERE guild_id = $1 AND user_id = $2",
                int(scene.guild.id),
                int(scene.eve.id),
            )
            return found

    gifts: list[Deed] = [
        lambda s: s.bob.patch(s.member(s.eve), {"roles": [s.low]}),
        lambda s: s.bob.put(f"{s.member(s.eve)}/roles/{s.low}"),
    ]
    for gift in gifts:
        await scene.ada.patch(scene.member(scene.eve), {"roles": []})
        async with app.db.transaction() as tx:
            await tx.conn.execute(
                "UPDATE members SET is_temporary = true WHERE user_id = $1", int(scene.eve.id)
            )
        # A name alone does not.
        await scene.ada.patch(scene.member(scene.eve), {"nick": "Evie"})
        assert await is_temporary()
        await gift(scene)
        assert not await is_temporary()


async def long_ago(app: App, *people: Person) -> None:
    """These joined 50 days ago and were seen last 20 days ago."""
    ids = [int(one.id) for one in people]
    async with app.db.transaction() as tx:
        for table, column, days in (
            ("members", "joined_at", 50),
            ("login_sessions", "last_used_at", 20),
            ("login_networks", "last_used_at", 20),
        ):
            await tx.conn.execute(
                f"UPDATE {table} SET {column} = now() - {days} * interval '1 day' "  # noqa: S608  # constants
                "WHERE user_id = ANY ($1::bigint[])",
                ids,
            )


async def test_who_was_not_seen_for_long_is_pruned(town: Town, scene: Scene, app: App) -> None:
    path = f"/guilds/{scene.guild.id}/prune"
    kim, tom, una, new = [await town.person(name) for name in ("kim", "tom", "una", "new")]
    for one in (kim, tom, una, new):
        await one.post(f"/guilds/{scene.guild.id}/join")
    await scene.ada.put(f"{scene.member(tom)}/roles/{scene.low}")
    await long_ago(app, scene.ada, scene.bob, scene.dan, scene.max, scene.eve, kim, tom, una)
    await una.say(scene.guild.channel_id, "I am here")

    # Eve and Kim; not the owner, not who has a role, not who writes, not who has just come.
    assert await scene.bob.get(path, days=19) == {"pruned": 2}
    assert await scene.bob.get(path, days=21) == {"pruned": 0}
    assert await scene.bob.get(path) == {"pruned": 2}
    assert await scene.bob.get(path, include_roles=scene.low) == {"pruned": 3}
    await scene.ada.connect()
    body = {"days": 7, "include_roles": [scene.low]}
    assert await scene.bob.post(path, body, X_Audit_Log_Reason="Spring") == {"pruned": 3}
    for one in (scene.eve, kim, tom):
        with refused(404, 10004):
            await one.get(f"/guilds/{scene.guild.id}")
    await scene.ada.fence()
    told = [frame.d["user"]["id"] for frame in scene.ada.gateway.of_type("GUILD_MEMBER_REMOVE")]
    assert sorted(told) == sorted(one.id for one in (scene.eve, kim, tom))
    assert (await scene.ada.get(f"/guilds/{scene.guild.id}"))["approximate_member_count"] == 6
    (entry,) = await written(scene.ada, scene.guild, MEMBER_PRUNE)
    assert (entry["user_id"], entry["reason"]) == (scene.bob.id, "Spring")
    assert entry["options"] == {"delete_member_days": "7", "members_removed": "3"}
    assert await scene.bob.post(path, {"compute_prune_count": False}) == {"pruned": None}
    for bad in ({"days": 0}, {"days": 31}, {"include_roles": "x"}):
        with refused(400, 50035):
            await scene.bob.post(path, bad)
        with refused(400, 50035):
            await scene.bob.get(path, **bad)


async def test_many_are_pruned_some_at_a_time(town: Town, ada: Person, app: App) -> None:
    """Each time with an entry of its own: what is not written down was not done."""
    guild = await town.guild(ada)
    async with app.db.transaction() as tx:
        await tx.conn.execute(
            """
            INSERT INTO users (id, username, email, password_hash)
            SELECT n, 'sleeper' || n, 'sleeper' || n || '@example.org', ''
              FROM generate_series(1, 450) AS n
            """
        )
        await tx.conn.execute(
            """
            INSERT INTO members (guild_id, user_id, joined_at)
            SELECT $1, n, now() - interval '31 days' FROM generate_series(1, 450) AS n
            """,
            int(guild.id),
        )
        await tx.conn.execute("UPDATE guilds SET member_count = 451 WHERE id = $1", int(guild.id))
    path = f"/guilds/{guild.id}/prune"
    assert await ada.get(path, days=30) == {"pruned": 450}
    assert await ada.post(path, {"days": 30}) == {"pruned": 450}

    assert [one["user"]["id"] for one in await ada.get(f"/guilds/{guild.id}/members")] == [ada.id]
    assert (await ada.get(f"/guilds/{guild.id}"))["approximate_member_count"] == 1
    entries = await written(ada, guild, MEMBER_PRUNE)
    assert [entry["options"]["members_removed"] for entry in entries] == ["50", "200", "200"]


async def test_who_is_told_of_members_knows_what_a_newcomer_knows(scene: Scene) -> None:
    async with unchanged_view(scene.eve, scene.ada):
        await scene.bob.patch(scene.member(scene.eve), {"nick": "Evie", "roles": [scene.low]})
        await scene.bob.patch(scene.member(scene.eve), LATER)
        await scene.eve.patch(f"/guilds/{scene.guild.id}/members/@me", {}, X_Audit_Log_Reason="-")
        await scene.bob.post(
            f"/guilds/{scene.guild.id}/members/roles",
            {
                "user_ids": [scene.eve.id, scene.max.id],
                "add_role_ids": [],
                "remove_role_ids": [scene.low],
            },
        )
        await scene.ada.delete(scene.member(scene.max))
        await scene.ada.patch(scene.member(scene.dan), {"roles": [], "nick": "Daniel"})
