"""Writes what the documents say of the code: errors, routes, limits, close reasons, gateway."""

import re
import typing
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final, cast

import msgspec

from internal.chat.message.model import SendMessage
from internal.chat.ws.events import CloseReason, Op
from internal.chat.ws.model import (
    LookAtMembers,
    MemberListUpdate,
    MembersChunk,
    Ready,
    RequestLimited,
    RequestMembers,
)
from internal.chat.ws.session import IdentifyBody, ResumeBody
from internal.errors import AppError, HttpError, type_by_code
from internal.events import Event
from internal.middleware import rate_limit
from internal.middleware.rate_limit import Rule
from internal.presence.model import PresenceUpdate
from internal.routes.openapi import ErrorBody
from internal.routes.route import Route
from internal.routes.routes import Handlers, table
from internal.routes.site import VERSION
from internal.utils.json import schema_hook

PROTOCOL: Final = Path("docs/protocol.md")
ERRORS: Final = Path("docs/errors.md")
ASYNCAPI: Final = Path("docs/asyncapi.json")

# What is dispatched to the one socket that asked for it.
ANSWERS: Final[Mapping[str, list[Any]]] = {
    "GUILD_MEMBERS_CHUNK": [MembersChunk],
    "GUILD_MEMBER_LIST_UPDATE": [MemberListUpdate],
    "RATE_LIMITED": [RequestLimited],
}

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_MARKED: Final = re.compile(
    r"(<!-- begin (?P<name>[a-z-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL
)
_ERRORS_INTRODUCTION: Final = """\
<!-- Generated from internal/errors.py by `make docs`; changes belong there. -->
# Errors

Every refusal, of whatever route, has one shape:

```json
{"code": 50035, "message": "Invalid Form Body",
 "errors": {"name": {"_errors": [
   {"code": "BASE_TYPE_REQUIRED", "message": "This field is required"}]}}}
```

- `code` is stable: programs go by it. `message` is for people and may be worded better some day.
- `errors` stands in faults of a body or a query (50035). It nests by field, lists by index, and
  ends in `_errors`. Bodies are told one fault at a time: the first that was found.
- `retry_after` (seconds, a float) and the header `Retry-After` (whole seconds, rounded up) stand
  where waiting helps. Code 20028 also has `global`, which is always false here.
- What one may not see is a 404 with the code of its kind, never a 403.
- The gateway answers a refused send (opcode 101) with the same shape in `error`. Closing a socket
  has words of its own: see [protocol.md](protocol.md#close-reasons).

The numbers follow the ranges of Discord's public API, which client libraries read: 10xxx unknown,
20xxx not for you now, 30xxx too many, 40xxx accounts, 50xxx invalid or forbidden. 90xxx are ours.

| status | code | name in the code | message |
|---|---|---|---|
"""


def routes() -> list[Route]:
    """The route table, without anybody who answers."""
    return table(cast("Handlers", _Nobody()))


def events() -> dict[str, list[Any]]:
    """Every event that the log or the hub may dispatch, with the shapes of its payload."""
    found: dict[str, list[Any]] = {}
    for kind in _leaves(Event):
        # Tests have events of their own; names in lower case stay inside the server.
        if kind.__module__.startswith("internal.") and not kind.type.islower():
            shapes = found.setdefault(kind.type, [])
            if (shape := _payload_of(kind)) not in shapes:
                shapes.append(shape)
    return dict(sorted(found.items()))


def render_errors() -> str:
    """Return docs/errors.md."""
    kinds: list[type[AppError]] = [AppError, *(type_by_code[code] for code in sorted(type_by_code))]
    rows = [
        f"| {'that of the refusal' if kind is HttpError else kind.status} | {kind.code} "
        f"| `{kind.__name__}` | {kind.message} |\n"
        for kind in kinds
        if kind.__module__ == AppError.__module__
    ]
    return _ERRORS_INTRODUCTION + "".join(rows)


def render_protocol(text: str) -> str:
    """Return docs/protocol.md with its generated parts as the code has them."""
    parts = {
        "routes": _routes_part(),
        "limits": _limits_part(),
        "close-reasons": _close_reasons_part(),
    }
    return _MARKED.sub(lambda found: f"{found[1]}{parts[found['name']]}{found[3]}", text)


