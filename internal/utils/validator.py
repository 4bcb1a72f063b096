"""Text from outside: the shapes that fields take, and where a fault in a body is told."""

from typing import Annotated

import msgspec

from internal.errors import InvalidFormBody, InvalidRequest
from internal.utils.json import UnreadableJson

# PostgreSQL can't hold NUL in text. Everything else that is valid Unicode may stand in a text.
NO_NUL = r"^[^\x00]*\Z"
# A name is one line: no control characters, and something in it that can be seen.
ONE_LINE = (
    r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*"
    r"[^\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\u00ad"
    # The fillers of Hangul: letters by name, and blank.
    r"\u115f\u1160\u3164\uffa0]"
    r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*\Z"
)

Text = Annotated[str, msgspec.Meta(pattern=NO_NUL)]

_SENTENCES = {NO_NUL: "must not contain NUL", ONE_LINE: "must be one line with visible characters"}


def field_error(path: str, message: str, code: str = "INVALID_VALUE") -> InvalidFormBody:
    """The error of one field. `path` is dotted: `embeds.0.title`."""
    nested: dict[str, object] = {"_errors": [{"code": code, "message": message}]}
    for key in reversed(path.split(".")):
        nested = {key: nested}
    return InvalidFormBody(errors=nested)


def body_error(fault: UnreadableJson) -> InvalidRequest | InvalidFormBody:
    """What a client is told of bytes that do not fit the shape that a route expects."""
    if fault.at is None:
        return InvalidRequest()
    code, message = _explain(fault.reason)
    path = fault.at.removeprefix("$").lstrip(".").replace("[", ".").replace("]", "").lstrip(".")
    if fault.reason.startswith("Object missing required field"):
        missing = fault.reason.split("`")[1]
        path = f"{path}.{missing}" if path else missing
    if not path:
        return InvalidFormBody(errors={"_errors": [{"code": code, "message": message}]})
    return field_error(path, message, code)


def _explain(reason: str) -> tuple[str, str]:
    """Put msgspec's sentence into the words that the API uses."""
    if reason.startswith("Object missing required field"):
        return "BASE_TYPE_REQUIRED", "This field is required"
    for pattern, sentence in _SENTENCES.items():
        if repr(pattern) in reason or pattern in reason:
            return "BASE_TYPE_BAD_TEXT", f"This field {sentence}"
    if " of length " in reason:
        return "BASE_TYPE_BAD_LENGTH", reason
    return "BASE_TYPE_INVALID", reason
