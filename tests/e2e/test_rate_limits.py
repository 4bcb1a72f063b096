"""Rate limits, headers and what else every answer has, whatever it answers."""

import asyncio
from collections.abc import AsyncIterator
from time import time

import pytest

from tests.e2e.conftest import OpenTown
from tests.support.people import PASSWORD, Answer, Person, Refused, Town

BEHIND_A_PROXY = {"RATE_LIMIT_SCALE": "1", "TRUSTED_PROXIES": "127.0.0.1,::1"}
FIVE = {
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-RateLimit-Reset-After",
    "X-RateLimit-Bucket",
}


async def login(town: Town, address: str, **more: str) -> Answer:
    body = {"email": "ada@example.org", "password": "a wrong guess", **more}
    pairs = ",".join(f'"{name}":"{value}"' for name, value in body.items())
    return await town.stranger.call(
        "POST",
        "/auth/login",
        content=f"{{{pairs}}}".encode(),
        headers={"X-Forwarded-For": address},
    )


async def register_from(town: Town, name: str, address: str) -> Person:
    person = Person(town, name)
    person.headers["X-Forwarded-For"] = address
    await person.register()
    return person


async def test_a_refusal_tells_when_to_come_again(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    answers = [await town.stranger.call("POST", "/auth/login", content=b"{}") for _ in range(21)]
    assert [answer.status for answer in answers] == [400] * 20 + [429]
    left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers]
    assert left == [*range(19, -1, -1), 0]
    refusal = answers[-1]
    assert {"Via", "Retry-After"} | FIVE <= set(refusal.headers)
    assert refusal.headers["X-RateLimit-Limit"] == "20"
    assert refusal.headers["X-RateLimit-Bucket"] == "login"
    assert refusal.headers["X-RateLimit-Scope"] == "user"
    reset_after = float(refusal.headers["X-RateLimit-Reset-After"])
    assert float(refusal.headers["X-RateLimit-Reset"]) == pytest.approx(time() + reset_after, abs=5)
    body = refusal.json()
    assert body["code"] == 20028
    assert body["global"] is False
    assert 0 < body["retry_after"] <= int(refusal.headers["Retry-After"]) <= 4
    assert set(answers[0].headers) >= FIVE


async def test_accounts_do_not_share_their_limit(open_town: OpenTown) -> None:
    town = await open_town()
    ada, bob = await town.person("ada"), await town.person("bob")
    slow = (await open_town(RATE_LIMIT_SCALE="0.04")).stranger  # four at once
    answers = await asyncio.gather(
        *(slow.call("GET", "/users/@me", headers=ada.headers) for _ in range(12))
    )
    assert sorted({answer.status for answer in answers}) == [200, 429]
    assert (await slow.call("GET", "/users/@me", headers=bob.headers)).status == 200
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["X-RateLimit-Bucket"] == "account"


async def test_strangers_share_the_attempts_at_an_account(open_town: OpenTown) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    await register_from(town, "ada", "203.0.113.1")
    for email in ("ada@example.org", "nobody@example.org"):
        answers = [await login(town, f"198.51.100.{n}", email=email) for n in range(30)]
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 20


async def test_strangers_do_not_lock_an_owner_out(open_town: OpenTown) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    ada = await register_from(town, "ada", "203.0.113.1")
    await ada.post("/auth/logout")
    for n in range(30):
        await login(town, f"198.51.100.{n}")
    assert (await login(town, "198.51.100.99", password=PASSWORD)).status == 429
    assert (await login(town, "203.0.113.1", password=PASSWORD)).status == 200


async def test_a_refusal_does_not_tell_whether_there_is_an_account(open_town: OpenTown) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    await register_from(town, "ada", "203.0.113.1")
    refusals = []
    for email in ("ada@example.org", "nobody@example.org"):
        town = await open_town(**BEHIND_A_PROXY)  # whose limit per address is fresh
        answers = [await login(town, "203.0.113.1", email=email) for _ in range(11)]
        assert [answer.status for answer in answers] == [401] * 10 + [429]
        refusals.append(answers[-1])
    known, unknown = refusals
    for refusal in refusals:  # less what the ten took
        assert 45 < int(refusal.headers["Retry-After"]) <= 60
    assert set(known.headers) == set(unknown.headers)


@pytest.mark.parametrize("name", ["ada", "nobody"])
async def test_a_name_in_the_wrong_field_counts_for_nobody(open_town: OpenTown, name: str) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    await register_from(town, "ada", "203.0.113.1")
    for n in range(11):
        answer = await login(town, "203.0.113.1", email=name)
        assert answer.status == (401 if n < 10 else 429)
    wrong = {"email": "", "username": name}
    assert (await login(town, "203.0.113.1", **wrong)).status == 401


async def test_a_made_up_name_does_not_use_up_the_attempts_of_an_owner(
    open_town: OpenTown,
) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    ada = await register_from(town, "ada", "203.0.113.1")
    keys = [f"203.0.113.1:email:{ada.email}", f"{ada.id}:203.0.113.1"]
    for key in keys:
        for n in range(11):
            await login(town, f"198.51.100.{n}", email=key)
    assert (await login(town, "203.0.113.1", password=PASSWORD)).status == 200


