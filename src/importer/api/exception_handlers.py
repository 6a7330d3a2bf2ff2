"""Exceptions as problems: whatever a request raises, Litestar's plugin answers it as application/problem+json."""

from __future__ import annotations

import http
import uuid

import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import ParameterKwarg
from litestar.plugins.problem_details import ProblemDetailsConfig, ProblemDetailsPlugin

from importer.api.head_requests import with_head
from importer.api.problems import FieldError, ProblemCode, RequestProblem, invalid_fields
from importer.api.request_bodies import MAX_BODY_BYTES
from importer.api.requests import AnyRequest, invalid_path_parameter
from importer.store.errors import IdempotencyConflict, StoreBusy, StoreError, StoreFull
from loader.contract import FailureCode
from loader.errors import LoaderError

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def problem_details() -> ProblemDetailsPlugin:
    """Return the plugin that answers a RequestProblem as it is, and every other exception by `as_problem`."""
    return ProblemDetailsPlugin(
        ProblemDetailsConfig(exception_to_problem_detail_map={Exception: _logged_problem})
    )


def invalid_parameters(request: AnyRequest, error: ValidationException) -> Response[dict[str, object]]:
    """Answer a request with invalid parameters; the problem has the names that clients use."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    errors: list[FieldError] = []
    for entry in error.extra if isinstance(error.extra, list) else []:
        field, message = str(entry["key"]), str(entry["message"])
        if field in request.path_params:
            return invalid_path_parameter(field, request.path_params[field]).to_response(request)
        if field in parameters and isinstance(known := parameters[field].kwarg_definition, ParameterKwarg):
            values = [
                value for each in parameters[field].inner_types if each.is_literal for value in each.args
            ]
            message = f"Expected {' or '.join(values)}" if values else message  # msgspec's does not list them
            field = known.name or field
        errors.append(FieldError(field, message))
    if not errors:
        return RequestProblem(ProblemCode.INVALID_REQUEST, f"{error.detail}.").to_response(request)
    return invalid_fields(errors).to_response(request)


def as_problem(error: Exception) -> RequestProblem:
    """Return the problem of an exception. That of an unexpected one has no details of it."""
    match error:
        case HTTPException():
            return _http_problem(error)
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
            return _internal_error()


def _logged_problem(error: Exception) -> RequestProblem:
    """Return the problem of an exception; log that of a defect, with an id that its problem has, too."""
    problem = as_problem(error)
    if problem.status_code == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        problem.instance = uuid.uuid4().urn
        _log.error("request failed", instance=problem.instance, exc_info=error)
    return problem


def _http_problem(error: HTTPException) -> RequestProblem:
    """Return the problem of an exception that Litestar raises before or instead of a handler."""
    match error.status_code:
        case 400:
            return RequestProblem(ProblemCode.INVALID_REQUEST, f"{error.detail}.")
        case 404:
            return RequestProblem(ProblemCode.PATH_NOT_FOUND, "No resource has this path.")
        case 405:
            allowed = with_head((error.headers or {}).get("allow", ""))
            return RequestProblem(
                ProblemCode.METHOD_NOT_ALLOWED, f"The path allows {allowed}.", headers={"Allow": allowed}
            )
        case 413:
            return RequestProblem(
                ProblemCode.BODY_TOO_LARGE, f"The body is larger than {MAX_BODY_BYTES // 1024} KiB."
            )
        case _:
            return _internal_error()


def _internal_error() -> RequestProblem:
    return RequestProblem(
        ProblemCode.INTERNAL_ERROR, "The request failed because of a defect of the service."
    )
