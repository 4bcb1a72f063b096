"""Answers: JSON with the exact content type that existing client libraries insist on."""

from aiohttp import web

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
