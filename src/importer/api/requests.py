"""What handlers share: the types of their parameters, and the import that a path names."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter, SkipValidation

from importer.api.problems import FieldError, ProblemCode, RequestProblem
from importer.api.state import Service
from importer.model import Import

AnyRequest = Request[object, object, State]
FromService = NamedDependency[SkipValidation[Service]]
# In a route their type is str: Litestar answers a path that does not fit `{import_id:uuid}` as an unknown path.
ImportId = Annotated[UUID, PathParameter(description="The id of the import.")]
AttemptNumber = Annotated[int, PathParameter(description="The number of the attempt.", ge=1, le=2**31)]

PageLength = Annotated[int, QueryParameter(description="Entries in a page.", ge=1, le=200)]
PageCursor = Annotated[str, QueryParameter(description="`next_cursor` of the previous page.", max_length=100)]


async def refuse_unknown_input(request: AnyRequest) -> None:
    """Raise INVALID_REQUEST if the operation does not know a query parameter, such as a misspelt one, or takes no body."""
    _refuse_unknown_parameters(request)
    takes_body = "body" in request.route_handler.parsed_fn_signature.parameters
    if not takes_body and await request.body():
        raise RequestProblem(
            ProblemCode.INVALID_REQUEST, "The request has a body; this operation takes none."
        )


def _refuse_unknown_parameters(request: AnyRequest) -> None:
    known = [
        each.kwarg_definition.name or name
        for name, each in request.route_handler.parsed_fn_signature.parameters.items()
        if isinstance(each.kwarg_definition, QueryParameter)
    ]
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        raise RequestProblem(
            ProblemCode.INVALID_REQUEST,
            f"The query has {', '.join(f'{name[:100]!a}' for name in unknown[:10])}; this operation takes"
            f" {', '.join(known) or 'no parameters'}.",
            errors=[FieldError(name, "Unknown parameter") for name in unknown],
        )


def client_of(request: AnyRequest) -> dict[str, str]:
    """Return who sent a request, for the log: the peer's address, and X-Forwarded-For, which anyone may send."""
    client = {} if request.client is None else {"client": request.client.host}
    forwarded_for = request.headers.get("x-forwarded-for")
    return client if forwarded_for is None else {**client, "forwarded_for": forwarded_for[:200]}


async def find(service: Service, import_id: UUID) -> Import:
    """Return an import; raises IMPORT_NOT_FOUND."""
    found = await service.store.get(import_id)
    if found is None:
        raise not_found(import_id)
    return found


def not_found(import_id: UUID) -> RequestProblem:
    """Return the problem of an id that no import has, or has any more."""
    return RequestProblem(ProblemCode.IMPORT_NOT_FOUND, f"There is no import {import_id}.")


def invalid_path_parameter(name: str, value: object) -> RequestProblem:
    """Return the problem of a part of a path that is no id, or no number of an attempt."""
    if name == "import_id":
        detail = f"There is no import {str(value)[:100]!a}: an id is a UUID."
        return RequestProblem(ProblemCode.IMPORT_NOT_FOUND, detail)
    detail = f"There is no attempt {str(value)[:100]!a}: attempts are numbered from 1."
    return RequestProblem(ProblemCode.ATTEMPT_NOT_FOUND, detail)
