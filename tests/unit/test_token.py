"""Opaque tokens: derived, recognized, and bound to what they are for."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal.utils.snowflake import MAX_SNOWFLAKE, Snowflake
from internal.utils.token import RefreshToken, RefreshTokens, derive, hash_of, random_code

KEY = "a key for tests that is long enough to sign with"
FIRST = RefreshToken(Snowflake(175928847299117064), 1)


def tokens(*secrets: str, audience: str = "here") -> RefreshTokens:
    return RefreshTokens(secrets or (KEY,), audience=audience, lifetime=timedelta(days=30))


@given(st.integers(0, MAX_SNOWFLAKE), st.integers(0, 2**32 - 1))
def test_what_is_made_is_read(session_id: int, generation: int) -> None:
    token = RefreshToken(Snowflake(session_id), generation)
    text = tokens().make(token)
    assert tokens().read(text) == token
    assert tokens().make(token) == text, "a lost answer can be given again"
    assert len(text) < 100


@given(st.text(max_size=100))
def test_what_is_made_by_nobody_is_nothing(text: str) -> None:
    assert tokens().read(text) is None
    assert tokens().read("prt_" + text) is None


def test_there_is_one_spelling() -> None:
    text = tokens().make(FIRST)
    for spelling in (text + "=", text + "\n", text[:-1], text.replace("prt_", "PRT_"), f" {text}"):
        assert tokens().read(spelling) is None
    last = text[-1]
    others = [text[:-1] + other for other in "ABCDEFGHabcdefgh0123-_" if other != last]
    assert not any(tokens().read(other) for other in others)


def test_each_generation_session_and_installation_has_its_own() -> None:
    texts = {
        tokens().make(FIRST),
        tokens().make(RefreshToken(FIRST.session_id, 2)),
        tokens().make(RefreshToken(Snowflake(1), 1)),
        tokens(audience="there").make(FIRST),
    }
    assert len(texts) == 4
    assert tokens(audience="there").read(tokens().make(FIRST)) is None


def test_keys_are_replaced() -> None:
    fresh = "another key for tests that is long enough as well"
    old = tokens(KEY).make(FIRST)
    assert tokens(fresh, KEY).read(old) == FIRST
    assert tokens(fresh).read(old) is None
    assert tokens(fresh, KEY).make(FIRST) == tokens(fresh).make(FIRST)


def test_the_token_of_a_hash_is_found_again() -> None:
    fresh = "another key for tests that is long enough as well"
    old = tokens(KEY).make(FIRST)
    assert tokens(fresh, KEY).find(FIRST, hash_of(old)) == old
    assert tokens(fresh).find(FIRST, hash_of(old)) is None


@pytest.mark.parametrize("other", [("refresh", "b"), ("setup", "a"), ("refresha",)])
def test_each_purpose_has_a_key_of_its_own(other: tuple[str, ...]) -> None:
    assert derive(KEY, "refresh", "a") != derive(KEY, *other)


def test_codes_are_long_and_different() -> None:
    codes = {random_code() for _ in range(100)}
    assert len(codes) == 100
    assert all(len(code) == 24 for code in codes)
