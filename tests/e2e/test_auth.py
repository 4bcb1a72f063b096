"""Accounts as people use them: register, sign in, stay signed in, sign out; and who may not."""

import asyncio
from itertools import pairwise

import asyncpg
import pytest

from tests.e2e.conftest import JWT_SECRET, OpenTown
from tests.support.people import PASSWORD, Json, Person, Refused, Town, refused

WRONG = "not the password of anybody"


def newcomer(name: str, **more: Json) -> Json:
    body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
    return {**body, **more}


async def signed_in(town: Town, answer: Json) -> Person:
    person = Person(town, answer["user"]["username"])
    person.take(answer)
    return person


async def again(ada: Person) -> Person:
    """Let somebody sign in once more, as on a second device."""
    body = {"email": ada.email, "password": ada.password}
    return await signed_in(ada.town, await ada.town.stranger.post("/auth/login", body))


async def outcome(attempt: Json) -> int:
    try:
        await attempt
    except Refused as refusal:
        return refusal.status
    return 200


async def test_registration_signs_in(town: Town) -> None:
    answer = await town.stranger.post(
        "/auth/register",
        newcomer("Ada.L", email="Ada@Example.org", global_name="Ada 🦊"),
        User_Agent="\N{FOX FACE}".encode().decode("latin-1") + "x" * 300,
    )
    assert answer["user"]["username"] == "ada.l"
    assert answer["user"]["global_name"] == "Ada 🦊"
    assert answer["user"]["email"] == "ada@example.org"
    assert answer["user"]["instance_role"] == "none"
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 900
    ada = await signed_in(town, answer)
    assert await ada.get("/users/@me") == answer["user"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "x"),
        ("username", "ada lovelace"),
        ("username", "аda"),  # noqa: RUF001  # That is the point.
        ("username", "ada\n"),
        ("username", 7),
        ("username", {"$ne": ""}),
        ("email", "ada"),
        ("email", "ada@"),
        ("email", "ada@example.org\r\nBcc: eve@example.org"),
        ("email", "a\u0000@example.org"),
        ("email", "a" * 300 + "@example.org"),
        ("email", "İ" * 64 + "@example.org"),
        ("email", "a@" + "İ" * 252),
        ("password", "short"),
        ("password", None),
        ("global_name", "\u200b"),
        ("global_name", "a\u0000b"),
        *(("global_name", filler * 2) for filler in "\u115f\u1160\u3164\uffa0"),
        ("invite", "\u0000"),
    ],
)
async def test_what_no_account_can_have(town: Town, field: str, value: Json) -> None:
    with pytest.raises(Refused) as refusal:
        await town.stranger.post("/auth/register", newcomer("ada", **{field: value}))
    assert refusal.value.status == 400
    assert refusal.value.code == 50035
    assert refusal.value.body["errors"][field]["_errors"][0]["code"]


async def test_names_and_addresses_are_unique_in_any_case(town: Town, ada: Person) -> None:
    for body, field in (
        (newcomer("ADA", email="else@example.org"), "username"),
        (newcomer("else", email=ada.email.upper()), "email"),
    ):
        with pytest.raises(Refused) as refusal:
            await town.stranger.post("/auth/register", body)
        assert refusal.value.status == 400
        assert list(refusal.value.body["errors"]) == [field]


@pytest.mark.parametrize(
    ("password", "close"),
    [
        ("x" * 72, "x" * 73),
        ("x" * 73, "x" * 72 + "y"),
        ("x" * 200, "x" * 199),
        ("x" * 71 + "é", "x" * 71 + "è"),
        ("before\0after", "before\0other"),
        ("\0" * 8, "\0" * 9),
        ("🦊" * 20_000, "🦊" * 20_001),
    ],
)
async def test_every_character_of_a_password_counts(town: Town, password: str, close: str) -> None:
    await town.stranger.post("/auth/register", newcomer("ada", password=password))
    with refused(401, 40011):
        await town.stranger.post("/auth/login", {"username": "ada", "password": close})
    assert await town.stranger.post("/auth/login", {"username": "ada", "password": password})


async def test_login_by_address_or_name(town: Town, ada: Person) -> None:
    by_address = await town.stranger.post(
        "/auth/login", {"email": ada.email.upper(), "password": PASSWORD}
    )
    by_name = await town.stranger.post("/auth/login", {"username": "Ada", "password": PASSWORD})
    assert by_address["user"] == by_name["user"]
    assert len({by_address["session_id"], by_name["session_id"], ada.session_id}) == 3
    with refused(400, 50035):
        await town.stranger.post("/auth/login", {"password": PASSWORD})