async def test_a_refusal_tells_the_bucket_that_refused_or_none(open_town: OpenTown) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    answers = [await login(town, "203.0.113.1") for _ in range(21)]
    assert [answer.status for answer in answers] == [401] * 10 + [429] * 11
    assert set(answers[9].headers) >= FIVE
    assert not FIVE & set(answers[10].headers)
    assert {"Via", "Retry-After"} <= set(answers[10].headers)
    assert set(answers[20].headers) >= FIVE
    assert answers[20].headers["X-RateLimit-Remaining"] == "0"


async def test_neighbours_in_ipv6_are_one_address(open_town: OpenTown) -> None:
    town = await open_town(**BEHIND_A_PROXY)
    statuses = [
        (await login(town, f"2001:db8:0:1::{n:x}", email=f"x{n}@example.org")).status
        for n in range(1, 22)
    ]
    assert statuses == [401] * 20 + [429]
    assert (await login(town, "2001:db8:0:2::1", email="x@example.org")).status == 401


async def test_only_proxies_are_believed(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    statuses = [
        (await login(town, f"198.51.100.{n}", email=f"x{n}@example.org")).status for n in range(21)
    ]
    assert statuses[-1] == 429


async def test_guessing_tokens_is_slow_and_locks_nobody_out(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    ada = await town.person("ada")
    wrong = {"Authorization": "Bearer a.wrong.guess"}
    answers = [await town.stranger.call("GET", "/users/@me", headers=wrong) for _ in range(31)]
    assert [answer.status for answer in answers] == [401] * 30 + [429]
    assert (await ada.call("GET", "/users/@me")).status == 200


async def test_the_holder_of_a_token_guesses_the_password_slowly(open_town: OpenTown) -> None:
    town = await open_town(RATE_LIMIT_SCALE="1")
    ada = await town.person("ada")
    statuses = []
    for _ in range(12):
        with pytest.raises(Refused) as refusal:
            await ada.patch("/users/@me", {"email": "ada@example.net", "password": "a guess"})
        statuses.append(refusal.value.status)
    assert statuses == [400] * 10 + [429] * 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/users/@me", 401),
        ("GET", "/nowhere", 404),
        ("DELETE", "/auth/login", 405),
        ("POST", "/auth/login", 400),
        ("GET", "/live", 200),
    ],
)
async def test_every_answer_is_hardened(town: Town, method: str, path: str, status: int) -> None:
    answer = await town.stranger.call(method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    assert "Server" not in answer.headers
    assert "Strict-Transport-Security" not in answer.headers
    if status >= 400:
        assert answer.json().keys() >= {"code", "message"}


async def test_the_methods_that_a_path_has(town: Town) -> None:
    answer = await town.stranger.call("DELETE", "/auth/login")
    assert answer.json()["code"] == 90002
    assert answer.headers["Allow"] == "POST"


async def test_https_is_told_to_stay(open_town: OpenTown) -> None:
    town = await open_town(PUBLIC_URL="https://chat.example.org")
    answer = await town.stranger.call("GET", "/nowhere")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_a_sane_request_id_is_kept(town: Town) -> None:
    for given, kept in (("trace-1.a_b", True), ("a b", False), ("x" * 65, False), ("é", False)):
        answer = await town.stranger.call("GET", "/live", headers={"X-Request-Id": given})
        assert (answer.headers["X-Request-Id"] == given) is kept


async def test_listed_origins_alone(open_town: OpenTown) -> None:
    town = await open_town(CORS_ORIGINS="https://web.example.org")
    ask = {"Access-Control-Request-Method": "PATCH"}
    listed = {"Origin": "https://web.example.org"}
    answer = await town.stranger.call("OPTIONS", "/users/@me", headers={**listed, **ask})
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://web.example.org"
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    answer = await town.stranger.call("GET", "/users/@me", headers=listed)
    assert answer.status == 401
    assert answer.headers["Access-Control-Allow-Origin"] == "https://web.example.org"
    assert answer.headers["Vary"] == "Origin"
    for origin in ("null", "https://web.example.org.evil.org", "http://web.example.org", "*"):
        other = {"Origin": origin}
        for method, headers in (("GET", other), ("OPTIONS", {**other, **ask})):
            answer = await town.stranger.call(method, "/users/@me", headers=headers)
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_bodies_that_are_too_long_or_packed(open_town: OpenTown) -> None:
    town = await open_town(MAX_BODY_SIZE="16KiB")
    long = b'{"password":"' + b"x" * 20_000 + b'"}'
    answer = await town.stranger.call("POST", "/auth/login", content=long)
    assert (answer.status, answer.json()["code"]) == (413, 40005)

    async with town.http.post(f"{town.url}/auth/login", data=pieces(long)) as response:
        assert response.status == 413
        assert (await response.json())["code"] == 40005

    packed = {"Content-Encoding": "gzip"}
    answer = await town.stranger.call("POST", "/auth/login", content=b"\x1f\x8b", headers=packed)
    assert (answer.status, answer.json()["code"]) == (415, 90011)


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 4096):
        yield body[start : start + 4096]
