"""The one place that turns structs into JSON and JSON into structs."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from internal.utils.clock import timestamp
from internal.utils.snowflake import Snowflake

T = TypeVar("T")


class UnreadableJson(ValueError):
    """Bytes that are no JSON, nest too deep, or do not fit the expected shape.

    `at` is the path of the fault (`$.name`), or None when the bytes are no JSON at all.
    """

    def __init__(self, reason: str, at: str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


class Timestamp(str):
    """A time in its wire form. Made by `at`; msgspec would leave out zero microseconds."""

    __slots__ = ()

    @classmethod
    def at(cls, when: datetime) -> "Timestamp":
        return cls(timestamp(when))


def _to_json(value: object) -> object:
    if isinstance(value, Snowflake):
        return str(int(value))
    if isinstance(value, Timestamp):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def _from_json(kind: type, value: object) -> object:
    if kind is Snowflake:
        # Existing libraries send ids as numbers, too. bool is an int to Python, not to us.
        if isinstance(value, str):
            return Snowflake.parse(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return Snowflake.checked(value)
        raise ValueError("an id is a string of digits")
    if kind is Timestamp and isinstance(value, str):
        return Timestamp(value)
    raise NotImplementedError(f"{kind.__name__} can't be read from JSON")


_encoder = msgspec.json.Encoder(enc_hook=_to_json)


def encode(value: object) -> bytes:
    return _encoder.encode(value)


def decoder(kind: type[T]) -> Callable[[bytes | str], T]:
    """A reader of one shape, to be made once, at import time.

    It raises UnreadableJson for everything that the bytes can have wrong with them.
    """
    inner = msgspec.json.Decoder(kind, dec_hook=_from_json)

    def decode(raw: bytes | str) -> T:
        try:
            return inner.decode(raw)
        except msgspec.ValidationError as fault:
            reason, _, path = str(fault).partition(" - at `")
            raise UnreadableJson(reason, path.removesuffix("`") or "$") from None
        except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError):
            raise UnreadableJson("not valid JSON", None) from None
        except RecursionError:  # 100,000 brackets; msgspec does not call this a DecodeError
            raise UnreadableJson("nested too deep", None) from None

    return decode


def convert(value: object, kind: type[T]) -> T:
    """Fit already decoded values into a shape; UnreadableJson where they don't."""
    try:
        return msgspec.convert(value, kind, dec_hook=_from_json)
    except msgspec.ValidationError as fault:
        reason, _, path = str(fault).partition(" - at `")
        raise UnreadableJson(reason, path.removesuffix("`") or "$") from None


def schema_hook(kind: type) -> dict[str, Any]:
    """JSON Schema of the types that only this module knows."""
    if kind is Snowflake:
        return {"type": "string", "pattern": "^[0-9]{1,19}$", "examples": ["175928847299117063"]}
    if kind is Timestamp:
        return {"type": "string", "format": "date-time"}
    raise NotImplementedError(kind.__name__)