async def test_login_does_not_tell_what_was_wrong(town: Town, ada: Person) -> None:
    answers = []
    for body in (
        {"email": ada.email, "password": WRONG},
        {"email": "nobody@example.org", "password": WRONG},
        {"username": "ada", "password": ""},
        {"username": "no such name \r", "password": PASSWORD},
    ):
        with pytest.raises(Refused) as refusal:
            await town.stranger.post("/auth/login", body)
        answers.append((refusal.value.status, refusal.value.body))
    assert all(one == other for one, other in pairwise(answers))
    assert answers[0][0] == 401


async def test_refresh_gives_the_next_pair_of_the_same_session(ada: Person) -> None:
    first = ada.refresh_token
    pair = await ada.town.stranger.post("/auth/refresh", {"refresh_token": first})
    assert pair["session_id"] == ada.session_id
    assert pair["user"]["id"] == ada.id
    assert pair["refresh_token"] != first
    assert pair["access_token"] != ada.access_token
    ada.take(pair)
    assert await ada.get("/users/@me")


async def test_a_lost_answer_to_a_refresh_is_given_again(ada: Person) -> None:
    body = {"refresh_token": ada.refresh_token}
    pairs = await asyncio.gather(
        *(ada.town.stranger.post("/auth/refresh", body) for _ in range(10))
    )
    assert len({pair["refresh_token"] for pair in pairs}) == 1
    ada.take(pairs[0])
    assert await ada.get("/users/@me")
    ada.take(await ada.town.stranger.post("/auth/refresh", {"refresh_token": ada.refresh_token}))


async def test_a_refresh_token_of_long_ago_ends_the_session(ada: Person) -> None:
    stolen = ada.refresh_token
    phone = await again(ada)
    for _ in range(2):
        ada.take(await ada.post("/auth/refresh", {"refresh_token": ada.refresh_token}))
    with refused(401, 40001):
        await ada.town.stranger.post("/auth/refresh", {"refresh_token": stolen})
    with refused(401, 40001):
        await ada.get("/users/@me")
    with refused(401, 40001):
        await ada.post("/auth/refresh", {"refresh_token": ada.refresh_token})
    assert await phone.get("/users/@me"), "another session of hers goes on"


async def test_a_retry_that_comes_late_is_a_reuse(ada: Person, database_url: str) -> None:
    spent = ada.refresh_token
    ada.take(await ada.post("/auth/refresh", {"refresh_token": spent}))
    conn = await asyncpg.connect(database_url)
    await conn.execute("UPDATE login_sessions SET rotated_at = rotated_at - interval '11 s'")
    await conn.close()
    with refused(401, 40001):
        await ada.post("/auth/refresh", {"refresh_token": spent})
    with refused(401, 40001):
        await ada.get("/users/@me")


async def test_what_is_no_refresh_token(ada: Person) -> None:
    token = ada.refresh_token
    for forged in ("", "prt_", token[:-2], token + "A", token[4:], ada.access_token, "prt_é"):
        with refused(401, 40001):
            await ada.town.stranger.post("/auth/refresh", {"refresh_token": forged})
    for body in ({}, {"refresh_token": 7}, {"refresh_token": "x" * 3000}):
        with refused(400, 50035):
            await ada.town.stranger.post("/auth/refresh", body)
    assert await ada.get("/users/@me"), "none of them ended her session"


async def test_an_expired_session_is_over(ada: Person, database_url: str) -> None:
    conn = await asyncpg.connect(database_url)
    await conn.execute("UPDATE login_sessions SET expires_at = now() - interval '1 s'")
    await conn.close()
    with refused(401, 40001):
        await ada.post("/auth/refresh", {"refresh_token": ada.refresh_token})


async def test_the_end_of_a_session_closes_its_sockets(ada: Person) -> None:
    phone, tablet = await again(ada), await again(ada)
    for one in (ada, phone, tablet):
        await one.connect()
    await phone.post("/auth/logout")
    await phone.gateway.expect_close(4004, within=2)
    await ada.delete(f"/auth/sessions/{tablet.session_id}")
    await tablet.gateway.expect_close(4004, within=2)
    fresh = {"password": PASSWORD, "new_password": "another battery, another staple"}
    await ada.patch("/users/@me", {"bio": "still here"})
    await ada.gateway.expect("USER_UPDATE", bio="still here")
    await ada.post("/auth/password", fresh)
    await ada.gateway.expect_close(4004, within=2)


