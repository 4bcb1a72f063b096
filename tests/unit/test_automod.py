"""What rules of automatic moderation find in a text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internal.guild.automod.service import count_mentions
from internal.utils.pattern import BadPattern, Expression, Keywords, mark

NOTHING = Keywords(())


def finds(keyword: str, text: str) -> bool:
    return Keywords([keyword]).find(mark(text)) == keyword


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("cat", "a Cat!"),
        ("cat", "cat"),
        ("cat", "(cat)"),
        ("cat*", "category"),
        ("*cat", "a tomcat, really"),
        ("*cat*", "education"),
        ("two words", "these TWO words here"),
        ("two words*", "two wordsmiths"),
        ("жук", "вот ЖУК."),
        ("*жук*", "жжук!"),
        ("straße", "STRASSE"),
        ("cat", "\uff43\uff41\uff54"),
        (":)", "hi:)"),
        ("c++", "I like C++."),
        ("a*b", "a*b"),
        ("猫", "猫"),
    ],
)
def test_a_keyword_is_found(keyword: str, text: str) -> None:
    assert finds(keyword, text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("cat", "category"),
        ("cat", "tomcat"),
        ("cat", "cat_food"),
        ("cat", "cat5"),
        ("cat*", "tomcat"),
        ("*cat", "category"),
        ("two words", "two wordsmiths"),
        ("two words", "twowords"),
        ("жук", "жжук"),
        ("a*b", "aXb"),
        ("cat", ""),
    ],
)
def test_a_keyword_is_not_found(keyword: str, text: str) -> None:
    assert not finds(keyword, text)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("a classic", False),
        ("classic classic  classic", False),
        ("classic ass", True),
        ("classical", True),
        ("grass", True),
    ],
)
def test_what_is_allowed_is_taken_out_first(text: str, is_found: bool) -> None:  # noqa: FBT001
    marked = Keywords(["classic"]).without(mark(text))
    assert (Keywords(["*ass*"]).find(marked) is not None) is is_found


@given(
    word=st.text(alphabet="abcä1_", min_size=1, max_size=8),
    text=st.text(alphabet="abcä1_ .-", max_size=60),
)
def test_a_whole_word_is_one_of_the_words_of_the_text(word: str, text: str) -> None:
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
    assert finds(word, text) == (word in words)
    assert finds(f"{word}*", text) == any(one.startswith(word) for one in words)
    assert finds(f"*{word}", text) == any(one.endswith(word) for one in words)
    assert finds(f"*{word}*", text) == any(word in one for one in words)


def test_an_expression_finds_what_it_matches() -> None:
    assert Expression(r"(?i)b[a4]d").find("so B4D!", NOTHING) == "B4D"
    assert Expression(r"^start").find("no start", NOTHING) is None
    assert Expression(r"\pL+\d").find("ж1", NOTHING) == "ж1"
    # One match that is allowed does not hide another.
    allowed = Keywords(["badge", "bad hair", "*straße*"])
    for text in ("badge", "a Badge!", "a bad hair day", "badge badge", "ﬁ BAD hair"):
        assert Expression(r"(?i)bad").find(text, allowed) is None, text
    for text in ("badge bad", "badgering", "bad  hair", "ﬁ \u017f badge bad", "bad"):
        assert Expression(r"bad").find(text, allowed) == "bad", text
    assert Expression("ra").find("Hauptstraßen", allowed) is None


@pytest.mark.parametrize(
    "pattern", ["(", r"(a)\1", "(?=a)b", "a{2000}", r"(\pL{90}){9}", "(?P<a", "[z-a]"]
)
def test_what_can_not_be_looked_for_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern, match=r"\w"):
        Expression(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+$", r"(a|aa)+$", r"(.*a){20}$", r"(?:a?){100}a{100}b", r"(\w+\s?)*:", r"(a*)*(b|c)"],
)
def test_no_expression_takes_long(pattern: str) -> None:
    """These take a backtracking engine years."""
    expression = Expression(pattern)
    start = time.monotonic()
    expression.find("a" * 1999 + "!", NOTHING)
    assert time.monotonic() - start < 0.5


def test_many_keywords_take_no_time_in_a_text_made_for_them() -> None:
    keywords = Keywords([f"*{'a' * n}b*" for n in range(1, 58)] * 17)
    marked = mark("a" * 2000)
    start = time.monotonic()
    assert keywords.find(marked) is None
    assert time.monotonic() - start < 0.5


def test_mentions_are_counted_once_each() -> None:
    assert count_mentions("<@1> <@!1> <@&1> <@2> <#3> @everyone <@x> <@ 4>") == 3
