"""Answers: JSON with the exact content type that existing client libraries insist on."""

from aiohttp import web

from internal.errors import AppError
from internal.utils.json import encode

# aiohttp's json_response adds a charset, which stops five of seven client libraries.
_JSON = "application/json"


def ok(value: object, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type=_JSON)


def created(value: object) -> web.Response:
    return ok(value, status=201)


def ok_bytes(body: bytes, status: int = 200) -> web.Response:
    """JSON that was encoded before."""
    return web.Response(body=body, status=status, content_type=_JSON)


def no_content() -> web.Response:
    return web.Response(status=204)


def error_body(error: AppError) -> dict[str, object]:
    """The one shape of errors, for REST and for the gateway's answers."""
    body: dict[str, object] = {"code": error.code, "message": str(error)}
    if error.errors is not None:
        body["errors"] = error.errors
    if error.retry_after is not None:
        body["retry_after"] = round(error.retry_after, 3)
    return body
