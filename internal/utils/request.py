"""What handlers read from a request: who asks, ids, query and body."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web

from internal.utils import deadline
from internal.utils.actor import Actor
from internal.utils.json import UnreadableJson, convert
from internal.utils.snowflake import Snowflake
from internal.utils.validator import body_error, field_error

T = TypeVar("T")
_MAX_REASON: Final = 512


ACTOR = web.RequestKey("actor", Actor)
# The address of the client, behind any trusted proxies.
ADDRESS = web.RequestKey("address", str)
# Surrounds what the client is waited for with, which is no load.
WAITING: Final[web.RequestKey[Callable[[], AbstractContextManager[None]]]] = web.RequestKey(
    "waiting"
)


def path_id(request: web.Request, name: str) -> Snowflake:
    """An id of the path; a 400 beyond 2^63 - 1. The route's pattern lets only digits through."""
    try:
        return Snowflake.parse(request.match_info[name])
    except ValueError as fault:
        raise field_error(name, str(fault), "NUMBER_TYPE_COERCE") from None


async def read_body(request: web.Request, decode: Callable[[bytes | str], T]) -> T:
    """The body in its shape; a 400 that names the field otherwise."""
    with request[WAITING]():
        raw = await request.read()
    # A slow client has used up no time of the server's.
    deadline.begin()
    try:
        return decode(raw)
    except UnreadableJson as fault:
        raise body_error(fault) from None


def audit_reason(request: web.Request) -> str | None:
    """Why something is done, as X-Audit-Log-Reason says it: percent-encoded UTF-8."""
    header = request.headers.get("X-Audit-Log-Reason", "")
    reason = unquote(header, errors="replace").replace("\0", "").strip()
    if len(reason) > _MAX_REASON:
        raise field_error("X-Audit-Log-Reason", f"Must be {_MAX_REASON} or fewer in length")
    return reason or None


def read_query(request: web.Request, kind: type[T]) -> T:
    """The query string in its shape: numbers in ASCII digits only, the last of repeated keys."""
    fields = {f.name: f for f in msgspec.structs.fields(kind)}  # type: ignore[arg-type]  # a Struct
    values: dict[str, object] = {}
    for key, text in request.query.items():
        if key not in fields:
            continue
        values[key] = _scalar(fields[key].type, key, text)
    try:
        return convert(values, kind)
    except UnreadableJson as fault:
        raise body_error(fault) from None


def _scalar(kind: object, key: str, text: str) -> object:
    """A query value as what its field takes. int() alone would accept `1_000` and ` 7 `."""
    wanted = _members(kind)
    if Snowflake in wanted or str in wanted:
        return text
    if bool in wanted and text in {"true", "false", "1", "0"}:
        return text in {"true", "1"}
    if int in wanted:
        if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004
            raise field_error(key, f'"{text[:40]}" is not a number', "NUMBER_TYPE_COERCE")
        return int(text)
    raise field_error(key, f'"{text[:40]}" is not a value for this parameter')


def _members(kind: object) -> set[object]:
    """The plain types of a field: those of a union, without what Annotated adds."""
    inner = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
    args = getattr(inner, "__args__", None)
    if not args:
        return {inner}
    return set().union(*(_members(arg) for arg in args))
