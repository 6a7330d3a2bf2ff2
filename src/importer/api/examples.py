"""The examples in the OpenAPI document."""

from __future__ import annotations

import datetime
from uuid import UUID

import msgspec

from importer.api import cursor as cursors
from importer.api.problems import PROBLEM_KINDS, FieldError, Problem, ProblemCode, RequestProblem
from importer.api.request_bodies import NewImport, RetryImport
from importer.api.schemas import Attempt, AttemptPage, Health, Import, ImportPage, Reject
from importer.model import Attempt as StoredAttempt
from importer.model import Import as StoredImport
from importer.model import State
from loader.contract import Failure, FailureCode, Job, Progress, Receipt

_URL = "https://example.org/fhvhv_tripdata_2024-01.csv"
_CREATED_AT = datetime.datetime(2026, 1, 30, 8, 15, tzinfo=datetime.UTC)

_QUEUED = StoredImport(
    id=UUID("0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d"),
    sequence=12,
    job=Job(_URL, max_rejects="0.1%"),
    label="January",
    state=State.QUEUED,
    version=1,
    phase=None,
    progress=None,
    attempt_count=0,
    retry_count=0,
    locked_count=0,
    keeps_staging=False,
    created_at=_CREATED_AT,
    started_at=None,
    series_started_at=None,
    finished_at=None,
    not_before=None,
    error=None,
    receipt=None,
)
_RUNNING = msgspec.structs.replace(
    _QUEUED,
    state=State.RUNNING,
    version=57,
    phase="loading",
    progress=Progress(
        bytes_done=1_236_402_176,
        bytes_total=2_958_031_214,
        percent=41.8,
        rows_loaded=7_784_112,
        rows_rejected=2,
        bytes_per_second=96_250_000.0,
        rows_per_second=606_100.0,
        eta_seconds=17.9,
    ),
    attempt_count=1,
    started_at=_CREATED_AT + datetime.timedelta(milliseconds=20),
)
_SUCCEEDED = msgspec.structs.replace(
    _RUNNING,
    state=State.SUCCEEDED,
    version=83,
    phase=None,
    finished_at=_CREATED_AT + datetime.timedelta(seconds=31),
    receipt=Receipt(
        import_id=str(_RUNNING.id),
        import_key=7,
        source=_URL,
        validator='"9a0364b9e99bb480dd25e1f0284c8555"',
        source_bytes=2_958_031_214,
        data_bytes=2_958_031_214,
        length_verified=True,
        blocks=353,
        parts=3,
        rows_parsed=19_663_930,
        rows_copied=19_663_928,
        rows_published=19_663_928,
        rows_rejected=2,
        attempts=1,
        seconds=30.6,
        published_at="2026-01-30T08:15:30.700000+00:00",
        database="taxi at db.example.org:5432",
    ),
)
_CANCELLING = msgspec.structs.replace(_RUNNING, state=State.CANCELLING, version=58)
_REMOVING = msgspec.structs.replace(_SUCCEEDED, state=State.REMOVING, version=84)
_FAILURE = Failure(
    code=FailureCode.BAD_ROW,
    message="Line 4, column trip_miles: not a number.",
    hint="Correct the file, or allow rejects.",
    retryable=False,
    line=4,
    byte_offset=768,
    column="trip_miles",
    value="n/a",
)

_RETRIED = msgspec.structs.replace(_RUNNING, state=State.QUEUED, version=60, phase=None, error=_FAILURE)
_ATTEMPT = Attempt.of(
    _RUNNING.id,
    StoredAttempt(1, _CREATED_AT, _CREATED_AT + datetime.timedelta(seconds=2), 65, _FAILURE),
)

_PROBLEM_DETAILS: dict[ProblemCode, str] = {
    ProblemCode.INVALID_REQUEST: "limit: Expected `int` <= 200.",
    ProblemCode.IMPORT_NOT_FOUND: f"There is no import {_RUNNING.id}.",
    ProblemCode.ATTEMPT_NOT_FOUND: f"Import {_RUNNING.id} has no attempt 2: it has had 1.",
    ProblemCode.WRONG_STATE: f"Import {_RUNNING.id} is succeeded: it can't be cancelled.",
    ProblemCode.HAS_ROWS: f"Import {_RUNNING.id} is succeeded: its rows are in trips.",
    ProblemCode.NOTHING_LOADED: f"The database has no rows of import {_RUNNING.id}, which is queued.",
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: "The Content-Type is 'text/plain'.",
    ProblemCode.INVALID_URL: "The url is not valid: it is neither http nor https.",
    ProblemCode.IDEMPOTENCY_CONFLICT: f"The idempotency key belongs to import {_RUNNING.id}, which has another body.",
}
_PROBLEM_STATES = {
    ProblemCode.WRONG_STATE: State.SUCCEEDED,
    ProblemCode.HAS_ROWS: State.SUCCEEDED,
    ProblemCode.NOTHING_LOADED: State.QUEUED,
}


def problem(code: ProblemCode) -> Problem:
    """Return a problem as a client may receive it."""
    return RequestProblem(
        code,
        _PROBLEM_DETAILS.get(code, PROBLEM_KINDS[code].title),
        state=_PROBLEM_STATES.get(code),
        errors=[FieldError("limit", "Expected `int` <= 200")] if code is ProblemCode.INVALID_REQUEST else [],
    ).problem


# Of the schemas.
EXAMPLES: dict[str, list[msgspec.Struct]] = {
    "NewImport": [NewImport(_URL, label="January", max_rejects="0.1%")],
    "RetryImport": [RetryImport(f"{_URL}?signature=new")],
    "Import": [Import.of(_RUNNING), Import.of(_SUCCEEDED)],
    "ImportPage": [ImportPage([Import.of(_RUNNING)], cursors.encode(_RUNNING.sequence))],
    "Attempt": [_ATTEMPT],
    "AttemptPage": [AttemptPage([_ATTEMPT], None)],
    "Reject": [
        Reject(4, 768, "trip_miles", "n/a", "not a number", "HV0003,B03404,B03404,2024-01-01 00:21:47,n/a")
    ],
    "Health": [Health("ready")],
    "Problem": [problem(ProblemCode.WRONG_STATE)],
}
# Of the successful responses, by operation. Those not listed have the examples of their schema.
RESPONSES: dict[str, dict[str, Import]] = {
    "submitImport": {"queued": Import.of(_QUEUED)},
    "cancelImport": {"cancelling": Import.of(_CANCELLING)},
    "retryImport": {"queued": Import.of(_RETRIED)},
    "removeImport": {"removing": Import.of(_REMOVING)},
}
