"""What handlers and application say about the OpenAPI 3.1 document: its head, its tags, the errors of an operation."""

from __future__ import annotations

from collections import defaultdict

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import Contact, Example, License, SecurityScheme, Server, Tag

from importer.api import examples
from importer.api.openapi_document import DocumentComponents
from importer.api.problems import PROBLEM_JSON, PROBLEM_KINDS, Problem, ProblemCode
from importer.api.schema_pages import RenderedOnce, SwaggerPage, schema_router

IMPORTS = "imports"
SERVICE = "service"

_NAME = "large-file-importer"
_SECURITY_SCHEME = "token"


def problem_responses(*codes: ProblemCode) -> dict[int, ResponseSpec]:
    """Return the error responses that clients of an operation handle: these problems, and an invalid request.

    The document has all others as one response, `default`.
    """
    by_status: defaultdict[int, list[ProblemCode]] = defaultdict(list)
    for code in (ProblemCode.INVALID_REQUEST, *codes):
        by_status[PROBLEM_KINDS[code].status].append(code)
    return {
        status: ResponseSpec(
            Problem,
            media_type=PROBLEM_JSON,
            description=" ".join(PROBLEM_KINDS[code].title for code in among),
            examples=[Example(id=code.value, value=examples.problem(code)) for code in among],
            generate_examples=False,
        )
        for status, among in sorted(by_status.items())
    }


def openapi_config(version: str, *, root_path: str, requires_token: bool) -> OpenAPIConfig:
    """Return Litestar's configuration of the document and of the pages that show it."""
    token = SecurityScheme(type="http", scheme="bearer", description="The token of this service.")
    return OpenAPIConfig(
        title="Large file importer",
        version=version,
        description="Imports huge CSV files from URLs into Postgres. Each import publishes all rows of its file or none."
        " Links are paths on this server. Every error is application/problem+json (RFC 9457).",
        contact=Contact(name=_NAME),
        # The project grants no licence. SPDX has no identifier for that.
        license=License("All rights reserved", identifier="LicenseRef-all-rights-reserved"),
        tags=[
            Tag(IMPORTS, "One import loads one file into the table trips, once."),
            Tag(SERVICE, "Health checks for operators and their tools."),
        ],
        servers=[Server(root_path or "/")],
        # Not without a token: the page would show locks where there are none.
        components=DocumentComponents(security_schemes={_SECURITY_SCHEME: token} if requires_token else {}),
        security=[{_SECURITY_SCHEME: []}] if requires_token else [],
        render_plugins=[
            SwaggerPage(),
            RenderedOnce(JsonRenderPlugin()),
            RenderedOnce(YamlRenderPlugin(path="/openapi.yaml")),
        ],
        openapi_router=schema_router(),
    )
