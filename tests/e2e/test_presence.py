"""Presence: told to those who share a guild, while they are there."""

import asyncio
from typing import Any

import pytest

from internal.app import App
from internal.presence.model import PresenceLimits
from tests.e2e.conftest import OpenTown
from tests.support.gateway import Gateway, Op
from tests.support.people import Guild, Person, Town
from tests.support.redis import RedisService

Json = Any

# Soon enough for a test, late enough for a resume on a loaded machine.
BRIEF = PresenceLimits(grace_s=1.0, tick_s=0.02)
LONG = PresenceLimits(grace_s=600.0, tick_s=0.02)


@pytest.fixture(autouse=True)
def limits(app: App) -> None:
    app.gateway.presence.limits = BRIEF


async def show(gateway: Gateway, status: str, **more: Json) -> None:
    await gateway.send(
        Op.UPDATE_PRESENCE, {"status": status, "since": None, "activities": [], "afk": False} | more
    )


async def hears(gateway: Gateway, who: Person, status: str) -> Json:
    """The next presence of somebody, which has to be this one."""
    told = await gateway.expect("PRESENCE_UPDATE", user={"id": who.id})
    assert told["status"] == status, told
    return told


def told_of(gateway: Gateway, who: Person) -> list[str]:
    """The statuses of somebody that a connection heard of, its GUILD_CREATEs first."""
    shown = [
        presence["status"]
        for frame in gateway.of_type("GUILD_CREATE")
        for presence in frame.d["presences"]
        if presence["user"]["id"] == who.id
    ]
    updates = [frame.d for frame in gateway.of_type("PRESENCE_UPDATE")]
    return shown + [d["status"] for d in updates if d["user"]["id"] == who.id]


async def fence(town: Town, guild: Guild, *gateways: Gateway) -> None:
    """Wait until all that changed by now has been told: changes are told in their order."""
    waver = await town.person("waver")
    await waver.post(f"/guilds/{guild.id}/join")
    gateway = await waver.watch()
    for one in gateways:
        await one.expect("PRESENCE_UPDATE", user={"id": waver.id}, status="online")
    await gateway.close(1000)
    for one in gateways:
        await one.expect("PRESENCE_UPDATE", user={"id": waver.id}, status="offline")


# Coming, changing, going.


async def test_two_see_each_other_come_change_and_go(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    told = await hears(ada.gateway, bob, "online")
    assert told == {
        "user": {"id": bob.id},
        "guild_id": guild.id,
        "status": "online",
        "activities": [],
        "client_status": {"web": "online"},
    }
    assert told_of(bob.gateway, ada)[0] == "online"

    game = {"name": "Go", "type": 0, "state": "thinking", "timestamps": {"start": 5}, "party": {}}
    await show(bob.gateway, "idle", activities=[game], since=1000)
    told = await hears(ada.gateway, bob, "idle")
    [activity] = told["activities"]
    assert activity.pop("created_at") > 1_600_000_000_000
    assert activity == {
        "name": "Go",
        "type": 0,
        "url": None,
        "state": "thinking",
        "details": None,
        "timestamps": {"start": 5},
    }
    await bob.gateway.close(1000)
    told = await hears(ada.gateway, bob, "offline")
    assert told["client_status"] == {}
    assert told["activities"] == []


async def test_one_hears_of_oneself(town: Town, ada: Person) -> None:
    first, second = await town.guild(ada), await town.guild(ada)
    await ada.connect()
    other = await ada.watch()
    await show(other, "dnd")
    heard = [
        await ada.gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}, status="dnd")
        for _ in range(2)
    ]
    assert {told["guild_id"] for told in heard} == {first.id, second.id}


async def test_an_update_carries_the_position_that_was_told_last(
    town: Town, ada: Person, bob: Person
) -> None:
    await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    seq = ada.gateway.seq
    frame = await ada.gateway.expect_frame("PRESENCE_UPDATE", user={"id": bob.id})
    assert frame.s == seq > 0


async def test_what_does_not_change_is_not_told(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await show(bob.gateway, "online")
    second = await bob.watch()
    await second.close(1000)
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == ["online"]


async def test_a_logout_is_told_at_once(town: Town, app: App, ada: Person, bob: Person) -> None:
    app.gateway.presence.limits = LONG
    await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await bob.post("/auth/logout", {"refresh_token": bob.refresh_token})
    await hears(ada.gateway, bob, "offline")


# Who hears.


async def test_strangers_hear_nothing(town: Town, ada: Person, bob: Person, eve: Person) -> None:
    guild = await town.guild(ada, bob)
    elsewhere = await town.guild(eve, name="Elsewhere")
    await eve.connect()
    await bob.direct(eve)
    await ada.connect()
    await bob.connect()
    await show(bob.gateway, "dnd")
    await ada.gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="dnd")
    await fence(town, guild, ada.gateway)
    await fence(town, elsewhere, eve.gateway)
    assert told_of(eve.gateway, bob) == []
    assert told_of(eve.gateway, ada) == []


