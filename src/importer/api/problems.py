"""What can be wrong with a request: the codes, and the problem that a client receives (RFC 9457)."""

from __future__ import annotations

import enum
import http
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from litestar.plugins.problem_details import ProblemDetailsException
from msgspec import Meta

from importer.api.root_path import link
from importer.model import State
from loader.text import printable

PROBLEM_JSON = "application/problem+json"
# The page that explains the codes. The `type` of a problem is this path and its code; RFC 9457, 3.1.1, allows relative
# references.
PROBLEMS_PATH = "/schema/problems"
# Sent with each 503. By then a backup has released the control DB, a client may have left, and the service has probed a
# database that was unavailable again.
_RETRY_AFTER_SECONDS = 2


class ProblemCode(enum.StrEnum):
    """What can be wrong with a request. What can be wrong with an import is a FailureCode."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    PATH_NOT_FOUND = "path_not_found"
    IMPORT_NOT_FOUND = "import_not_found"
    ATTEMPT_NOT_FOUND = "attempt_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    WRONG_STATE = "wrong_state"
    HAS_ROWS = "has_rows"
    NOTHING_LOADED = "nothing_loaded"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNKNOWN_HOST = "unknown_host"
    INVALID_URL = "invalid_url"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    INTERNAL_ERROR = "internal_error"
    CONTROL_DB_UNUSABLE = "control_db_unusable"
    CONTROL_DB_BUSY = "control_db_busy"
    CONTROL_DB_FULL = "control_db_full"
    TOO_BUSY = "too_busy"
    NOT_READY = "not_ready"
    DATABASE_UNAVAILABLE = "database_unavailable"


class ProblemKind(msgspec.Struct, frozen=True):
    """What all problems with one code have in common."""

    status: int
    title: str
    hint: str


PROBLEM_KINDS: dict[ProblemCode, ProblemKind] = {
    ProblemCode.INVALID_REQUEST: ProblemKind(
        400,
        "The request is not valid.",
        "See /schema for the parameters and bodies of each operation, with examples.",
    ),
    ProblemCode.UNAUTHORIZED: ProblemKind(
        401,
        "The request does not have the service's token.",
        "Send the header `Authorization: Bearer TOKEN`; the command importer takes the token from IMPORTER_TOKEN or"
        " IMPORTER_TOKEN_FILE. The service's operator has it.",
    ),
    ProblemCode.PATH_NOT_FOUND: ProblemKind(
        404, "The path does not exist.", "See /schema for the operations."
    ),
    ProblemCode.IMPORT_NOT_FOUND: ProblemKind(
        404,
        "There is no import with this id.",
        "GET /imports lists the imports. Records of imports that finished long ago are deleted.",
    ),
    ProblemCode.ATTEMPT_NOT_FOUND: ProblemKind(
        404,
        "The import has no attempt with this number.",
        "GET /imports/{id}/attempts lists its attempts.",
    ),
    ProblemCode.METHOD_NOT_ALLOWED: ProblemKind(
        405, "The path does not allow this method.", "The header Allow lists the methods of the path."
    ),
    ProblemCode.WRONG_STATE: ProblemKind(
        409,
        "The import's state does not allow this.",
        "GET /imports/{id} has the actions that are possible now in `links`.",
    ),
    ProblemCode.HAS_ROWS: ProblemKind(
        409,
        "The import has rows in trips.",
        "DELETE with ?rows=drop removes its rows from trips, too.",
    ),
    ProblemCode.NOTHING_LOADED: ProblemKind(
        409,
        "The database has no rows of this import.",
        "`state` says why: no row is committed yet, or the import was rolled back. The import's `error` names its first"
        " bad row.",
    ),
    ProblemCode.BODY_TOO_LARGE: ProblemKind(
        413, "The request body is too large.", "Send the file's URL, not the file."
    ),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: ProblemKind(
        415, "The request body is not JSON.", "Send it with Content-Type: application/json."
    ),
    ProblemCode.UNKNOWN_HOST: ProblemKind(
        421,
        "The Host header names another host.",
        "Use the service's IP address, or have its operator add the name to IMPORTER_SERVER_NAMES.",
    ),
    ProblemCode.INVALID_URL: ProblemKind(
        422, "The URL of the file is not valid.", "Send an absolute http or https URL."
    ),
    ProblemCode.IDEMPOTENCY_CONFLICT: ProblemKind(
        422,
        "The Idempotency-Key belongs to a request with another body.",
        "Use a new key for a new import. To repeat a request, send the same body.",
    ),
    ProblemCode.INTERNAL_ERROR: ProblemKind(
        500,
        "A defect of the service.",
        "Report it with `instance`: the service's log has the details under this id.",
    ),
    ProblemCode.CONTROL_DB_UNUSABLE: ProblemKind(
        500, "The control DB can't be used.", "Ask the service's operator to examine it."
    ),
    ProblemCode.CONTROL_DB_BUSY: ProblemKind(
        503, "The control DB is locked by another program.", "Send the same request again in a moment."
    ),
    ProblemCode.CONTROL_DB_FULL: ProblemKind(
        507, "There is no room to write the control DB.", "Free space on the service's disk."
    ),
    ProblemCode.TOO_BUSY: ProblemKind(
        503,
        "The service has too many concurrent requests of this kind.",
        "Send the same request again in a moment. Close connections that you no longer need.",
    ),
    ProblemCode.NOT_READY: ProblemKind(
        503, "The service is not ready.", "It retries by itself. Its log has the cause."
    ),
    ProblemCode.DATABASE_UNAVAILABLE: ProblemKind(
        503,
        "The target database is not available, or refuses the query.",
        "Send the same request again when GET /health/ready succeeds.",
    ),
}


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field or parameter of the request."""

    field: Annotated[str, Meta(examples=["limit"])]
    message: Annotated[str, Meta(examples=["Expected `int` <= 200"])]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request failed (RFC 9457): what happened, and what to do next."""

    type: Annotated[
        str, Meta(description="The explanation of the code.", examples=["/schema/problems#wrong_state"])
    ]
    title: Annotated[str, Meta(description="What all problems with this code have in common.")]
    status: Annotated[int, Meta(description="The HTTP status.", ge=400, le=599)]
    detail: Annotated[str, Meta(description="What happened this time, for people.")]
    code: Annotated[str, Meta(description="For programs. New codes may come.", examples=["wrong_state"])]
    hint: Annotated[str, Meta(description="What to do next.")]
    state: Annotated[State | None, Meta(description="The import's state, if that is the cause.")] = None
    errors: Annotated[list[FieldError], Meta(description="What is wrong with each field or parameter.")] = []
    instance: Annotated[str | None, Meta(description="The id of this occurrence in the service's log.")] = (
        None
    )


class RequestProblem(ProblemDetailsException):
    """The exception for every request that can't be done. Litestar's problem-details plugin answers with it."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        hint: str | None = None,
        state: State | None = None,
        errors: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        kind = PROBLEM_KINDS[code]
        self.problem = Problem(
            type=link(f"{PROBLEMS_PATH}#{code}"),
            title=kind.title,
            status=kind.status,
            detail=detail,
            code=code,
            hint=hint or kind.hint,
            state=state,
            errors=list(errors),
        )
        is_retryable = kind.status == http.HTTPStatus.SERVICE_UNAVAILABLE
        retry_after = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if is_retryable else {}
        super().__init__(
            detail=detail,
            status_code=kind.status,
            headers={**(headers or {}), **retry_after},
            extra=msgspec.to_builtins(self.problem),  # the plugin writes these fields over its own
        )


def invalid_fields(errors: Sequence[FieldError]) -> RequestProblem:
    """Return the problem of invalid fields or parameters, each of which the detail names."""
    detail = "; ".join(f"{printable(each.field[:100])}: {each.message}" for each in errors)
    return RequestProblem(ProblemCode.INVALID_REQUEST, f"{detail}.", errors=errors)
