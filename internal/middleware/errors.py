"""Every failure in the one shape of errors."""

from collections.abc import Mapping
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from internal.errors import (
    AppError,
    BodyTooLarge,
    HttpError,
    MethodNotAllowed,
    NotFound,
    SlowDown,
    Unauthorized,
    Unavailable,
    error_body,
)
from internal.middleware.logging import route_of
from internal.utils.json import encode

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_BY_STATUS: Final[Mapping[int, type[AppError]]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
}
_FIRST_ERROR: Final = 400
_TOO_SLOW: Final = 408


class LateBody(TimeoutError):
    """The body of the request did not come in time."""


def errors() -> Middleware:
    """Answer failures of everything further in."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except AppError as fault:
            return error_response(fault)
        except web.HTTPException as fault:
            return _http_response(fault)
        except (ConnectionError, web.RequestPayloadError):
            # The body broke off or was no body: there may be nobody left to read this.
            return error_response(HttpError())
        except TimeoutError as fault:
            return _timeout_response(request, fault)
        except Exception:  # noqa: BLE001  # The last one who can answer, and it is logged.
            _log.exception("failed", method=request.method, route=route_of(request))
            return error_response(AppError())

    return answer


def error_response(fault: AppError, status: int | None = None) -> web.Response:
    """Answer with an error of the catalogue; `status` where the HTTP layer has its own."""
    body = error_body(fault)
    headers = {}
    if fault.status == SlowDown.status:
        # Client libraries wait only when they find these; without `Via` some raise instead.
        body["global"] = False
        headers["Via"] = "1.1 parley"
        headers["X-RateLimit-Scope"] = "user"
    if isinstance(fault, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if fault.retry_after is not None:
        headers["Retry-After"] = str(max(1, int(fault.retry_after + 0.999)))
    return web.Response(
        body=encode(body),
        status=status or fault.status,
        headers=headers,
        content_type="application/json",
    )


def _timeout_response(request: web.Request, fault: TimeoutError) -> web.Response:
    """Say who was too slow: the client, or the server."""
    if isinstance(fault, LateBody):
        response = error_response(HttpError("The body came too slowly"), _TOO_SLOW)
        # What may still come of it would be read as the next request.
        response.force_close()
        return response
    _log.warning("timed out", method=request.method, route=route_of(request))
    return error_response(Unavailable(retry_after=1))


def _http_response(fault: web.HTTPException) -> web.StreamResponse:
    """Put a refusal of the HTTP layer into our shape. A redirect is no error: it passes."""
    if fault.status < _FIRST_ERROR:
        raise fault
    kind = _BY_STATUS.get(fault.status)
    response = error_response(kind() if kind else HttpError(fault.reason), fault.status)
    if "Allow" in fault.headers:
        response.headers["Allow"] = fault.headers["Allow"]
    return response