async def test_who_joins_and_the_others_see_each_other(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, ada, "online")
    await show(ada.gateway, "idle")
    await hears(ada.gateway, ada, "idle")
    await bob.post(f"/guilds/{guild.id}/join")
    assert (await hears(ada.gateway, bob, "online"))["guild_id"] == guild.id
    assert (await hears(bob.gateway, ada, "idle"))["guild_id"] == guild.id


async def test_who_left_hears_and_shows_nothing_more(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await bob.post(f"/guilds/{guild.id}/leave")
    await bob.gateway.expect("GUILD_DELETE")
    before = len(told_of(bob.gateway, ada))
    await show(ada.gateway, "dnd")
    await show(bob.gateway, "dnd")
    await ada.gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}, status="dnd")
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == ["online"]
    assert len(told_of(bob.gateway, ada)) == before
    await ada.connect()
    assert told_of(ada.gateway, bob) == []


async def test_a_guild_tells_who_is_there(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob, await town.person("absent"))
    await bob.connect(presence={"status": "dnd", "activities": [{"name": "Go", "type": 0}]})
    await hears(bob.gateway, bob, "dnd")
    frames = await ada.connect()
    assert frames[0].d["presences"] == []
    [created] = [frame.d for frame in frames if frame.t == "GUILD_CREATE"]
    presences = {presence["user"]["id"]: presence for presence in created["presences"]}
    assert set(presences) == {ada.id, bob.id}
    assert presences[ada.id]["status"] == "online"
    assert presences[bob.id]["status"] == "dnd"
    assert presences[bob.id]["guild_id"] == guild.id
    assert presences[bob.id]["activities"][0]["name"] == "Go"


async def test_of_many_who_come_at_once_all_know_all(town: Town) -> None:
    people = await town.people(8)
    await town.guild(*people)
    await asyncio.gather(*(person.connect() for person in people))
    for person in people:
        for other in people:
            if "online" not in told_of(person.gateway, other):
                await person.gateway.expect(
                    "PRESENCE_UPDATE", user={"id": other.id}, status="online"
                )


async def test_a_crowd_is_told_of_nobody(town: Town, app: App, ada: Person, bob: Person) -> None:
    app.gateway.presence.limits = PresenceLimits(grace_s=1.0, tick_s=0.02, crowd=1)
    carol = await town.person("carol")
    await town.guild(ada, bob, carol)
    small = await town.guild(ada)
    await carol.connect()
    await hears(carol.gateway, carol, "online")
    await ada.connect()
    await ada.gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}, guild_id=small.id)
    await bob.connect()
    # Where she is alone she is told of herself, and only there.
    await show(ada.gateway, "dnd")
    told = await ada.gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}, status="dnd")
    assert told["guild_id"] == small.id
    assert {frame.d["guild_id"] for frame in ada.gateway.of_type("PRESENCE_UPDATE")} == {small.id}
    assert told_of(bob.gateway, ada) == []
    assert told_of(bob.gateway, carol) == []
    assert told_of(bob.gateway, bob) == ["online"]


# Invisible.


async def test_the_invisible_are_offline_to_others_and_know_it(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await show(bob.gateway, "invisible", activities=[{"name": "Secret", "type": 0}])
    told = await hears(ada.gateway, bob, "offline")
    assert told["activities"] == []
    assert told["client_status"] == {}
    await bob.gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="invisible")
    fresh = await ada.watch()
    assert told_of(fresh, bob) == []
    await fence(town, guild, ada.gateway)
    assert all(b"invisible" not in frame.raw for frame in ada.gateway.frames)
    await show(bob.gateway, "online")
    await hears(ada.gateway, bob, "online")


@pytest.mark.parametrize("status", ["invisible", "offline"])
async def test_who_comes_invisible_is_not_seen_to_come(
    town: Town, ada: Person, bob: Person, status: str
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect(presence={"status": status})
    assert told_of(bob.gateway, bob) == ["invisible"]
    await fence(town, guild, ada.gateway)
    await bob.gateway.close(1000)
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == []


async def test_invisible_outlives_the_node(open_town: OpenTown, town: Town) -> None:
    """Another server that knows nothing of the session goes by what it showed when it began."""
    ada, bob = await town.people(2)
    await town.guild(ada, bob)
    await bob.connect(presence={"status": "invisible"})
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    other = await open_town()
    other.shares_people_with(town)
    ada.town = bob.town = other
    await ada.connect()
    gateway = await bob.resume(session_id, seq)
    await gateway.expect("RESUMED")
    await gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="invisible")
    assert told_of(ada.gateway, bob) == []


