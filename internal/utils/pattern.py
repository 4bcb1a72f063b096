"""Words and expressions to look for in what people write, safe to take from strangers.

Words are looked for as substrings, expressions by RE2: both take time in proportion to the text.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import re2

# What an expression may come to when it is compiled, in bytes and in instructions: texts of a few
# thousand characters are through in milliseconds then, whatever stands in them.
_MAX_MEMORY: Final = 1 << 20
_MAX_INSTRUCTIONS: Final = 1500
# Matches that are looked at for one that is not allowed.
_MAX_MATCHES: Final = 100
# Places of what is allowed that are looked for.
_MAX_SPANS: Final = 1000
# Stands where a word begins or ends. Texts can't have it: what people send is free of NUL.
_EDGE: Final = "\0"


class BadPattern(ValueError):
    """An expression that can't be used, and why."""


class Keywords:
    """Words and phrases; case does not matter, nor do the forms of letters that look the same.

    One matches as a whole, `word*` what begins so, `*word` what ends so, `*word*` any part.
    """

    def __init__(self, keywords: Iterable[str]) -> None:
        self._needles = [(_needle(keyword), keyword) for keyword in keywords]

    def find(self, marked: str) -> str | None:
        """The first keyword in a text that `mark` gave."""
        return next((keyword for needle, keyword in self._needles if needle in marked), None)

    def without(self, marked: str) -> str:
        """The text without them."""
        for needle, _ in self._needles:
            marked = marked.replace(needle, " ")
        return marked

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in a text they are, as it stands: from and to."""
        if not self._needles:
            return []
        marked, origins = _mark([fold(letter) for letter in text])
        found: list[tuple[int, int]] = []
        for needle, _ in self._needles:
            at = marked.find(needle)
            while at >= 0 and len(found) < _MAX_SPANS:
                found.append((origins[at], origins[at + len(needle)]))
                at = marked.find(needle, at + 1)
        return found


class Expression:
    """A regular expression in the syntax of RE2."""

    def __init__(self, pattern: str) -> None:
        """BadPattern if it is none, or too much."""
        options = re2.Options()
        options.max_mem = _MAX_MEMORY
        options.log_errors = False
        try:
            self._regex = re2.compile(pattern, options)
        except re2.error as fault:
            raise BadPattern(_sentence(fault)) from None
        if self._regex.programsize > _MAX_INSTRUCTIONS:
            raise BadPattern("it is too large; repeat less")

    def find(self, text: str, allowed: Keywords) -> str | None:
        """The first match in a text that is not a part of something allowed."""
        spans: list[tuple[int, int]] | None = None
        for found in islice(self._regex.finditer(text), _MAX_MATCHES):
            if spans is None:
                spans = allowed.spans(text)
            start, end = found.span()
            if not any(first <= start and end <= last for first, last in spans):
                match: str = found.group()
                return match
        return None


def core(keyword: str) -> str:
    """A keyword without its wildcards."""
    return keyword.removeprefix("*").removesuffix("*").strip()


def fold(text: str) -> str:
    """A text in the one form in which words are compared."""
    return unicodedata.normalize("NFKC", text).casefold()


def mark(text: str) -> str:
    """A text in the one form, with the edges of its words marked."""
    return _mark(fold(text))[0]


def first(patterns: Sequence[Expression], text: str, allowed: Keywords) -> str | None:
    """The first match of any of these expressions."""
    matches = (pattern.find(text, allowed) for pattern in patterns)
    return next((match for match in matches if match is not None), None)


def _needle(keyword: str) -> str:
    marked = mark(core(keyword))
    if keyword.startswith("*"):
        marked = marked.removeprefix(_EDGE)
    if keyword.endswith("*"):
        marked = marked.removesuffix(_EDGE)
    return marked


def _sentence(fault: Exception) -> str:
    reason = fault.args[0] if fault.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def _mark(folded: Sequence[str]) -> tuple[str, list[int]]:
    """Folded letters with the edges of words marked, and the place of each among them."""
    marked: list[str] = []
    origins: list[int] = []
    was_word = False
    for place, letters in enumerate(folded):
        for letter in letters:
            is_word = letter.isalnum() or letter == "_"
            if is_word != was_word:
                marked.append(_EDGE)
                origins.append(place)
            marked.append(letter)
            origins.append(place)
            was_word = is_word
    if was_word:
        marked.append(_EDGE)
        origins.append(len(folded))
    origins.append(len(folded))
    return "".join(marked), origins
