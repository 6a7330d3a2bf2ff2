"""How a request that ends in an exception is answered: always with a problem, whoever raised it."""

from __future__ import annotations

import http
import uuid

import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import ParameterKwarg

from importer.api.lookup import AnyRequest
from importer.api.problems import PROBLEM_JSON, FieldError, Problem, ProblemCode, RequestProblem
from importer.store.errors import IdempotencyConflict, StoreBusy, StoreError, StoreFull
from loader.contract import FailureCode
from loader.errors import LoaderError

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def answer(request: AnyRequest, error: Exception) -> Response[Problem]:
    """Answer a request that ended in an exception, whichever it is."""
    told = _as_invalid(request, error) if isinstance(error, ValidationException) else as_problem(error)
    problem = told.problem
    if problem.status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        problem = msgspec.structs.replace(problem, instance=uuid.uuid4().urn)
        _log.error("request failed", instance=problem.instance, exc_info=error)
    return Response(problem, status_code=problem.status, media_type=PROBLEM_JSON, headers=told.headers)


def as_problem(error: Exception) -> RequestProblem:
    """Return what an exception says to the client; of one that nobody expected, nothing but that."""
    match error:
        case RequestProblem():
            return error
        case HTTPException():
            return _as_http_problem(error)
        case StoreBusy():
            return RequestProblem(ProblemCode.CONTROL_DB_BUSY, error.message)
        case StoreFull():
            return RequestProblem(ProblemCode.CONTROL_DB_FULL, error.message, hint=error.hint)
        case StoreError():
            return RequestProblem(ProblemCode.CONTROL_DB_UNUSABLE, error.message, hint=error.hint)
        case IdempotencyConflict():
            return RequestProblem(ProblemCode.IDEMPOTENCY_CONFLICT, str(error))
        case LoaderError() if error.code is not FailureCode.INTERNAL_ERROR:
            failure = error.failure
            return RequestProblem(ProblemCode.DATABASE_UNAVAILABLE, failure.message, hint=failure.hint)
        case _:
            return RequestProblem(ProblemCode.INTERNAL_ERROR, "The service could not do this.")


def _as_http_problem(error: HTTPException) -> RequestProblem:
    """Return what Litestar says before, or instead of, a handler of ours."""
    match error.status_code:
        case 400:
            return RequestProblem(ProblemCode.INVALID_REQUEST, f"{error.detail}.")
        case 404:
            return RequestProblem(ProblemCode.PATH_NOT_FOUND, "Nothing is at this path.")
        case 405:
            allowed = (error.headers or {}).get("allow", "")
            detail = f"The path takes {allowed}."
            return RequestProblem(ProblemCode.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
        case 413:
            return RequestProblem(
                ProblemCode.BODY_TOO_LARGE, "The body is larger than any request for an import can be."
            )
        case _:
            return RequestProblem(ProblemCode.INTERNAL_ERROR, "The service could not do this.")


def _as_invalid(request: AnyRequest, error: ValidationException) -> RequestProblem:
    """Return which parameters are wrong, by the names that clients know."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    errors: list[FieldError] = []
    for entry in error.extra if isinstance(error.extra, list) else []:
        field = str(entry["key"])
        if field in parameters and isinstance(known := parameters[field].kwarg_definition, ParameterKwarg):
            field = known.name or field
        errors.append(FieldError(field, str(entry["message"])))
    detail = "; ".join(f"{each.field}: {each.message}" for each in errors)
    return RequestProblem(ProblemCode.INVALID_REQUEST, f"{detail or error.detail}.", errors=errors)
