"""Snowflakes: 64-bit ids that carry their time, unique over nodes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Self

EPOCH_MS: Final = 1_420_070_400_000
MAX_WORKER: Final = 1023
MAX_SNOWFLAKE: Final = 2**63 - 1
_SEQUENCE_MASK: Final = 0xFFF
# int() takes "1_000", " 7 " and digits of any script; an id is none of these.
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class Snowflake(int):
    """An id: an int in Python and SQL, a string of digits in JSON."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id from outside; ValueError for anything but 0 to 2**63 - 1 in ASCII digits."""
        if not _DIGITS.fullmatch(text):
            raise ValueError("an id is 1 to 19 digits")
        return cls.checked(int(text))

    @classmethod
    def checked(cls, number: int) -> Self:
        """Take a number as an id; ValueError outside of PostgreSQL's bigint."""
        if not 0 <= number <= MAX_SNOWFLAKE:
            raise ValueError("an id is at most 2^63 - 1")
        return cls(number)

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(((self >> 22) + EPOCH_MS) / 1000, UTC)


NewId = Callable[[], Snowflake]


class IdsExhausted(Exception):
    """The lease of this node's worker id ran out before it could be renewed."""


class SnowflakeFactory:
    """Makes ids that only grow, also when the clock is set back.

    `reserve` bounds the milliseconds that may be used: PostgreSQL has the bound on disk before
    an id beyond the last one is made, so that no later holder of the worker id repeats one.
    """

    def __init__(self, worker: int, floor_ms: int, reserved_ms: int) -> None:
        self.worker = worker
        self.last_ms = floor_ms
        self._reserved_ms = reserved_ms
        self._sequence = _SEQUENCE_MASK  # the floor itself may have been used: start past it

    def reserve(self, until_ms: int) -> None:
        self._reserved_ms = max(self._reserved_ms, until_ms)

    def make(self, now_ms: int) -> Snowflake:
        """The next id at the Unix time `now_ms`; IdsExhausted beyond the reserved time."""
        if now_ms > self.last_ms:
            self.last_ms, self._sequence = now_ms, 0
        elif self._sequence < _SEQUENCE_MASK:
            self._sequence += 1
        else:  # more than 4,096 in a millisecond, or a clock that went back: run ahead of it
            self.last_ms, self._sequence = self.last_ms + 1, 0
        if self.last_ms > self._reserved_ms:
            raise IdsExhausted
        return Snowflake((self.last_ms - EPOCH_MS) << 22 | self.worker << 12 | self._sequence)