async def test_logout_ends_this_session_alone(ada: Person) -> None:
    phone = await again(ada)
    assert await ada.post("/auth/logout") is None
    with refused(401, 40001):
        await ada.get("/users/@me")
    with refused(401, 40001):
        await ada.post("/auth/refresh", {"refresh_token": ada.refresh_token})
    assert await phone.get("/users/@me")


async def test_sessions_are_listed_and_ended(ada: Person, bob: Person) -> None:
    phone = await again(ada)
    listed = await ada.get("/auth/sessions")
    assert [(one["id"], one["current"]) for one in listed] == [
        (phone.session_id, False),
        (ada.session_id, True),
    ]
    assert listed[0]["address"] in {"127.0.0.1", "::1"}
    with refused(404, 10020):
        await bob.delete(f"/auth/sessions/{phone.session_id}")
    assert await ada.delete(f"/auth/sessions/{phone.session_id}") is None
    with refused(401, 40001):
        await phone.get("/users/@me")
    with refused(404, 10020):
        await ada.delete(f"/auth/sessions/{phone.session_id}")
    assert [one["id"] for one in await ada.get("/auth/sessions")] == [ada.session_id]


async def test_the_fifty_first_session_ends_the_one_used_longest_ago(ada: Person) -> None:
    devices = [await again(ada) for _ in range(50)]
    with refused(401, 40001):
        await ada.get("/users/@me")
    assert len(await devices[0].get("/auth/sessions")) == 50


async def test_another_password_ends_every_session(ada: Person) -> None:
    phone = await again(ada)
    before = ada.session_id
    fresh = "another battery, another staple"
    with pytest.raises(Refused) as refusal:
        await ada.post("/auth/password", {"password": WRONG, "new_password": fresh})
    assert refusal.value.status == 400
    assert list(refusal.value.body["errors"]) == ["password"]
    stale = dict(ada.headers)
    ada.take(await ada.post("/auth/password", {"password": PASSWORD, "new_password": fresh}))
    assert ada.session_id != before
    assert await ada.get("/users/@me")
    with refused(401, 40001):
        await phone.get("/users/@me")
    assert (await ada.town.stranger.call("GET", "/users/@me", headers=stale)).status == 401
    with refused(401, 40011):
        await again(ada)
    ada.password = fresh
    await again(ada)


@pytest.mark.parametrize("attempt", ["login", "address"])
async def test_the_password_changes_while_the_old_one_is_being_checked(
    ada: Person, database_url: str, attempt: str
) -> None:
    conn = await asyncpg.connect(database_url)
    async with conn.transaction():
        await conn.execute("UPDATE users SET password_hash = 'another'")
        # The old hash is what others still read; then they wait for the row.
        if attempt == "login":
            using = asyncio.create_task(outcome(ada.login()))
        else:
            body = {"email": "new@example.org", "password": PASSWORD}
            using = asyncio.create_task(outcome(ada.patch("/users/@me", body)))
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not using.done()
    await conn.close()
    assert await using == (401 if attempt == "login" else 400)


async def test_an_account_that_is_gone(ada: Person, database_url: str) -> None:
    assert await ada.get("/users/@me")
    conn = await asyncpg.connect(database_url)
    await conn.execute("DELETE FROM users")
    await conn.close()
    with refused(401, 40001):
        await ada.get("/users/@me")


async def test_two_changes_of_the_password_at_once(ada: Person) -> None:
    bodies = [{"password": PASSWORD, "new_password": f"number {n} of two"} for n in (1, 2)]
    outcomes = [outcome(ada.post("/auth/password", body)) for body in bodies]
    assert min(await asyncio.gather(*outcomes)) == 200
    logins = [
        outcome(
            ada.town.stranger.post(
                "/auth/login", {"email": ada.email, "password": body["new_password"]}
            )
        )
        for body in bodies
    ]
    assert sorted(await asyncio.gather(*logins)) == [200, 401]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YWRhOmFkYQ==", "Bearer x.y.z", "Bearer é", "x" * 5000],
)
async def test_what_is_no_access_token(town: Town, header: str) -> None:
    answer = await town.stranger.call("GET", "/users/@me", headers={"Authorization": header})
    assert answer.status == 401
    assert answer.json() == {"code": 40001, "message": "Unauthorized"}
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_refresh_token_is_no_access_token(ada: Person) -> None:
    headers = {"Authorization": f"Bearer {ada.refresh_token}"}
    assert (await ada.town.stranger.call("GET", "/users/@me", headers=headers)).status == 401


