"""The parts of the OpenAPI document that Litestar can't derive from the handlers. Each is added once, at start.

Litestar derives paths, parameters and responses. From here come the schemas, which msgspec derives from the structs, request
bodies, which handlers read themselves, media types other than JSON, examples, and the response `default`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
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
)

from importer.api import examples
from importer.api.problems import PROBLEM_JSON, Problem, ProblemCode
from importer.api.request_bodies import NewImport, RetryImport
from importer.api.schemas import AttemptPage, Health, Import, ImportEvent, ImportPage, Reject, RemovedEvent

_SCHEMAS = "#/components/schemas/{name}"
_REQUEST_BODIES = {"submitImport": NewImport, "retryImport": RetryImport}
_RESPONSES = (Import, ImportPage, AttemptPage, Reject, Health, Problem)
_OTHER_PROBLEM = "OtherProblem"
_OTHER_PROBLEM_CODES = (
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.CONTROL_DB_BUSY,
)

JsonSchema = dict[str, Any]  # JSON Schema nests without limit


def _other_problem() -> dict[str, OpenAPIResponse | Reference]:
    content = OpenAPIMediaType(
        _reference("Problem"),
        examples=_examples({code: examples.problem(code) for code in _OTHER_PROBLEM_CODES}),
    )
    response = OpenAPIResponse(
        "Any other problem. /schema/problems lists the codes.",
        content={PROBLEM_JSON: content},
        headers={
            "Retry-After": _header("With status 503: seconds to wait before the same request."),
            "Allow": _header("With status 405: the methods of the path."),
        },
    )
    return {_OTHER_PROBLEM: response}


@dataclass
class DocumentComponents(Components):
    """The schemas as msgspec enforces them. Litestar's lack additionalProperties and the constraints within unions."""

    responses: dict[str, OpenAPIResponse | Reference] | None = field(default_factory=_other_problem)

    def to_schema(self) -> dict[str, Any]:
        """Return the schemas by name, with their examples, and the other components."""
        types = (*_REQUEST_BODIES.values(), *_RESPONSES, ImportEvent | RemovedEvent)
        (*_, event), schemas = msgspec.json.schema_components(types, ref_template=_SCHEMAS)
        schemas["Event"] = {"description": "A server-sent event.", **event}
        for schema in schemas.values():
            _add_type_of_enum(schema)
        for body in _REQUEST_BODIES.values():
            _describe_defaults(schemas[body.__name__])
        for name, shown in examples.EXAMPLES.items():
            schemas[name]["examples"] = msgspec.to_builtins(shown)
        return {**super().to_schema(), "schemas": schemas}


def _add_type_of_enum(schema: JsonSchema) -> None:
    for each in (schema, *schema.get("properties", {}).values()):
        if "enum" in each:
            each.setdefault("type", "string")


def _describe_defaults(schema: JsonSchema) -> None:
    """Say the defaults in the descriptions only: generators of clients make a field with `default` required."""
    for each in schema["properties"].values():
        default = each.pop("default", None)
        if default is not None:
            each["description"] += f" Default: {json.dumps(default)}."


def complete(document: OpenAPI) -> None:
    """Complete the operations of the document."""
    for operation in _operations(document):
        _complete(operation)
        if operation.operation_id == "getLiveness":
            operation.security = []  # without the token


def _complete(operation: Operation) -> None:
    name = operation.operation_id or ""
    for parameter in operation.parameters or []:
        schema = parameter.schema if isinstance(parameter, Parameter) else None
        if isinstance(schema, Schema) and schema.default == "":
            schema.default = None  # "" means: not sent
        if isinstance(parameter, Parameter) and (name, parameter.name) == ("listImports", "state"):
            parameter.schema = Schema(type=OpenAPIType.ARRAY, items=_reference("State"))
            parameter.style, parameter.explode = "form", False
        if isinstance(parameter, Parameter) and (name, parameter.name) == ("removeImport", "rows"):
            parameter.schema = Schema(type=OpenAPIType.STRING, enum=["drop"])
    if body := _REQUEST_BODIES.get(name):
        content = {"application/json": OpenAPIMediaType(_reference(body.__name__))}
        is_required = any(each.required for each in msgspec.structs.fields(body))
        operation.request_body = RequestBody(content, required=is_required)
    responses = operation.responses or {}
    for status, response in responses.items():
        if not isinstance(response, OpenAPIResponse):
            continue
        if status < "400":
            _complete_success(name, response)
        else:
            _complete_problem(status, response)
    operation.responses = {
        **dict(sorted(responses.items())),
        "default": Reference(f"#/components/responses/{_OTHER_PROBLEM}"),
    }


def _complete_success(name: str, response: OpenAPIResponse) -> None:
    if response.content is None:
        return
    match name:
        case "watchImport":
            # OpenAPI 3.1 has no keyword for it: the schema is that of one event.
            response.content = {"text/event-stream": OpenAPIMediaType(_reference("Event"))}
        case "listRejects":
            rejects = Schema(type=OpenAPIType.ARRAY, items=_reference("Reject"))
            response.content = {"application/json": OpenAPIMediaType(rejects)}
        case "downloadRejects":
            response.content = {"text/csv": OpenAPIMediaType(Schema(type=OpenAPIType.STRING))}
        case _:
            pass
    if shown := examples.RESPONSES.get(name):
        response.content["application/json"].examples = _examples(shown)


def _complete_problem(status: str, response: OpenAPIResponse) -> None:
    if status == "503":
        response.headers = {"Retry-After": _header("Seconds to wait before the same request.")}
    for content in (response.content or {}).values():
        for example in (content.examples or {}).values():
            if isinstance(example, Example):
                example.id = None  # Litestar's key of the example, and no field of OpenAPI's


def _operations(document: OpenAPI) -> Iterator[Operation]:
    for path in (document.paths or {}).values():
        for operation in (path.get, path.post, path.delete):
            if operation is not None:
                yield operation


def _examples(values: Mapping[str, msgspec.Struct]) -> dict[str, Example | Reference]:
    # Structs: Litestar drops the null values of a dict.
    return {name: Example(value=value) for name, value in values.items()}


def _reference(name: str) -> Reference:
    return Reference(_SCHEMAS.format(name=name))


def _header(description: str) -> OpenAPIHeader:
    return OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=description)
