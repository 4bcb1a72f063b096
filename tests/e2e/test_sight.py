"""Each change reaches exactly those who may see it, and who loses sight hears nothing after it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from internal.app import App
from tests.e2e.conftest import OpenTown
from tests.e2e.test_nodes import know_each_other
from tests.support.people import Guild, Person, Town, refused

Json = Any

VIEW = "1024"
UNKNOWN_CHANNEL = 10003


class House:
    """Ada's guild: a hall, a vault that only keepers see, and Bob, who is connected."""

    def __init__(self, ada: Person, bob: Person, guild: Guild, vault: Json, keepers: Json) -> None:
        self.ada = ada
        self.bob = bob
        self.guild = guild
        self.hall = guild.channel_id
        self.vault: str = vault["id"]
        self.keepers: str = keepers["id"]

    async def let_in(self) -> None:
        await self.ada.put(f"/guilds/{self.guild.id}/members/{self.bob.id}/roles/{self.keepers}")

    async def send_out(self) -> None:
        await self.ada.delete(f"/guilds/{self.guild.id}/members/{self.bob.id}/roles/{self.keepers}")

    async def overwrite(self, target: str, kind: int, *, allow: str = "0", deny: str = "0") -> None:
        body = {"type": kind, "allow": allow, "deny": deny}
        await self.ada.put(f"/channels/{self.vault}/permissions/{target}", body)


async def open_house(town: Town, ada: Person, bob: Person) -> House:
    guild = await town.guild(ada, bob)
    keepers = await ada.post(f"/guilds/{guild.id}/roles", {"name": "keepers", "permissions": "0"})
    body = {
        "guild_id": guild.id,
        "name": "vault",
        "permission_overwrites": [
            {"id": guild.id, "type": 0, "allow": "0", "deny": VIEW},
            {"id": keepers["id"], "type": 0, "allow": VIEW, "deny": "0"},
        ],
    }
    return House(ada, bob, guild, await ada.post("/channels", body), keepers)


@pytest.fixture
async def house(town: Town, ada: Person, bob: Person) -> House:
    made = await open_house(town, ada, bob)
    await bob.connect()
    return made


def channels_in(frames: list[Any]) -> set[str]:
    (guild,) = (frame.d for frame in frames if frame.t == "GUILD_CREATE")
    return {channel["id"] for channel in guild["channels"]}


async def test_what_is_hidden_is_in_no_view(house: House) -> None:
    frames = await house.bob.connect()
    assert house.vault not in channels_in(frames)
    listed = await house.bob.get(f"/channels/guild/{house.guild.id}")
    assert house.vault not in {channel["id"] for channel in listed}
    with refused(404, UNKNOWN_CHANNEL):
        await house.bob.get(f"/channels/{house.vault}")
    with refused(404, UNKNOWN_CHANNEL):
        await house.bob.say(house.vault, "hello?")
    assert house.vault in channels_in(await house.ada.connect())


async def test_what_is_said_and_typed_in_a_hidden_channel_stays_there(house: House) -> None:
    said = await house.ada.say(house.vault, "the combination is 12345")
    await house.ada.patch(f"/messages/{house.vault}/{said['id']}", {"content": "54321"})
    await house.ada.post(f"/channels/{house.vault}/typing")
    await house.ada.patch(f"/channels/{house.vault}", {"topic": "gold"})
    await house.ada.delete(f"/messages/{house.vault}/{said['id']}")
    await house.bob.heard_nothing("MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE")
    await house.bob.heard_nothing("CHANNEL_UPDATE", "TYPING_START")


async def give_role(house: House) -> None:
    await house.let_in()


async def allow_everyone(house: House) -> None:
    await house.overwrite(house.guild.id, 0)


async def allow_the_member(house: House) -> None:
    await house.overwrite(house.bob.id, 1, allow=VIEW)


async def make_administrator(house: House) -> None:
    body = {"name": "boss", "permissions": "8"}
    role = await house.ada.post(f"/guilds/{house.guild.id}/roles", body)
    await house.ada.put(f"/guilds/{house.guild.id}/members/{house.bob.id}/roles/{role['id']}")


async def hand_over(house: House) -> None:
    await house.ada.patch(f"/guilds/{house.guild.id}", {"owner_id": house.bob.id})


OPENINGS = [give_role, allow_everyone, allow_the_member, make_administrator, hand_over]


