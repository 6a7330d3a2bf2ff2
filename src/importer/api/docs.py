"""The pages at /schema: Swagger UI from an installed package, and what the codes of problems and failures mean.

A browser needs nothing but this server for them, and a Content-Security-Policy keeps it that way.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from litestar import Router, get
from litestar.params import PathParameter
from litestar.response import File

from importer.api.problems import PROBLEM_KINDS, ProblemCode, RequestProblem
from loader.contract import FAILURE_KINDS

# Swagger UI sets styles of single elements and draws its icons from data: URLs. Scripts are files of ours, nothing else.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "no-referrer"}
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
<link rel="icon" type="image/png" href="/schema/assets/favicon-32x32.png">
{head}
</head>
<body>
{body}
</body>
</html>
"""
_SWAGGER_HEAD = """<link rel="stylesheet" href="/schema/assets/swagger-ui.css">
<script src="/schema/assets/swagger-ui-bundle.js" defer></script>
<script src="/schema/start.js" defer></script>"""
_SWAGGER_START = """SwaggerUIBundle({
  url: "/schema/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""


def schema_router(document: Mapping[str, object]) -> Router:
    """Return what answers under /schema: the page, its files, the document as JSON and YAML, the codes."""
    as_json = msgspec.json.encode(document)

    @get("/openapi.json", media_type="application/vnd.oai.openapi+json", sync_to_thread=False)
    def get_json() -> bytes:
        return as_json

    @get("/openapi.yaml", media_type="application/vnd.oai.openapi", sync_to_thread=True)
    def get_yaml() -> str:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)

    return Router(
        "/schema",
        route_handlers=[get_page, get_start, get_asset, get_problems, get_json, get_yaml],
        include_in_schema=False,
        response_headers=_HEADERS,
    )


@get("/", media_type="text/html", sync_to_thread=False)
def get_page() -> str:
    """Answer with the page that shows the document, and tries its operations."""
    return _PAGE.format(title="Large file importer", head=_SWAGGER_HEAD, body='<div id="swagger-ui"></div>')


@get("/start.js", media_type="text/javascript", sync_to_thread=False)
def get_start() -> str:
    """Answer with what starts Swagger UI; in a file, so that no inline script is needed."""
    return _SWAGGER_START


@get("/assets/{name:str}", sync_to_thread=False)
def get_asset(name: Annotated[str, PathParameter()]) -> File:
    """Answer with a file of Swagger UI."""
    if name not in _ASSET_TYPES:
        raise RequestProblem(ProblemCode.PATH_NOT_FOUND, "Nothing is at this path.")
    return File(
        _assets_folder() / name,
        media_type=_ASSET_TYPES[name],
        filename=name,
        content_disposition_type="inline",
        headers={"Cache-Control": f"max-age={_CACHED_SECONDS}"},
    )


@get("/problems", media_type="text/html", sync_to_thread=False)
def get_problems() -> str:
    """Answer with the table of codes; a problem's `type` leads here."""
    problems = [(code, str(kind.status), f"{kind.title} {kind.hint}") for code, kind in PROBLEM_KINDS.items()]
    failures = [
        (code, "may be tried again" if kind.retryable else "final", kind.meaning)
        for code, kind in FAILURE_KINDS.items()
    ]
    body = (
        "<h1>Problems of requests</h1>"
        + _table(problems)
        + "<h1>Failures of imports</h1>"
        + _table(failures, anchor="failure-")
    )
    head = "<style>body {font-family: sans-serif} td {padding: 0.2em 1em; vertical-align: top}</style>"
    return _PAGE.format(title="Problems and failures", head=head, body=body)


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
    """Return where the package swagger-ui-py has Swagger UI; its code, which is not needed, is not imported."""
    found = importlib.util.find_spec("swagger_ui")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("swagger_ui")
    return Path(found.origin).with_name("static")
