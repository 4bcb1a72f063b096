"""The OpenAPI 3.1 description, generated from the route table and the structs it names."""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from internal.errors import (
    AppError,
    BodyTooLarge,
    InvalidFormBody,
    InvalidRequest,
    SlowDown,
    Unauthorized,
    Unavailable,
)
from internal.routes.route import Route
from internal.utils.json import schema_hook

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_REFERENCE: Final = "#/components/schemas/{name}"
_MIRRORED: Final = "The same by other names"
_JSON: Final = "application/json"


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The one shape of errors."""

    code: int
    message: str
    errors: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    retry_after: float | msgspec.UnsetType = msgspec.UNSET


def describe(routes: Iterable[Route], *, server: str, version: str) -> dict[str, Any]:
    """The description of all routes, as a JSON-ready object."""
    rows = list(routes)
    kinds = [ErrorBody, *(kind for row in rows for kind in _kinds(row))]
    schemas, components = msgspec.json.schema_components(
        kinds, schema_hook=schema_hook, ref_template=_REFERENCE
    )
    # They come in the order of `kinds`; a type can't always be the key of a dict.
    described = iter(schemas[1:])
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        bodies = [next(described) for _ in _alternatives(row.body)]
        query = next(described) if row.query else None
        answers = [next(described) for _ in _alternatives(row.answer)]
        for path in row.paths:
            if path != "/" and path.rstrip("/") in paths and path.endswith("/"):
                continue  # the same with a slash, for libraries that add one
            paths.setdefault(path, {})[row.method.lower()] = _operation(
                row, path, bodies, _parameters(query, components), answers
            )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Parley",
            "version": version,
            "summary": "A self-hosted chat server.",
            "description": (
                "Sign up with `POST /auth/register`, then send the `access_token` of the answer "
                "as `Authorization: Bearer …`. Live events come over the WebSocket at `/gateway`."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": server}],
        "security": [{"bearer": []}],
        "tags": [{"name": tag} for tag in (*dict.fromkeys(row.tag for row in rows), _MIRRORED)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _kinds(row: Route) -> list[Any]:
    kinds = (*_alternatives(row.body), row.query, *_alternatives(row.answer))
    return [kind for kind in kinds if kind]


def _alternatives(shapes: Any) -> tuple[Any, ...]:
    """The shapes that a body or an answer may have; a tuple in the table means any of them."""
    if shapes is None:
        return ()
    return shapes if isinstance(shapes, tuple) else (shapes,)


def _operation(
    row: Route, path: str, bodies: list[Any], query: list[dict[str, Any]], answers: list[Any]
) -> dict[str, Any]:
    ids = [
        {"name": name, "in": "path", "required": True, "schema": _part(name)}
        for name in _PLACEHOLDER.findall(path)
    ]
    name = re.sub(r"\W+", "_", f"{row.method.lower()}{path}").strip("_")
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": row.summary,
        "tags": [row.tag if path == row.paths[0] else _MIRRORED],
        "responses": {
            str(row.status): _answer(answers),
            **_refusals(row, has_body=bool(bodies)),
        },
    }
    if ids or query:
        operation["parameters"] = [*ids, *query]
    if bodies:
        body = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    if row.is_public:
        operation["security"] = []
    return operation


def _part(name: str) -> dict[str, Any]:
    """JSON Schema of a part of a path: an id, or a text such as the code of an invite."""
    if name.endswith("_id"):
        return {"type": "string", "pattern": "^[0-9]{1,19}$"}
    return {"type": "string"}


def _answer(schemas: list[Any]) -> dict[str, Any]:
    if not schemas:
        return {"description": "Done; there is nothing to say."}
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"description": "Done.", "content": {_JSON: {"schema": schema}}}


def _refusals(row: Route, *, has_body: bool) -> dict[str, Any]:
    """What may be refused, by status; one status may have several reasons."""
    kinds: list[type[AppError]] = [*row.errors, SlowDown, Unavailable]
    if not row.is_public:
        kinds.append(Unauthorized)
    if has_body:
        kinds += [InvalidRequest, InvalidFormBody, BodyTooLarge]
    elif row.query or "{" in row.paths[0]:
        kinds.append(InvalidFormBody)
    reasons: dict[int, dict[int, str]] = {}
    for kind in kinds:
        reasons.setdefault(kind.status, {})[kind.code] = kind.message
    schema = {"$ref": _REFERENCE.format(name=ErrorBody.__name__)}
    return {
        str(status): {
            "description": "; ".join(f"{code}: {text}" for code, text in sorted(texts.items())),
            "content": {_JSON: {"schema": schema}},
        }
        for status, texts in sorted(reasons.items())
    }


def _parameters(query: Any, components: dict[str, Any]) -> list[dict[str, Any]]:
    if query is None:
        return []
    schema = components[query["$ref"].rsplit("/", 1)[1]]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": part,
        }
        for name, part in schema["properties"].items()
    ]