async def test_the_invisible_stay_so_however_long_they_were_cut(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    app.gateway.presence.limits = PresenceLimits(grace_s=0.0, tick_s=0.02)
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await show(bob.gateway, "invisible")
    await hears(ada.gateway, bob, "offline")
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    await bob.gateway.abort()
    await fence(town, guild, ada.gateway)
    gateway = await bob.resume(session_id, seq)
    await gateway.expect("RESUMED")
    await gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="invisible")
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == ["online", "offline"]


async def test_invisible_right_behind_identify_is_not_seen_to_come(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    gateway = await town.open_gateway()
    await gateway.send(Op.IDENTIFY, {"token": bob.access_token})
    await show(gateway, "invisible")
    await gateway.expect("READY")
    await gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="invisible")
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == []


async def test_invisible_right_behind_resume_is_shown(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    app.gateway.presence.limits = LONG
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    await bob.gateway.abort()
    gateway = await town.open_gateway()
    await gateway.send(Op.RESUME, {"token": bob.access_token, "session_id": session_id, "seq": seq})
    await show(gateway, "invisible")
    await gateway.expect("RESUMED")
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == ["online", "offline"]


# Sessions that are cut, and several of them.


async def test_a_resume_is_no_going_and_coming(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    app.gateway.presence.limits = LONG
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await show(bob.gateway, "dnd")
    await hears(ada.gateway, bob, "dnd")
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    await bob.gateway.abort()
    # Others come and go meanwhile.
    await fence(town, guild, ada.gateway)
    gateway = await bob.resume(session_id, seq)
    await gateway.expect("RESUMED")
    app.gateway.presence.limits = BRIEF
    await fence(town, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == ["online", "dnd"]
    # It is the same session: it ends as such.
    await gateway.close(1000)
    await hears(ada.gateway, bob, "offline")


async def test_who_is_cut_and_stays_away_is_offline_in_the_end(
    town: Town, ada: Person, bob: Person
) -> None:
    await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await bob.gateway.abort()
    await hears(ada.gateway, bob, "offline")


async def test_a_resumed_session_hears_what_changed_while_it_was_away(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    app.gateway.presence.limits = LONG
    await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(bob.gateway, bob, "online")
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    await bob.gateway.abort()
    await show(ada.gateway, "dnd")
    await ada.gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}, status="dnd")
    gateway = await bob.resume(session_id, seq)
    await gateway.expect("RESUMED")
    assert (await gateway.expect("PRESENCE_UPDATE", user={"id": ada.id}))["status"] == "dnd"


async def test_several_sessions_come_to_one(town: Town, ada: Person, bob: Person) -> None:
    await town.guild(ada, bob)
    await ada.connect()
    await bob.connect(properties={"browser": "Discord Client"}, presence={"status": "idle"})
    assert (await hears(ada.gateway, bob, "idle"))["client_status"] == {"desktop": "idle"}
    phone = await town.open_gateway()
    await phone.identify(bob.access_token, properties={"browser": "Discord Android"})
    told = await hears(ada.gateway, bob, "online")
    assert told["client_status"] == {"desktop": "idle", "mobile": "online"}
    await show(phone, "dnd")
    assert (await hears(ada.gateway, bob, "dnd"))["client_status"]["mobile"] == "dnd"
    await phone.close(1001)
    assert (await hears(ada.gateway, bob, "idle"))["client_status"] == {"desktop": "idle"}


# What clients send.


IDENTIFIES: dict[str, Json] = {
    "nothing": {},
    "null": {"presence": None},
    "discord.py": {
        "presence": {"status": "dnd", "game": {"name": "Go", "type": 0}, "since": 0, "afk": False}
    },
    "eris": {"presence": {"activities": None, "afk": False, "since": None, "status": "dnd"}},
    "hikari": {
        "presence": {"since": None, "afk": False, "status": "dnd", "game": None},
        "capabilities": 0,
        "shard": [0, 1],
    },
    "discord.js": {
        "presence": {
            "activities": [{"name": "Go", "type": 2, "url": None}],
            "afk": False,
            "since": 1.5e12,
            "status": "dnd",
        },
        "properties": {"os": "linux", "browser": "@discordjs/ws 1.1.0", "device": "x"},
    },
    "odd properties": {"properties": {"browser": 5}},
}


@pytest.mark.parametrize("library", IDENTIFIES)
async def test_identify_as_libraries_send_it(town: Town, ada: Person, library: str) -> None:
    await town.guild(ada)
    sent = IDENTIFIES[library]
    await ada.connect(**sent)
    wanted = (sent.get("presence") or {}).get("status", "online")
    told = await hears(ada.gateway, ada, wanted)
    assert told["client_status"] == {"web": wanted}
    names = [activity["name"] for activity in told["activities"]]
    assert names == (["Go"] if library.startswith("discord") else [])


@pytest.mark.parametrize(
    "wish",
    [
        None,
        [],
        "dnd",
        {"status": "streaming"},
        {"status": 1},
        {"status": "online", "activities": {}},
        {"status": "online", "activities": [{}]},
        {"status": "online", "activities": [{"name": ""}]},
        {"status": "online", "activities": [{"name": "x" * 129}]},
        {"status": "online", "activities": [{"name": "x\x00"}]},
        {"status": "online", "activities": [{"name": "x", "type": 6}]},
        {"status": "online", "activities": [{"name": "x", "type": "0"}]},
        {"status": "online", "activities": [{"name": "x", "url": "u" * 513}]},
        {"status": "online", "activities": [{"name": "x", "timestamps": {"start": -1}}]},
        {"status": "online", "activities": [{"name": str(n)} for n in range(6)]},
        {"status": "online", "since": "now"},
        {"status": "online", "afk": 1},
    ],
)
async def test_a_bad_presence_is_no_gateway_message(ada: Person, wish: Json) -> None:
    await ada.connect()
    await ada.gateway.send(Op.UPDATE_PRESENCE, wish)
    await ada.gateway.expect_close(4002)


async def test_a_bad_presence_in_identify_is_no_gateway_message(town: Town, ada: Person) -> None:
    gateway = await town.open_gateway()
    await gateway.send(Op.IDENTIFY, {"token": ada.access_token, "presence": {"status": "away"}})
    await gateway.expect_close(4002)


async def test_nobody_shows_anything_before_identifying(town: Town) -> None:
    gateway = await town.open_gateway()
    await show(gateway, "dnd")
    await gateway.expect_close(4003)


async def test_of_changes_that_come_too_fast_the_last_counts(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    app.gateway.presence.limits = PresenceLimits(tick_s=0.02, changes=2, change_s=0.5)
    await town.guild(ada, bob)
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    for number in range(40):
        await show(bob.gateway, "idle" if number % 2 else "dnd")
    await show(bob.gateway, "online", activities=[{"name": "Rest", "type": 0}])
    told = await ada.gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="online")
    assert told["activities"][0]["name"] == "Rest"
    # Two at once, then the last one; those between were never told.
    assert len(told_of(ada.gateway, bob)) <= 4
    await bob.gateway.heartbeat()


async def test_operators_see_how_many_are_online(
    town: Town, app: App, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await ada.connect()
    await bob.connect(presence={"status": "invisible"})
    await ada.watch()
    await fence(town, guild, ada.gateway)
    page = app.metrics.registry.get_sample_value("parley_users_online")
    assert page == 1


# Several nodes.


async def test_people_on_different_nodes_see_each_other(
    open_town: OpenTown, redis_server: RedisService
) -> None:
    here, there = [await open_town(**redis_server.settings) for _ in range(2)]
    there.shares_people_with(here)
    ada, bob = await here.people(2)
    guild = await here.guild(ada, bob)
    bob.town = there
    await ada.connect()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    if "online" not in told_of(bob.gateway, ada):
        await hears(bob.gateway, ada, "online")
    await show(bob.gateway, "dnd", activities=[{"name": "Go", "type": 0}])
    assert (await hears(ada.gateway, bob, "dnd"))["activities"][0]["name"] == "Go"

    # The session goes on at the other node, as it was.
    session_id, seq = bob.gateway.session_id, bob.gateway.seq
    await bob.gateway.abort()
    bob.town = here
    gateway = await bob.resume(session_id, seq)
    await gateway.expect("RESUMED")
    await fence(here, guild, ada.gateway)
    assert told_of(ada.gateway, bob) == ["online", "dnd"]

    await redis_server.flush()
    await show(gateway, "idle")
    await ada.gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="idle")
    await gateway.close(1000)
    await hears(ada.gateway, bob, "offline")


async def test_without_redis_a_node_goes_on_by_itself(
    open_town: OpenTown, redis_server: RedisService
) -> None:
    here, there = [await open_town(**redis_server.settings) for _ in range(2)]
    there.shares_people_with(here)
    ada, bob, carol = await here.people(3)
    await here.guild(ada, bob, carol)
    carol.town = there
    await ada.connect()
    await carol.connect()
    await hears(ada.gateway, carol, "online")
    await redis_server.kill()
    await bob.connect()
    await hears(ada.gateway, bob, "online")
    await show(carol.gateway, "dnd")
    await carol.gateway.expect("PRESENCE_UPDATE", user={"id": carol.id}, status="dnd")
    await redis_server.start()
    await hears(ada.gateway, carol, "dnd")
    await carol.gateway.expect("PRESENCE_UPDATE", user={"id": bob.id}, status="online")