@pytest.mark.parametrize("opening", OPENINGS)
async def test_whoever_gains_sight_is_told_of_the_channel_and_what_comes_after(
    house: House, opening: Callable[[House], Awaitable[None]]
) -> None:
    before = await house.ada.say(house.vault, "before")
    await house.ada.fence(await house.ada.watch())
    await opening(house)
    created = await house.bob.gateway.expect("CHANNEL_CREATE", id=house.vault)
    assert created["last_message_id"] == before["id"]
    # Bob himself: whoever handed the guild over sees the vault no more.
    await house.bob.say(house.vault, "after")
    await house.bob.gateway.expect("MESSAGE_CREATE", content="after")
    told = [frame.d["content"] for frame in house.bob.gateway.of_type("MESSAGE_CREATE")]
    assert "before" not in told


async def take_role(house: House) -> None:
    await house.send_out()


async def delete_role(house: House) -> None:
    await house.ada.delete(f"/guilds/{house.guild.id}/roles/{house.keepers}")


async def deny_the_member(house: House) -> None:
    await house.overwrite(house.bob.id, 1, deny=VIEW)


async def deny_the_role(house: House) -> None:
    await house.overwrite(house.keepers, 0)


CLOSINGS = [take_role, delete_role, deny_the_member, deny_the_role]


@pytest.mark.parametrize("closing", CLOSINGS)
async def test_whoever_loses_sight_is_told_so_and_hears_nothing_after(
    house: House, closing: Callable[[House], Awaitable[None]]
) -> None:
    await house.let_in()
    await house.bob.gateway.expect("CHANNEL_CREATE", id=house.vault)
    await closing(house)
    await house.bob.gateway.expect("CHANNEL_DELETE", id=house.vault)
    await house.ada.say(house.vault, "he is gone")
    await house.bob.heard_nothing("MESSAGE_CREATE", "CHANNEL_UPDATE", "CHANNEL_CREATE")
    with refused(404, UNKNOWN_CHANNEL):
        await house.bob.get(f"/messages/channel/{house.vault}")


async def test_everyone_who_loses_view_loses_the_hall(house: House) -> None:
    role = f"/guilds/{house.guild.id}/roles/{house.guild.id}"
    await house.ada.patch(role, {"permissions": "0"})
    await house.bob.gateway.expect("CHANNEL_DELETE", id=house.hall)
    await house.ada.patch(role, {"permissions": VIEW})
    await house.bob.gateway.expect("CHANNEL_CREATE", id=house.hall)


async def test_positions_never_go_back_around_what_follows(house: House) -> None:
    for _ in range(3):
        await house.let_in()
        await house.ada.say(house.vault, "in")
        await house.send_out()
        await house.ada.say(house.hall, "out")
    await house.bob.fence()
    positions = [frame.s or 0 for frame in house.bob.gateway.dispatches if frame.s]
    assert positions == sorted(positions)


# Those who were away.


async def test_a_resume_across_a_change_of_sight_tells_the_guild_afresh(house: House) -> None:
    away = house.bob.gateway
    await house.bob.fence()
    await away.abort()
    await house.ada.say(house.hall, "for all")
    await house.ada.say(house.vault, "not for Bob")
    await house.let_in()
    await house.ada.say(house.vault, "for Bob, too")
    await house.ada.fence(await house.ada.watch())
    back = await house.bob.resume(away.session_id, away.seq)
    await back.expect("RESUMED")
    assert house.vault in channels_in(back.dispatches)
    told = [frame.d["content"] for frame in back.of_type("MESSAGE_CREATE")]
    assert "not for Bob" not in told
    assert "for Bob, too" in told
    await house.ada.say(house.vault, "live")
    await back.expect("MESSAGE_CREATE", content="live")


async def test_a_resume_after_losing_sight_tells_nothing_of_the_channel(house: House) -> None:
    await house.let_in()
    away = house.bob.gateway
    await away.expect("CHANNEL_CREATE", id=house.vault)
    await house.bob.fence()
    await away.abort()
    await house.ada.say(house.vault, "while he could")
    await house.send_out()
    await house.ada.say(house.vault, "when he could not")
    await house.ada.fence(await house.ada.watch())
    back = await house.bob.resume(away.session_id, away.seq)
    await back.expect("RESUMED")
    assert house.vault not in channels_in(back.dispatches)
    assert not back.of_type("MESSAGE_CREATE")


