"""What a channel allows and denies to roles and members, and who may say so."""

import asyncio
from typing import Any

import pytest

from internal.permission.model import Permission
from tests.support.people import Guild, Person, Refused, Town, refused
from tests.support.reducer import differences, unchanged_view, view_of


def bits(*permissions: Permission) -> str:
    return str(int(sum(permissions)))


async def let(owner: Person, channel_id: str, person: Person, *permissions: Permission) -> None:
    """Allow these to somebody in a channel."""
    body = {"type": 1, "allow": bits(*permissions)}
    await owner.put(f"/channels/{channel_id}/permissions/{person.id}", body)


async def role_of(owner: Person, guild: Guild, person: Person, *permissions: Permission) -> str:
    """A new role with these permissions, held by somebody."""
    body = {"name": "helper", "permissions": bits(*permissions)}
    role = await owner.post(f"/guilds/{guild.id}/roles", body)
    await owner.put(f"/guilds/{guild.id}/members/{person.id}/roles/{role['id']}")
    return str(role["id"])


async def test_an_overwrite_decides_told_and_taken_back(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}/permissions/{bob.id}"
    await bob.connect()
    assert await ada.put(path, {"type": 1, "deny": bits(Permission.SEND_MESSAGES)}) is None
    rule = {"id": bob.id, "type": 1, "allow": "0", "deny": bits(Permission.SEND_MESSAGES)}

    told = await bob.gateway.expect("CHANNEL_UPDATE", id=guild.channel_id)
    assert told["permission_overwrites"] == [rule]
    with refused(403, 50013):
        await bob.say(guild.channel_id, "hello")
    # Said twice it is nothing new.
    await bob.fence()
    await ada.put(path, {"type": 1, "deny": int(Permission.SEND_MESSAGES), "allow": None})
    await bob.heard_nothing("CHANNEL_UPDATE")
    assert await ada.delete(f"/api/v10{path}") is None
    await bob.gateway.expect("CHANNEL_UPDATE", id=guild.channel_id, permission_overwrites=[])
    await bob.say(guild.channel_id, "hello")
    with refused(404, 10009):
        await ada.delete(path)


async def test_denying_sight_takes_the_channel_away_and_allowing_gives_it_back(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    await bob.connect()
    path = f"/channels/{guild.channel_id}"
    everyone = f"{path}/permissions/{guild.id}"
    await ada.put(everyone, {"type": 0, "deny": bits(Permission.VIEW_CHANNEL)})
    await bob.gateway.expect("CHANNEL_DELETE", id=guild.channel_id)
    await ada.say(guild.channel_id, "among ourselves")
    await ada.patch(path, {"topic": "secret"})
    await bob.heard_nothing("MESSAGE_CREATE", "CHANNEL_UPDATE")
    for attempt in (bob.get(path), bob.say(guild.channel_id, "?"), bob.delete(everyone)):
        with refused(404, 10003):
            await attempt
    await let(ada, guild.channel_id, bob, Permission.VIEW_CHANNEL)
    back = await bob.gateway.expect("CHANNEL_CREATE", id=guild.channel_id)
    assert back["topic"] == "secret"
    async with unchanged_view(bob):
        await ada.delete(f"{path}/permissions/{bob.id}")
        await ada.delete(everyone)


async def test_who_was_away_when_a_channel_was_closed_does_not_have_it_on_resume(
    town: Town, ada: Person, bob: Person
) -> None:
    """Neither the channel itself nor one that follows its category."""
    guild = await town.guild(ada, bob)
    body = {"guild_id": guild.id, "name": "rooms", "type": 4}
    category = (await ada.post("/channels", body))["id"]
    inside = await ada.post("/channels", {**body, "type": 0, "parent_id": category})
    await bob.connect()
    before = bob.gateway
    await before.abort()
    rule = {"type": 0, "deny": bits(Permission.VIEW_CHANNEL)}
    for channel_id in (category, guild.channel_id):
        await ada.put(f"/channels/{channel_id}/permissions/{guild.id}", rule)
    for channel_id in (inside["id"], guild.channel_id):
        await ada.say(channel_id, "among ourselves")
    after = await bob.resume(before.session_id, before.seq)
    await after.expect("RESUMED")
    await bob.fence()
    assert not [frame for frame in after.dispatches if b"among ourselves" in frame.raw]
    told = view_of(before, after).state()
    assert not list(differences(told, view_of(await bob.watch()).state()))
    assert told["guilds"][guild.id]["channels"] == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": 2},
        {"type": 1, "allow": "-1"},
        {"type": 1, "allow": "many"},
        {"type": 1, "deny": 2**64},
        {"type": 1, "deny": "9" * 20},
        {"type": "1"},
    ],
)
async def test_a_bad_overwrite_is_refused(town: Town, ada: Person, bob: Person, body: Any) -> None:
    guild = await town.guild(ada, bob)
    with refused(400, 50035):
        await ada.put(f"/channels/{guild.channel_id}/permissions/{bob.id}", body)


