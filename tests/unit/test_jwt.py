"""Access tokens: what is ours, and everything that only looks so."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count

import jwt
import msgspec
import pytest

from internal.errors import Unauthorized
from internal.utils.actor import Actor
from internal.utils.jwt import AccessTokens
from internal.utils.snowflake import Snowflake
from tests.support.clock import StandingClock

KEY = "a key for tests that is long enough to sign with"
ADA = Actor(Snowflake(175928847299117063), Snowflake(175928847299117064))
NOW = datetime(2030, 1, 1, tzinfo=UTC)
HEADER = {"alg": "HS256", "typ": "at+jwt"}


def tokens(
    *secrets: str, audience: str = "here", clock: StandingClock | None = None
) -> AccessTokens:
    ids = count(1)
    return AccessTokens(
        secrets or (KEY,),
        audience=audience,
        lifetime=timedelta(minutes=15),
        clock=clock or StandingClock(),
        new_id=lambda: Snowflake(next(ids)),
    )


def claims(**changes: object) -> dict[str, object]:
    now = int(NOW.timestamp())
    whole = {
        "sub": str(ADA.user_id),
        "sid": str(ADA.session_id),
        "aud": "here",
        "jti": "1",
        "iat": now,
        "exp": now + 900,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def signed(header: Mapping[str, object] = HEADER, **changes: object) -> str:
    return jwt.encode(claims(**changes), KEY, algorithm="HS256", headers=dict(header))


def by_hand(header: dict[str, object], *, signature: bytes = b"") -> str:
    parts = (msgspec.json.encode(header), msgspec.json.encode(claims()), signature)
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_token_says_who_and_in_which_session() -> None:
    ours = tokens()
    said = ours.verify(ours.issue(ADA))
    assert (said.sub, said.sid) == (ADA.user_id, ADA.session_id)
    assert isinstance(said.sub, Snowflake)
    assert said.exp - said.iat == 900
    assert ours.verify(signed()).sub == ADA.user_id, "what the forgeries below are variants of"


def test_a_token_expires() -> None:
    clock = StandingClock()
    ours = tokens(clock=clock)
    token = ours.issue(ADA)
    clock.at = NOW + timedelta(minutes=15, microseconds=-1)
    ours.verify(token)
    clock.at = NOW + timedelta(minutes=15)
    with pytest.raises(Unauthorized):
        ours.verify(token)


def test_clocks_of_nodes_may_differ_a_little() -> None:
    clock = StandingClock()
    ours = tokens(clock=clock)
    token = ours.issue(ADA)
    clock.at = NOW - timedelta(seconds=60)
    ours.verify(token)
    clock.at = NOW - timedelta(seconds=61)
    with pytest.raises(Unauthorized):
        ours.verify(token)


def test_keys_are_replaced() -> None:
    fresh = "another key for tests that is long enough as well"
    old = tokens(KEY).issue(ADA)
    tokens(fresh, KEY).verify(old)
    with pytest.raises(Unauthorized):
        tokens(fresh).verify(old)
    new = tokens(fresh, KEY).issue(ADA)
    tokens(fresh).verify(new)
    with pytest.raises(Unauthorized):
        tokens(KEY).verify(new)


def test_a_token_of_another_installation() -> None:
    with pytest.raises(Unauthorized):
        tokens(audience="there").verify(tokens().issue(ADA))


@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "aud", "jti", "sid"])
def test_every_claim_is_required(claim: str) -> None:
    with pytest.raises(Unauthorized):
        tokens().verify(signed(HEADER, **{claim: None}))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("sub", "ada"),
        ("sub", "9223372036854775808"),
        ("sub", "-1"),
        ("sid", ""),
        ("sid", True),
        ("sid", ["1"]),
        ("aud", ["here"]),
        ("aud", "her"),
        ("exp", "never"),
        ("exp", 1e400),
        ("exp", True),
        ("iat", "now"),
        ("jti", 7),
    ],
)
def test_claims_of_the_wrong_kind(claim: str, value: object) -> None:
    with pytest.raises(Unauthorized):
        tokens().verify(signed(HEADER, **{claim: value}))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"kid": "../../dev/null"},
        {"jku": "https://evil.example.org/keys"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"crit": ["exp"]},
        {"b64": False},
        {"x5u": "https://evil.example.org/"},
    ],
)
def test_a_header_that_is_not_ours(header: dict[str, object]) -> None:
    with pytest.raises(Unauthorized):
        tokens().verify(signed({**HEADER, **header}))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "RS256", "ES256", ""])
def test_another_algorithm_or_none(algorithm: str) -> None:
    for signature in (b"", b"\0" * 32):
        with pytest.raises(Unauthorized):
            tokens().verify(by_hand({"alg": algorithm, "typ": "at+jwt"}, signature=signature))


def test_an_empty_or_a_false_signature() -> None:
    for signature in (b"", b"\0" * 32):
        with pytest.raises(Unauthorized):
            tokens().verify(by_hand(dict(HEADER), signature=signature))


def test_hs384_with_our_key() -> None:
    with pytest.raises(Unauthorized):
        tokens().verify(jwt.encode(claims(), KEY, algorithm="HS384", headers={"typ": "at+jwt"}))


def test_changed_claims_keep_no_signature() -> None:
    head, body, signature = signed().split(".")
    said = msgspec.json.decode(urlsafe_b64decode(body + "=="))
    said["sub"] = "1"
    body = urlsafe_b64encode(msgspec.json.encode(said)).rstrip(b"=").decode()
    with pytest.raises(Unauthorized):
        tokens().verify(f"{head}.{body}.{signature}")


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "é.é.é", "\udcff", "[" * 2000, "x" * 100_000, "....", "\0"]
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(Unauthorized):
        tokens().verify(text)