def render_asyncapi() -> str:
    """Return docs/asyncapi.json: the gateway, message by message."""
    raw = msgspec.json.encode(_asyncapi())
    return msgspec.json.format(raw, indent=2).decode() + "\n"


class _Nobody:
    """Stands for every handler: a document needs to know of none of them."""

    def __getattr__(self, _name: str) -> "_Nobody":
        return self

    def __call__(self, *_handlers: object) -> "_Nobody":
        return self


# The marked parts of docs/protocol.md.


def _routes_part() -> str:
    lines: list[str] = []
    for tag, rows in groupby(routes(), key=lambda row: row.tag):
        lines += [
            f"\n### {tag}\n",
            "| route | does | takes | answers | refuses | limit |",
            "|---|---|---|---|---|---|",
            *map(_route_line, rows),
        ]
    return "\n".join(lines) + "\n\n"


def _route_line(row: Route) -> str:
    first, *others = row.paths
    names = "<br>".join([f"`{row.method} {first}`", *(f"`{path}`" for path in others)])
    takes = "; ".join(
        f"{where}: {_fields(kind)}"
        for where, kind in (("body", row.body), ("query", row.query))
        if kind
    )
    answers = f"{row.status} {_names(row.answer)}".strip()
    refuses = ", ".join(str(kind.code) for kind in row.errors)
    limit = f"{row.rule.name}{' (no token)' if row.is_public else ''}"
    return f"| {names} | {row.summary} | {takes} | {answers} | {refuses} | {limit} |"


def _fields(kind: Any) -> str:
    """A struct's fields; those that may be left out bear a question mark."""
    if isinstance(kind, tuple):
        return " or ".join(map(_fields, kind))
    if typing.get_origin(kind) is Annotated:
        return _fields(typing.get_args(kind)[0])
    if typing.get_origin(kind) is list:
        return f"list of {_fields(typing.get_args(kind)[0])}"
    return " ".join(
        f"`{field.encode_name}{'' if field.required else '?'}`"
        for field in msgspec.structs.fields(kind)
    )


def _names(answer: Any) -> str:
    if answer is None:
        return ""
    if isinstance(answer, tuple):
        return " or ".join(map(_names, answer))
    if typing.get_origin(answer) is list:
        return f"list of `{typing.get_args(answer)[0].__name__}`"
    return f"`{answer.__name__}`"


def _limits_part() -> str:
    rules = [rule for rule in vars(rate_limit).values() if isinstance(rule, Rule)]
    lines = ["| bucket | counted by | at once | then |", "|---|---|---|---|"]
    lines += [
        f"| `{rule.name}` | {rule.per} | {rule.rate.capacity:g} | {_pace(rule.rate.per_s)} |"
        for rule in rules
    ]
    return "\n".join(lines) + "\n"


def _pace(per_s: float) -> str:
    for unit, seconds in (("second", 1), ("minute", _MINUTE_S), ("hour", _HOUR_S)):
        if per_s * seconds >= 1:
            return (
                f"{per_s * seconds:g} a {unit}"
                if unit != "hour"
                else f"{per_s * seconds:g} an hour"
            )
    return f"{per_s:g} a second"


def _close_reasons_part() -> str:
    lines = ["| code | name | means | RESUME may follow |", "|---|---|---|---|"]
    lines += [
        f"| {reason.code} | `{reason.name}` | {reason.sentence} "
        f"| {'yes' if reason.resumable else 'no'} |"
        for reason in CloseReason
    ]
    return "\n".join(lines) + "\n"


# docs/asyncapi.json.