async def test_keys_are_replaced_without_signing_anyone_out(open_town: OpenTown) -> None:
    fresh = "the next key for tests, long enough as well"
    town = await open_town()
    ada = await town.person("ada")
    later = await open_town(JWT_SECRET=fresh, JWT_PREVIOUS_SECRETS=JWT_SECRET)
    after = await open_town(JWT_SECRET=fresh)
    headers = dict(ada.headers)
    assert (await later.stranger.call("GET", "/users/@me", headers=headers)).status == 200
    assert (await after.stranger.call("GET", "/users/@me", headers=headers)).status == 401
    with refused(401, 40001):
        await after.stranger.post("/auth/refresh", {"refresh_token": ada.refresh_token})
    body = {"refresh_token": ada.refresh_token}
    pair = await later.stranger.post("/auth/refresh", body)
    with refused(401, 40001):  # made with a key that this node has not got yet
        await town.stranger.post("/auth/refresh", body)
    repeated = await later.stranger.post("/auth/refresh", body)
    assert repeated["refresh_token"] == pair["refresh_token"]
    renewed = await after.stranger.post("/auth/refresh", {"refresh_token": pair["refresh_token"]})
    assert renewed["session_id"] == ada.session_id


async def test_an_account_moves_to_another_cost_of_hashing(
    open_town: OpenTown, database_url: str
) -> None:
    town = await open_town()
    await town.person("ada")
    later = await open_town(BCRYPT_COST="5")
    for _ in range(2):
        await later.stranger.post("/auth/login", {"username": "ada", "password": PASSWORD})
    conn = await asyncpg.connect(database_url)
    assert (await conn.fetchval("SELECT password_hash FROM users")).startswith("$2b$05$")
    await conn.close()


async def test_the_setup_secret_makes_one_administrator(town: Town, ada: Person) -> None:
    assert town.app is not None
    secret = await town.app.setup_secret()
    with refused(403, 40014):
        await ada.post("/auth/setup", {"secret": "a guess"})
    with refused(403, 40014):
        await town.stranger.post("/auth/register", newcomer("guesser", setup_secret="a guess"))
    before = ada.session_id
    answer = ada.take(await ada.post("/auth/setup", {"secret": secret}))
    assert answer["user"]["instance_role"] == "admin"
    assert ada.session_id != before, "who may more than before is in another session"
    assert await town.app.setup_secret() is None
    with refused(403, 40014):
        await (await town.person("bob")).post("/auth/setup", {"secret": secret})
    with refused(403, 40014):
        await town.stranger.post("/auth/register", newcomer("late", setup_secret=secret))
    assert await town.stranger.post("/auth/register", newcomer("late"))


async def test_of_fifty_who_race_for_the_setup_secret_one_wins(town: Town) -> None:
    assert town.app is not None
    secret = await town.app.setup_secret()
    people = await town.people(25)
    attempts = [outcome(one.post("/auth/setup", {"secret": secret})) for one in people]
    attempts += [
        outcome(town.stranger.post("/auth/register", newcomer(f"new{n}", setup_secret=secret)))
        for n in range(25)
    ]
    outcomes = await asyncio.gather(*attempts)
    assert sorted(outcomes) == [200] + [403] * 49


async def test_a_closed_server_opens_to_its_administrator(open_town: OpenTown) -> None:
    town = await open_town(REGISTRATION="closed")
    assert town.app is not None
    with refused(403, 40012):
        await town.stranger.post("/auth/register", newcomer("bob"))
    secret = await town.app.setup_secret()
    answer = await town.stranger.post("/auth/register", newcomer("ada", setup_secret=secret))
    assert answer["user"]["instance_role"] == "admin"
    with refused(403, 40012):
        await town.stranger.post("/auth/register", newcomer("bob"))


