"""The OpenAPI 3.1 document: Litestar derives paths and parameters, msgspec the schemas; what neither knows is added here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
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
from importer.api.schemas import Attempt, Health, Import, ImportPage, NewImport, Reject, RetryImport

IMPORTS = "imports"
SERVICE = "service"

_SCHEMAS = "#/components/schemas/{name}"
_ALWAYS = (
    ProblemCode.INVALID_REQUEST,
    ProblemCode.METHOD_NOT_ALLOWED,
    ProblemCode.UNKNOWN_HOST,
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.CONTROL_DB_BUSY,
)


def problem_responses(*codes: ProblemCode) -> dict[int, ResponseSpec]:
    """Return the errors of an operation, those included that any may have."""
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


def openapi_document(
    handlers: Sequence[HTTPRouteHandler], dependencies: Mapping[str, Provide], version: str
) -> dict[str, object]:
    """Return the document of these handlers, as JSON has it."""
    config = OpenAPIConfig(
        title="Large file importer",
        version=version,
        description="Imports huge CSVs from URLs into Postgres: submitted, watched, cancelled; all of a file or nothing of"
        " it. All links are paths on this server. Every error is application/problem+json (RFC 9457).",
        tags=[
            Tag(IMPORTS, "A file loaded into trips, once: submitted, watched, cancelled, removed."),
            Tag(SERVICE, "For operators and their machines."),
        ],
    )
    # An application of its own: Litestar's pages for the document answer unknown paths with HTML.
    app = Litestar(handlers, dependencies=dependencies, openapi_config=config, logging_config=None)
    described = app.openapi_schema
    for operation in _operations(described):
        _complete(operation)
    document = described.to_schema()
    # Litestar's schemas lack the constraints within unions, and additionalProperties: msgspec's are what it enforces.
    document["components"] = {"schemas": _schemas()}
    return msgspec.to_builtins(document)


def _complete(operation: Operation) -> None:
    for parameter in operation.parameters or []:
        schema = parameter.schema if isinstance(parameter, Parameter) else None
        if isinstance(schema, Schema) and schema.default == "":
            schema.default = None  # what is left out has no value
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
            responses["204"] = OpenAPIResponse(
                "The import has ended, and Last-Event-ID is its last event's: there is nothing to come back for."
            )
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
        response.headers = {"Allow": _header("The methods that the path takes.")}
    elif status == "503":
        response.headers = {"Retry-After": _header("Seconds to wait before the same request.")}
    for media_type in (response.content or {}).values():
        for example in (media_type.examples or {}).values():
            if isinstance(example, Example):
                example.id = None  # its key; as a field OpenAPI does not know it


def _schemas() -> dict[str, dict[str, object]]:
    types = [NewImport, RetryImport, Import, ImportPage, Attempt, Reject, Health, Problem]
    _, schemas = msgspec.json.schema_components(types, ref_template=_SCHEMAS)
    for name, shown in examples.EXAMPLES.items():
        schemas[name]["examples"] = msgspec.to_builtins(shown)
    return schemas


def _operations(document: OpenAPI) -> Iterator[Operation]:
    for path in (document.paths or {}).values():
        for operation in (path.get, path.post, path.delete):
            if operation is not None:
                yield operation


def _reference(name: str) -> Reference:
    return Reference(_SCHEMAS.format(name=name))


def _header(description: str) -> OpenAPIHeader:
    return OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=description)