async def test_a_role_is_one_of_the_guild(town: Town, ada: Person, bob: Person) -> None:
    guild, other = await town.guild(ada, bob), await town.guild(ada, name="Elsewhere")
    path = f"/channels/{guild.channel_id}"
    for target in (other.id, bob.id, "1"):
        with refused(404, 10011):
            await ada.put(f"{path}/permissions/{target}", {"type": 0})
        with refused(404, 10011):
            await ada.patch(path, {"permission_overwrites": [{"id": target, "type": 0}]})
    # Without a type, that of what the id is.
    rules = [{"id": guild.id, "deny": "2048"}, {"id": bob.id, "allow": 2048}]
    told = await ada.patch(path, {"permission_overwrites": rules})
    assert {(one["id"], one["type"]) for one in told["permission_overwrites"]} == {
        (guild.id, 0),
        (bob.id, 1),
    }


async def test_managing_goes_by_what_one_may_in_the_channel(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    """Bob may manage one channel, Eve all but that one."""
    guild = await town.guild(ada, bob, eve)
    await role_of(ada, guild, eve, Permission.MANAGE_CHANNELS, Permission.MANAGE_ROLES)
    other = await ada.post("/channels", {"guild_id": guild.id, "name": "other"})
    await let(ada, guild.channel_id, bob, Permission.MANAGE_CHANNELS)
    deny = {"type": 1, "deny": bits(Permission.MANAGE_CHANNELS, Permission.MANAGE_ROLES)}
    await ada.put(f"/channels/{guild.channel_id}/permissions/{eve.id}", deny)

    await bob.patch(f"/channels/{guild.channel_id}", {"name": "bobs"})
    for attempt in (
        bob.patch(f"/channels/{other['id']}", {"name": "bobs"}),
        bob.delete(f"/channels/{other['id']}"),
        bob.post("/channels", {"guild_id": guild.id, "name": "bobs"}),
        # Managing a channel is not managing who may what in it.
        bob.put(f"/channels/{guild.channel_id}/permissions/{bob.id}", {"type": 1}),
        bob.patch(f"/channels/{guild.channel_id}", {"permission_overwrites": []}),
        eve.patch(f"/channels/{guild.channel_id}", {"name": "eves"}),
        eve.delete(f"/channels/{guild.channel_id}/permissions/{eve.id}"),
        eve.patch(f"/guilds/{guild.id}/channels", [{"id": guild.channel_id, "position": 9}]),
    ):
        with refused(403, 50013):
            await attempt
    await eve.patch(f"/channels/{other['id']}", {"name": "eves"})
    await eve.put(f"/channels/{other['id']}/permissions/{bob.id}", {"type": 1, "deny": "2048"})
    await bob.delete(f"/channels/{guild.channel_id}")


async def test_nobody_hands_on_what_they_lack(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    await role_of(ada, guild, bob, Permission.MANAGE_CHANNELS, Permission.MANAGE_ROLES)
    path = f"/channels/{guild.channel_id}"
    own = f"{path}/permissions/{bob.id}"
    everyone = f"{path}/permissions/{guild.id}"
    await ada.put(everyone, {"type": 0, "deny": bits(Permission.MENTION_EVERYONE)})
    for body in (
        {"type": 1, "allow": bits(Permission.MENTION_EVERYONE)},
        {"type": 1, "deny": bits(Permission.BAN_MEMBERS)},
        {"type": 1, "allow": bits(Permission.ADMINISTRATOR)},
        # Who manages permissions there, administrators decide.
        {"type": 1, "allow": bits(Permission.MANAGE_ROLES)},
    ):
        with refused(403, 50013):
            await bob.put(own, body)
        with refused(403, 50013):
            wish = {"id": bob.id, **body}
            await bob.patch(path, {"permission_overwrites": [wish]})
        with refused(403, 50013):
            new = {"guild_id": guild.id, "name": "new", "permission_overwrites": [wish]}
            await bob.post("/channels", new)
    # Nor may one take back a denial of that.
    with refused(403, 50013):
        await bob.delete(everyone)
    # What one has, one may deny and allow; what stays as it is asks for nothing.
    await bob.put(own, {"type": 1, "deny": bits(Permission.ATTACH_FILES)})
    kept = [{"id": guild.id, "type": 0, "deny": bits(Permission.MENTION_EVERYONE)}]
    assert len((await bob.patch(path, {"permission_overwrites": kept}))["permission_overwrites"])


async def test_bits_that_mean_nothing_are_left_out(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}"
    body = {"type": 1, "allow": str(1 << 62 | int(Permission.VIEW_CHANNEL))}
    await ada.put(f"{path}/permissions/{bob.id}", body)
    (rule,) = (await ada.get(path))["permission_overwrites"]
    assert rule["allow"] == bits(Permission.VIEW_CHANNEL)


async def test_there_are_so_many_overwrites_and_no_more(town: Town, ada: Person) -> None:
    guild = await town.guild(ada)
    path = f"/channels/{guild.channel_id}"
    many = [{"id": str(number), "type": 1, "deny": "2048"} for number in range(1, 502)]
    with refused(400, 30060):
        await ada.patch(path, {"permission_overwrites": many})
    await ada.patch(path, {"permission_overwrites": many[:500]})
    with refused(400, 30060):
        await ada.put(f"{path}/permissions/501", {"type": 1})
    # One that is there can still be changed.
    await ada.put(f"{path}/permissions/500", {"type": 1, "deny": "1024"})


async def test_putting_and_deleting_at_once_leaves_one_or_none(
    town: Town, ada: Person, bob: Person
) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}/permissions/{bob.id}"
    await ada.put(path, {"type": 1, "deny": bits(Permission.SEND_MESSAGES)})
    async with unchanged_view(bob):
        outcomes = await asyncio.gather(
            *(ada.put(path, {"type": 1, "allow": str(1 << n)}) for n in (6, 11, 14)),
            *(ada.delete(path) for _ in range(3)),
            return_exceptions=True,
        )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert {one.code for one in refusals if isinstance(one, Refused)} <= {10009}
    assert all(isinstance(one, Refused) for one in refusals)
    rules = (await ada.get(f"/channels/{guild.channel_id}"))["permission_overwrites"]
    assert len(rules) <= 1


async def test_all_of_it_is_written_down(town: Town, ada: Person, bob: Person) -> None:
    guild = await town.guild(ada, bob)
    path = f"/channels/{guild.channel_id}"
    why = {"X_Audit_Log_Reason": "too%20loud"}
    await ada.put(f"{path}/permissions/{bob.id}", {"type": 1, "deny": "2048"}, **why)
    await ada.put(f"{path}/permissions/{bob.id}", {"type": 1, "deny": "1024"}, **why)
    await ada.delete(f"{path}/permissions/{bob.id}", **why)
    await ada.patch(path, {"name": "hall"}, **why)
    made = await ada.post("/channels", {"guild_id": guild.id, "name": "new"}, **why)
    await ada.delete(f"/channels/{made['id']}", **why)

    log = (await ada.get(f"/guilds/{guild.id}/audit-logs"))["audit_log_entries"]
    assert [entry["action_type"] for entry in log] == [12, 10, 11, 15, 14, 13]
    assert {entry["reason"] for entry in log} == {"too loud"}
    assert [entry["target_id"] for entry in log] == [made["id"]] * 2 + [guild.channel_id] * 4
    assert log[3]["options"] == {"id": bob.id, "type": "1"}
    assert log[2]["changes"] == [{"key": "name", "old_value": "general", "new_value": "hall"}]


async def test_direct_messages_have_none(ada: Person, bob: Person) -> None:
    channel_id = await ada.direct(bob)
    with refused(400, 50024):
        await ada.put(f"/channels/{channel_id}/permissions/{bob.id}", {"type": 1})
    with refused(400, 50024):
        await ada.delete(f"/channels/{channel_id}/permissions/{bob.id}")