async def test_registration_by_invitation(open_town: OpenTown, database_url: str) -> None:
    town = await open_town(REGISTRATION="invite")
    assert town.app is not None
    secret = await town.app.setup_secret()
    answer = await town.stranger.post("/auth/register", newcomer("ada", setup_secret=secret))
    ada = await signed_in(town, answer)
    invite = await ada.post("/auth/invites", {"max_uses": 3})
    with refused(403, 40013):
        await town.stranger.post("/auth/register", newcomer("bob"))
    with refused(404, 10006):
        await town.stranger.post("/auth/register", newcomer("bob", invite="made up"))
    attempts = [
        outcome(town.stranger.post("/auth/register", newcomer(f"new{n}", invite=invite["code"])))
        for n in range(20)
    ]
    assert sorted(await asyncio.gather(*attempts)) == [200] * 3 + [404] * 17
    (listed,) = await ada.get("/auth/invites")
    assert listed["uses_left"] == 0
    assert "code" not in listed
    other = await ada.post("/auth/invites", {})
    assert [one["id"] for one in await ada.get("/auth/invites", limit=1)] == [other["id"]]
    page = await ada.get("/auth/invites", before=other["id"])
    assert [one["id"] for one in page] == [invite["id"]]
    conn = await asyncpg.connect(database_url)
    await conn.execute("UPDATE registration_invites SET expires_at = now()")
    await conn.close()
    with refused(404, 10006):
        await town.stranger.post("/auth/register", newcomer("bob", invite=other["code"]))
    assert await ada.delete(f"/auth/invites/{other['id']}") is None
    with refused(404, 10006):
        await ada.delete(f"/auth/invites/{other['id']}")
    for body in ({"max_uses": 0}, {"max_uses": 2**63}, {"expires_in": -1}, {"max_uses": "3"}):
        with refused(400, 50035):
            await ada.post("/auth/invites", body)


async def test_who_is_not_invited_learns_of_no_account(open_town: OpenTown) -> None:
    town = await open_town(REGISTRATION="invite")
    assert town.app is not None
    secret = await town.app.setup_secret()
    await town.stranger.post("/auth/register", newcomer("ada", setup_secret=secret))
    for name in ("ada", "nobody"):
        for shown, status, code in (
            ({"invite": "made up"}, 404, 10006),
            ({"setup_secret": "made up"}, 403, 40014),
            ({}, 403, 40013),
        ):
            with refused(status, code):
                await town.stranger.post("/auth/register", newcomer(name, **shown))


async def test_an_invitation_is_used_up_while_somebody_registers(
    open_town: OpenTown, database_url: str
) -> None:
    town = await open_town(REGISTRATION="invite")
    assert town.app is not None
    secret = await town.app.setup_secret()
    answer = await town.stranger.post("/auth/register", newcomer("ada", setup_secret=secret))
    invite = await (await signed_in(town, answer)).post("/auth/invites", {})
    conn = await asyncpg.connect(database_url)
    async with conn.transaction():
        await conn.execute("UPDATE registration_invites SET uses_left = 0")
        body = newcomer("bob", invite=invite["code"])
        late = asyncio.create_task(outcome(town.stranger.post("/auth/register", body)))
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not late.done()
    assert await late == 404
    assert await conn.fetchval("SELECT count(*) FROM users") == 1
    await conn.close()


async def test_only_administrators_administer(town: Town, ada: Person, bob: Person) -> None:
    assert town.app is not None
    role = f"/admin/users/{bob.id}/role"
    for attempt in (
        ada.post("/auth/invites", {}),
        ada.get("/auth/invites"),
        ada.delete("/auth/invites/1"),
        ada.put(role, {"role": "admin"}),
    ):
        with refused(403, 50013):
            await attempt
    ada.take(await ada.post("/auth/setup", {"secret": await town.app.setup_secret()}))
    with refused(400, 90010):
        await ada.put(f"/admin/users/{ada.id}/role", {"role": "none"})
    with refused(404, 10013):
        await ada.put("/admin/users/1/role", {"role": "moderator"})
    with refused(400, 50035):
        await ada.put(role, {"role": "emperor"})
    for name in ("moderator", "moderator", "admin"):
        assert await ada.put(role, {"role": name}) is None
        assert (await bob.get("/users/@me"))["instance_role"] == name
    assert await bob.put(f"/admin/users/{ada.id}/role", {"role": "none"}) is None
    with refused(403, 50013):
        await ada.put(role, {"role": "none"})


async def test_of_two_last_administrators_one_remains(town: Town, ada: Person, bob: Person) -> None:
    assert town.app is not None
    ada.take(await ada.post("/auth/setup", {"secret": await town.app.setup_secret()}))
    await ada.put(f"/admin/users/{bob.id}/role", {"role": "admin"})
    outcomes = await asyncio.gather(
        *(outcome(one.put(f"/admin/users/{one.id}/role", {"role": "none"})) for one in (ada, bob))
    )
    assert sorted(outcomes) == [200, 400]