def _asyncapi() -> dict[str, Any]:
    dispatched = {"READY": [Ready], **ANSWERS, **events()}
    bodies: dict[str, Any] = {
        "IDENTIFY": IdentifyBody,
        "UPDATE_PRESENCE": PresenceUpdate,
        "RESUME": ResumeBody,
        "REQUEST_GUILD_MEMBERS": RequestMembers,
        "SEND": SendMessage,
        "LOOK_AT_MEMBERS": LookAtMembers,
    }
    kinds = [*bodies.values(), ErrorBody, *(one for many in dispatched.values() for one in many)]
    schemas, components = msgspec.json.schema_components(
        kinds, schema_hook=_schema_hook, ref_template="#/components/schemas/{name}"
    )
    # They come in the order of `kinds`.
    described = iter(schemas)
    taken = {name: next(described) for name in bodies}
    error = next(described)
    told = {name: [next(described) for _ in many] for name, many in dispatched.items()}
    sent = {"nonce": {"type": ["string", "integer", "null"]}, "error": error}
    sent["message"] = told["MESSAGE_CREATE"][0]
    of_client = {
        Op.HEARTBEAT.name: _message(Op.HEARTBEAT, {"type": ["integer", "null"]}),
        **{name: _message(Op[name], schema) for name, schema in taken.items()},
    }
    of_server = {
        Op.HELLO.name: _message(Op.HELLO, _object({"heartbeat_interval": {"type": "integer"}})),
        Op.HEARTBEAT_ACK.name: _message(Op.HEARTBEAT_ACK, {"type": "null"}),
        Op.RECONNECT.name: _message(Op.RECONNECT, {"type": "null"}),
        Op.INVALID_SESSION.name: _message(Op.INVALID_SESSION, {"const": False}),
        Op.SENT.name: _message(Op.SENT, _object(sent, required=["nonce"])),
        "RESUMED": _dispatch("RESUMED", [{"type": "object"}]),
        **{name: _dispatch(name, shapes) for name, shapes in told.items()},
    }
    return _document(of_client, of_server, components)


def _schema_hook(kind: type) -> dict[str, Any]:
    """READY takes what the features give it; to the gateway these are just objects."""
    return {"type": "object"} if kind is object else schema_hook(kind)


def _document(
    of_client: Mapping[str, Any], of_server: Mapping[str, Any], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    query = {
        name: {"type": "string", **more}
        for name, more in {"v": {"const": "10"}, "encoding": {"const": "json"}, "token": {}}.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Parley gateway",
            "version": VERSION,
            "description": "Generated by `make docs`. docs/protocol.md tells the rules.",
            "license": {"name": "MIT"},
        },
        "servers": {"local": {"host": "localhost:8080", "protocol": "ws"}},
        "channels": {
            "gateway": {
                "address": "/gateway",
                "messages": {
                    name: {"$ref": f"#/components/messages/{name}"}
                    for name in (*of_client, *of_server)
                },
                "bindings": {"ws": {"method": "GET", "query": _object(query, required=[])}},
            }
        },
        "operations": {
            "hear": _operation("receive", of_client),
            "tell": _operation("send", of_server),
        },
        "components": {"messages": {**of_client, **of_server}, "schemas": schemas},
    }


def _operation(action: str, messages: Iterable[str]) -> dict[str, Any]:
    """What the server does; it sends what clients receive."""
    channel = "#/channels/gateway"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in messages],
    }


def _message(op: Op, schema: Any) -> dict[str, Any]:
    properties = {"op": {"const": int(op)}, "d": schema}
    return {"name": op.name, "payload": _object(properties)}


def _dispatch(name: str, shapes: list[Any]) -> dict[str, Any]:
    properties = {
        "op": {"const": int(Op.DISPATCH)},
        "t": {"const": name},
        "s": {"type": "integer", "minimum": 0},
        "d": shapes[0] if len(shapes) == 1 else {"oneOf": shapes},
    }
    return {"name": name, "payload": _object(properties)}


def _object(properties: Mapping[str, Any], *, required: list[str] | None = None) -> dict[str, Any]:
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed}


def _leaves(kind: type[Event]) -> Iterable[type[Event]]:
    """Every kind of event; one may stand for itself and be the base of others."""
    for one in kind.__subclasses__():
        if "type" in vars(one):
            yield one
        yield from _leaves(one)


def _payload_of(kind: type[Event]) -> Any:
    """What `d` is: what payload() says that it returns, or the event itself."""
    shape = typing.get_type_hints(kind.payload)["return"]
    return kind if shape is object else shape


def _write() -> None:
    ERRORS.write_text(render_errors(), encoding="utf-8")
    ASYNCAPI.write_text(render_asyncapi(), encoding="utf-8")
    PROTOCOL.write_text(render_protocol(PROTOCOL.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _write()
