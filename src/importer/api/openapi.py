"""The OpenAPI 3.1 document: Litestar derives paths and parameters, msgspec the schemas; this module adds the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    Tag,
)

from importer.api import examples
from importer.api.problems import PROBLEM_JSON, PROBLEM_KINDS, Problem, ProblemCode
from importer.api.request_bodies import NewImport, RetryImport
from importer.api.schema_pages import SwaggerPage, schema_router
from importer.api.schemas import Attempt, Health, Import, ImportPage, Reject

IMPORTS = "imports"
SERVICE = "service"

_SCHEMAS = "#/components/schemas/{name}"
# The problems that every operation may have.
_ALWAYS = (
    ProblemCode.INVALID_REQUEST,
    ProblemCode.METHOD_NOT_ALLOWED,
    ProblemCode.UNKNOWN_HOST,
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.CONTROL_DB_BUSY,
)


def problem_responses(*codes: ProblemCode) -> dict[int, ResponseSpec]:
    """Return the error responses of an operation: these problems, and those that every operation may have."""
    by_status: defaultdict[int, list[ProblemCode]] = defaultdict(list)
    for code in (*codes, *_ALWAYS):
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


@dataclass
class _MsgspecComponents(Components):
    """The schemas as msgspec enforces them. Litestar's lack additionalProperties and the constraints within unions."""

    def to_schema(self) -> dict[str, object]:
        """Return the schemas by name, with their examples."""
        types = [NewImport, RetryImport, Import, ImportPage, Attempt, Reject, Health, Problem]
        _, schemas = msgspec.json.schema_components(types, ref_template=_SCHEMAS)
        for name, shown in examples.EXAMPLES.items():
            schemas[name]["examples"] = msgspec.to_builtins(shown)
        return {"schemas": schemas}


def openapi_config(version: str) -> OpenAPIConfig:
    """Return Litestar's configuration of the document and of the pages that show it."""
    return OpenAPIConfig(
        title="Large file importer",
        version=version,
        description="Imports huge CSV files from URLs into Postgres. Each import publishes all rows of its file or none."
        " Links are paths on this server. Every error is application/problem+json (RFC 9457).",
        tags=[
            Tag(IMPORTS, "One import loads one file into the table trips, once."),
            Tag(SERVICE, "Health checks for operators and their tools."),
        ],
        components=_MsgspecComponents(),
        render_plugins=[SwaggerPage(), JsonRenderPlugin(), YamlRenderPlugin(path="/openapi.yaml")],
        openapi_router=schema_router(),
    )


def complete(document: OpenAPI) -> None:
    """Add to the operations what Litestar can't derive: raw bodies, media types, headers of errors."""
    for operation in _operations(document):
        _complete(operation)


def _complete(operation: Operation) -> None:
    for parameter in operation.parameters or []:
        schema = parameter.schema if isinstance(parameter, Parameter) else None
        if isinstance(schema, Schema) and schema.default == "":
            schema.default = None  # "" means: not sent
    responses = {
        status: response
        for status, response in (operation.responses or {}).items()
        if isinstance(response, OpenAPIResponse)
    }
    for status, response in responses.items():
        _complete_problem(status, response)
    match operation.operation_id:
        case "submitImport":
            content = {"application/json": OpenAPIMediaType(_reference("NewImport"))}
            operation.request_body = RequestBody(content, required=True)
        case "retryImport":
            content = {"application/json": OpenAPIMediaType(_reference("RetryImport"))}
            operation.request_body = RequestBody(content, required=False)
        case "watchImport":
            responses["200"].content = {"text/event-stream": OpenAPIMediaType()}  # no JSON, no schema
        case "listRejects":
            items = Schema(type=OpenAPIType.ARRAY, items=_reference("Reject"))
            responses["200"].content = {
                "text/csv": OpenAPIMediaType(Schema(type=OpenAPIType.STRING)),
                "application/json": OpenAPIMediaType(items),
            }
        case _:
            pass
    operation.responses = dict(sorted(responses.items()))


def _complete_problem(status: str, response: OpenAPIResponse) -> None:
    if status == "405":
        response.headers = {"Allow": _header("The methods of the path.")}
    elif status == "503":
        response.headers = {"Retry-After": _header("Seconds to wait before the same request.")}
    for media_type in (response.content or {}).values():
        for example in (media_type.examples or {}).values():
            if isinstance(example, Example):
                example.id = None  # Litestar's key of the example, and no field of OpenAPI's


def _operations(document: OpenAPI) -> Iterator[Operation]:
    for path in (document.paths or {}).values():
        for operation in (path.get, path.post, path.delete):
            if operation is not None:
                yield operation


def _reference(name: str) -> Reference:
    return Reference(_SCHEMAS.format(name=name))


def _header(description: str) -> OpenAPIHeader:
    return OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=description)