async def test_a_resume_without_a_change_tells_only_what_was_missed(house: House) -> None:
    await house.let_in()
    away = house.bob.gateway
    await away.expect("CHANNEL_CREATE", id=house.vault)
    await house.bob.fence()
    await away.abort()
    await house.ada.say(house.vault, "one")
    await house.ada.patch(f"/channels/{house.vault}", {"name": "cellar"})
    await house.ada.say(house.hall, "two")
    await house.ada.fence(await house.ada.watch())
    back = await house.bob.resume(away.session_id, away.seq)
    await back.expect("RESUMED")
    kinds = [frame.t for frame in back.dispatches]
    assert kinds == ["MESSAGE_CREATE", "CHANNEL_UPDATE", "MESSAGE_CREATE", "RESUMED"]


async def test_a_channel_that_came_and_went_meanwhile(house: House) -> None:
    away = house.bob.gateway
    await house.bob.fence()
    await away.abort()
    seen = await house.ada.post("/channels", {"guild_id": house.guild.id, "name": "brief"})
    hidden = {
        "guild_id": house.guild.id,
        "name": "briefer",
        "permission_overwrites": [{"id": house.guild.id, "type": 0, "allow": "0", "deny": VIEW}],
    }
    unseen = await house.ada.post("/channels", hidden)
    await house.ada.delete(f"/channels/{seen['id']}")
    await house.ada.delete(f"/channels/{unseen['id']}")
    await house.ada.fence(await house.ada.watch())
    back = await house.bob.resume(away.session_id, away.seq)
    await back.expect("RESUMED")
    told = [(frame.t, frame.d["id"]) for frame in back.dispatches if frame.t != "RESUMED"]
    assert told == [("CHANNEL_CREATE", seen["id"]), ("CHANNEL_DELETE", seen["id"])]


# Nodes that know nothing of a guild yet.


async def test_the_first_of_a_guild_on_a_node_misses_nothing_after_joining(
    open_town: OpenTown,
) -> None:
    first, second = await open_town(), await open_town()
    second.shares_people_with(first)
    await know_each_other(first, second)
    ada, bob = await first.person("ada"), await second.person("bob")
    house = await open_house(first, ada, bob)
    carol = await second.person("carol")
    await carol.connect()
    joined = asyncio.create_task(carol.post(f"/guilds/{house.guild.id}/join"))
    spoken = [await ada.say(house.hall, f"{number}") for number in range(20)]
    await joined
    spoken += [await ada.say(house.hall, f"after {number}") for number in range(20)]
    await carol.gateway.expect("GUILD_CREATE", id=house.guild.id)
    await carol.gateway.expect("MESSAGE_CREATE", id=spoken[-1]["id"])
    told = [frame.d["id"] for frame in carol.gateway.of_type("MESSAGE_CREATE")]
    assert told == [message["id"] for message in spoken][-len(told) :]
    assert len(told) >= 20


async def test_sight_changes_on_every_node(open_town: OpenTown) -> None:
    first, second = await open_town(), await open_town()
    second.shares_people_with(first)
    await know_each_other(first, second)
    ada, bob = await first.person("ada"), await second.person("bob")
    house = await open_house(first, ada, bob)
    await bob.connect()
    await house.let_in()
    await bob.gateway.expect("CHANNEL_CREATE", id=house.vault)
    await ada.say(house.vault, "welcome")
    await bob.gateway.expect("MESSAGE_CREATE", content="welcome")
    await house.send_out()
    await bob.gateway.expect("CHANNEL_DELETE", id=house.vault)
    await ada.say(house.vault, "farewell")
    await bob.heard_nothing("MESSAGE_CREATE")


async def test_a_slow_reader_is_told_of_what_it_saw_at_each_moment(house: House, app: App) -> None:
    """It is behind the hub, and judged by what held at its own position."""
    await house.bob.fence()
    (client,) = (one for one in app.gateway.clients if one.user_id == int(house.bob.id))
    app.gateway.lagging(client)
    await house.let_in()
    await house.ada.say(house.vault, "in")
    await house.send_out()
    await house.ada.say(house.vault, "out")
    await house.bob.fence()
    kinds = [
        frame.d.get("content") or frame.t
        for frame in house.bob.gateway.dispatches
        if frame.t in {"CHANNEL_CREATE", "CHANNEL_DELETE"}
        or frame.d.get("channel_id") == house.vault
    ]
    assert kinds[-3:] == ["CHANNEL_CREATE", "in", "CHANNEL_DELETE"]
