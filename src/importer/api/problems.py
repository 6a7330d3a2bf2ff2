"""What can be wrong with a request: the codes, and the problem that a client sees, as RFC 9457 has it. Pure."""

from __future__ import annotations

import enum
import http
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from importer.model import State

PROBLEM_JSON = "application/problem+json"
# Where the codes are explained; a problem's `type` is this page and the code (RFC 9457, 3.1.1, allows relative references).
PROBLEMS_PATH = "/schema/problems"
# Said with each 503. By then a backup has let the control DB go, a client may have left its place, and a database that
# was away is asked anew.
_RETRY_AFTER_SECONDS = 2


class ProblemCode(enum.StrEnum):
    """What can be wrong with a request; what can be wrong with an import is a FailureCode."""

    INVALID_REQUEST = "invalid_request"
    PATH_NOT_FOUND = "path_not_found"
    IMPORT_NOT_FOUND = "import_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    WRONG_STATE = "wrong_state"
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
    """What is true of every problem with one code."""

    status: int
    title: str
    hint: str


PROBLEM_KINDS: dict[ProblemCode, ProblemKind] = {
    ProblemCode.INVALID_REQUEST: ProblemKind(
        400,
        "The request is not what this operation takes.",
        "/schema describes the operations, with examples.",
    ),
    ProblemCode.PATH_NOT_FOUND: ProblemKind(404, "There is no such path.", "/schema lists the operations."),
    ProblemCode.IMPORT_NOT_FOUND: ProblemKind(
        404,
        "There is no import with this id.",
        "GET /imports lists them; those that finished long ago are forgotten.",
    ),
    ProblemCode.METHOD_NOT_ALLOWED: ProblemKind(
        405, "This path does not take this method.", "The header Allow lists those that it takes."
    ),
    ProblemCode.WRONG_STATE: ProblemKind(
        409, "The import's state does not allow this.", "`state` is where the import stands."
    ),
    ProblemCode.NOTHING_LOADED: ProblemKind(
        409,
        "The database has nothing of this import.",
        "`state` tells why: nothing is committed yet, or it was rolled back. `error` of the import has its first bad row.",
    ),
    ProblemCode.BODY_TOO_LARGE: ProblemKind(
        413, "The request body is too large.", "Send the file's URL, not the file."
    ),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: ProblemKind(
        415, "The request body is not JSON.", "Send it with Content-Type: application/json."
    ),
    ProblemCode.UNKNOWN_HOST: ProblemKind(
        421,
        "The request names a host that this service is not known by.",
        "Ask for it by its IP address, or have its operator add the name to IMPORTER_SERVER_NAMES.",
    ),
    ProblemCode.INVALID_URL: ProblemKind(
        422, "The address of the file can't be used.", "Send an absolute http or https URL."
    ),
    ProblemCode.IDEMPOTENCY_CONFLICT: ProblemKind(
        422,
        "The Idempotency-Key was used for another request.",
        "Use a new key for a new import; repeat a request with exactly its first body.",
    ),
    ProblemCode.INTERNAL_ERROR: ProblemKind(
        500,
        "A defect of the service.",
        "Please report it, with `instance`: the service's log has the details under this id.",
    ),
    ProblemCode.CONTROL_DB_UNUSABLE: ProblemKind(
        500, "The control DB can't be used.", "The service's operator has to look at it."
    ),
    ProblemCode.CONTROL_DB_BUSY: ProblemKind(
        503, "The control DB is locked by another program.", "Send the same request again in a moment."
    ),
    ProblemCode.CONTROL_DB_FULL: ProblemKind(
        507, "There is no room to write the control DB.", "Free space on the service's disk."
    ),
    ProblemCode.TOO_BUSY: ProblemKind(
        503,
        "The service has as many of these requests in hand as it serves at a time.",
        "Send the same request again in a moment; end those that are no longer needed.",
    ),
    ProblemCode.NOT_READY: ProblemKind(
        503, "The service can't do its work at the moment.", "It tries again by itself; see its log."
    ),
    ProblemCode.DATABASE_UNAVAILABLE: ProblemKind(
        503,
        "The target database can't be asked, or refuses to answer.",
        "Try again when it is up; GET /health/ready tells.",
    ),
}


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one part of the request."""

    field: Annotated[str, Meta(examples=["limit"])]
    message: Annotated[str, Meta(examples=["Expected `int` <= 200"])]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not done (RFC 9457): what happened, and what to do next."""

    type: Annotated[
        str, Meta(description="Where the code is explained.", examples=["/schema/problems#wrong_state"])
    ]
    title: Annotated[str, Meta(description="What is true of each problem with this code.")]
    status: Annotated[int, Meta(description="The HTTP status.", ge=400, le=599)]
    detail: Annotated[str, Meta(description="What happened this time, for people.")]
    code: Annotated[str, Meta(description="For programs. More may come.", examples=["wrong_state"])]
    hint: Annotated[str, Meta(description="What to do next.")]
    state: Annotated[State | None, Meta(description="Where the import stands, if that is the problem.")] = (
        None
    )
    errors: Annotated[
        list[FieldError], Meta(description="What is wrong with which part of the request.")
    ] = []
    instance: Annotated[
        str | None, Meta(description="A name for this very problem, which the service's log has, too.")
    ] = None


class RequestProblem(Exception):  # noqa: N818 - a problem, as RFC 9457 has it
    """Raised by whatever can't do what a request asks for."""

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
        super().__init__(detail)
        kind = PROBLEM_KINDS[code]
        self.headers = dict(headers or {})
        if kind.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
        self.problem = Problem(
            type=f"{PROBLEMS_PATH}#{code}",
            title=kind.title,
            status=kind.status,
            detail=detail,
            code=code,
            hint=hint or kind.hint,
            state=state,
            errors=list(errors),
        )
