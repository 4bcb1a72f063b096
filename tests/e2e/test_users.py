"""Profiles: what people see of each other and of themselves, and how they change it."""

import asyncio

import pytest

from tests.support.people import PASSWORD, Json, Person, Refused, Town, refused

SEEN_BY_ALL = {"id", "username", "global_name", "discriminator", "avatar", "bot", "public_flags"}
SEEN_BY_ONESELF = {"email", "verified", "mfa_enabled", "flags", "bio", "instance_role"}


async def test_oneself_and_others(ada: Person, bob: Person) -> None:
    own = await ada.get("/users/@me")
    assert own.keys() >= SEEN_BY_ALL | SEEN_BY_ONESELF
    assert own["email"] == ada.email
    seen = await bob.get(f"/users/{ada.id}")
    assert seen.keys() >= SEEN_BY_ALL
    assert not seen.keys() & {"email", "bio", "instance_role", "password_hash"}
    assert {name: own[name] for name in seen} == seen


async def test_whom_nobody_knows(town: Town, ada: Person) -> None:
    with refused(404, 10013):
        await ada.get("/users/1")
    with refused(400, 50035):
        await ada.get(f"/users/{2**63}")
    with refused(404, 10000):
        await ada.get("/users/1_000")
    with refused(401, 40001):
        await town.stranger.get(f"/users/{ada.id}")


async def test_a_profile_changes(ada: Person, bob: Person) -> None:
    change = {"username": "Countess", "global_name": "Ada 🦊", "bio": "Engines.\nAnd poems."}
    changed = await ada.patch("/users/@me", change)
    assert changed["username"] == "countess"
    assert changed["global_name"] == "Ada 🦊"
    assert changed["bio"] == change["bio"]
    assert await ada.get("/users/@me") == changed
    assert (await bob.get(f"/users/{ada.id}"))["username"] == "countess"
    assert (await ada.patch("/users/@me", {"global_name": None}))["global_name"] is None
    assert (await ada.patch("/users/@me", {"unknown": 1}))["bio"] == change["bio"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", None),
        ("username", "ada lovelace"),
        ("username", "x" * 33),
        ("username", ["ada"]),
        ("global_name", ""),
        ("global_name", " \u200b "),
        ("global_name", "a\nb"),
        ("global_name", "\u202eada"),
        ("global_name", "x" * 33),
        ("bio", "x" * 191),
        ("bio", "a\u0000b"),
        ("bio", 7),
        ("email", "nowhere"),
        ("password", {}),
    ],
)
async def test_what_no_profile_can_have(ada: Person, field: str, value: Json) -> None:
    before = await ada.get("/users/@me")
    with pytest.raises(Refused) as refusal:
        await ada.patch("/users/@me", {field: value})
    assert refusal.value.status == 400
    assert refusal.value.body["errors"][field]
    assert await ada.get("/users/@me") == before


async def test_another_address_needs_the_password(ada: Person) -> None:
    for more in ({}, {"password": "not the password"}):
        with pytest.raises(Refused) as refusal:
            await ada.patch("/users/@me", {"email": "ada@example.net", **more})
        assert refusal.value.status == 400
        assert list(refusal.value.body["errors"]) == ["password"]
    changed = await ada.patch("/users/@me", {"email": "Ada@Example.net", "password": PASSWORD})
    assert changed["email"] == "ada@example.net"
    ada.email = changed["email"]
    await ada.login()


async def test_names_and_addresses_of_others(ada: Person, bob: Person) -> None:
    for change, field in (
        ({"username": "BOB"}, "username"),
        ({"email": bob.email.upper(), "password": PASSWORD}, "email"),
    ):
        with pytest.raises(Refused) as refusal:
            await ada.patch("/users/@me", change)
        assert refusal.value.status == 400
        assert list(refusal.value.body["errors"]) == [field]


async def test_of_many_who_want_one_name_one_gets_it(town: Town) -> None:
    people = await town.people(10)
    answers = await asyncio.gather(
        *(one.patch("/users/@me", {"username": "wanted"}) for one in people),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    names = [(await one.get("/users/@me"))["username"] for one in people]
    assert len(set(names)) == 10


async def test_a_change_is_told_to_ones_devices_and_guilds(
    town: Town, ada: Person, bob: Person, eve: Person
) -> None:
    guild = await town.guild(ada, bob)
    for one in (ada, bob, eve):
        await one.connect()
    phone = await ada.watch()
    changed = await ada.patch("/users/@me", {"username": "countess", "bio": "Engines."})
    for gateway in (ada.gateway, phone):
        heard = await gateway.expect("USER_UPDATE")
        assert heard == changed
    heard = await bob.gateway.expect("GUILD_MEMBER_UPDATE", guild_id=guild.id)
    assert heard["user"]["username"] == "countess"
    assert "email" not in heard["user"]
    await bob.heard_nothing("USER_UPDATE")
    await eve.heard_nothing()


async def test_what_is_already_so_is_not_told(ada: Person) -> None:
    await ada.connect()
    await ada.patch("/users/@me", {"username": "ADA", "global_name": None, "bio": ""})
    await ada.patch("/users/@me", {})
    await ada.heard_nothing("USER_UPDATE")
