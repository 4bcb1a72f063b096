"""The page to read and try the API on: Swagger UI, from its package."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from internal.utils.json import encode
from internal.utils.response import ok_bytes

# Not the whole folder: it holds an editor, too.
_ASSETS: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
# Swagger UI sets styles on elements and draws its icons from data URIs.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parley API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  persistAuthorization: false,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null
});
"""


class DocsHandler:
    """Serves the description and the page. `describe` is called once, at the first request."""

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe
        self._description: bytes | None = None
        spec = find_spec("swagger_ui")
        folder = Path(spec.origin or "").parent / "static" if spec else Path()
        self._assets = {name: folder / name for name in _ASSETS}

    async def openapi(self, _request: web.Request) -> web.Response:
        if self._description is None:
            self._description = encode(self._describe())
        return ok_bytes(self._description)

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(
            text=_PAGE, content_type="text/html", headers={"Content-Security-Policy": _POLICY}
        )

    async def start(self, _request: web.Request) -> web.Response:
        return web.Response(text=_START, content_type="text/javascript")

    async def asset(self, request: web.Request) -> web.StreamResponse:
        path = self._assets.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(
            path,
            headers={
                "Content-Type": _ASSETS[path.name],
                "Cache-Control": "public, max-age=86400",
            },
        )
