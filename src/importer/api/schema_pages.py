"""The pages at /schema: Swagger UI from an installed package, and the table of problem and failure codes.

The pages load files of this server only; a Content-Security-Policy enforces that.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from litestar import Router, get
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import PathParameter
from litestar.response import File

from importer.api.problems import PROBLEM_KINDS, ProblemCode, RequestProblem
from importer.api.requests import AnyRequest
from importer.api.root_path import link
from loader.contract import FAILURE_KINDS

_FOLDER = "/schema"
# Swagger UI sets styles of single elements and draws its icons from data: URLs. Scripts are files of this server.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "no-referrer"}
# A list: the folder also has an editor, source maps and pages with inline scripts.
_ASSET_TYPES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
# A new version of the service may bring new assets under the old names.
_CACHED_SECONDS = 3600

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="{folder}/assets/favicon-32x32.png">
{head}
</head>
<body>
{body}
</body>
</html>
"""
_SWAGGER_HEAD = """<link rel="stylesheet" href="{folder}/assets/swagger-ui.css">
<script src="{folder}/assets/swagger-ui-bundle.js" defer></script>
<script src="{folder}/start.js" defer></script>"""
# An absolute URL: a page that was opened with the token in its URL can't request a relative one.
_SWAGGER_START = """SwaggerUIBundle({{
  url: location.origin + "{folder}/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
}});
"""


class SwaggerPage(OpenAPIRenderPlugin):
    """Swagger UI at /schema. Litestar's own plugin starts it by an inline script, which the policy forbids."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: AnyRequest, openapi_schema: Mapping[str, object]) -> bytes:  # noqa: ARG002 - Litestar's signature
        """Return the page; it loads the document itself."""
        head = _SWAGGER_HEAD.format(folder=link(_FOLDER))
        return _page("Large file importer", head, '<div id="swagger-ui"></div>').encode()


class RenderedOnce(OpenAPIRenderPlugin):
    """The document as another plugin renders it, which takes tens of milliseconds. It is rendered at the first request."""

    def __init__(self, plugin: OpenAPIRenderPlugin) -> None:
        super().__init__(path=plugin.paths, media_type=plugin.media_type)
        self._plugin = plugin
        self._rendered: bytes | None = None

    def render(self, request: AnyRequest, openapi_schema: Mapping[str, object]) -> bytes:
        """Return the document."""
        if self._rendered is None:
            self._rendered = self._plugin.render(request, dict(openapi_schema))  # pyright: ignore[reportUnknownMemberType] - Litestar's
        return self._rendered


@get("/start.js", media_type="text/javascript", sync_to_thread=False)
def get_start() -> str:
    """Return the script that starts Swagger UI."""
    return _SWAGGER_START.format(folder=link(_FOLDER))


@get("/assets/{name:str}", sync_to_thread=False)
def get_asset(name: Annotated[str, PathParameter()]) -> File:
    """Return a file of Swagger UI."""
    if name not in _ASSET_TYPES:
        raise _path_not_found()
    return File(
        _assets_folder() / name,
        media_type=_ASSET_TYPES[name],
        filename=name,
        content_disposition_type="inline",
        headers={"Cache-Control": f"max-age={_CACHED_SECONDS}"},
    )


@get("/problems", media_type="text/html", sync_to_thread=False)
def get_problems() -> str:
    """Return the table of codes; the `type` of a problem is a link to its row."""
    problems = [(code, str(kind.status), f"{kind.title} {kind.hint}") for code, kind in PROBLEM_KINDS.items()]
    failures = [
        (code, "retryable" if kind.retryable else "final", kind.meaning)
        for code, kind in FAILURE_KINDS.items()
    ]
    body = (
        "<h1>Problems of requests</h1>"
        + _table(problems)
        + "<h1>Failures of imports</h1>"
        + _table(failures, anchor="failure-")
    )
    head = "<style>body {font-family: sans-serif} td {padding: 0.2em 1em; vertical-align: top}</style>"
    return _page("Problems and failures", head, body)


def schema_router() -> Router:
    """Return the router of /schema, to which Litestar adds the page and the document as JSON and YAML."""
    return Router(
        _FOLDER,
        route_handlers=[get_start, get_asset, get_problems],
        before_request=_refuse_unknown_path,
        include_in_schema=False,
        response_headers=_HEADERS,
    )


def _refuse_unknown_path(request: AnyRequest) -> None:
    """Raise PATH_NOT_FOUND for a path that only Litestar's catch-all route matches: that one returns HTML."""
    if request.scope["path_template"] == "/schema/{path}":
        raise _path_not_found()


def _page(title: str, head: str, body: str) -> str:
    return _PAGE.format(title=title, folder=link(_FOLDER), head=head, body=body)


def _path_not_found() -> RequestProblem:
    return RequestProblem(ProblemCode.PATH_NOT_FOUND, "No resource has this path.")


def _table(rows: Sequence[tuple[str, str, str]], anchor: str = "") -> str:
    return (
        "<table>"
        + "".join(
            f'<tr id="{anchor}{code}"><td><code>{code}</code><td>{status}<td>{html.escape(text)}'
            for code, status, text in rows
        )
        + "</table>"
    )


def _assets_folder() -> Path:
    """Return the folder with Swagger UI in the package swagger-ui-py. The package's code is not imported."""
    found = importlib.util.find_spec("swagger_ui")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("swagger_ui")
    return Path(found.origin).with_name("static")
