"""The moves of an import that are more than one UPDATE: each a transaction of the control DB, written out."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from importer.model import FINISHED, MAX_RETRY_DELAY_SECONDS, AttemptResult, Import, State, can_transition
from importer.store import rows
from importer.store.errors import IdempotencyConflict
from importer.store.rows import IMPORT_COLUMNS, Parameters, json_text, time_text
from loader.contract import FailureCode, Job

# The oldest import first, one that is to be tried again included: it holds staging, and others have waited less.
NEXT_IN_QUEUE = (
    "SELECT sequence FROM import"
    " WHERE state = 'queued' AND (not_before IS NULL OR not_before <= :now OR not_before > :latest)"
    " ORDER BY sequence LIMIT 1"
)
# When the next one becomes due.
NEXT_DUE = "SELECT min(not_before) FROM import WHERE not_before > :now AND not_before <= :latest"


def submit(
    connection: sqlite3.Connection, job: Job, idempotency_key: str | None, now: datetime
) -> tuple[Import, bool]:
    """Put a job into the queue; return the import, and whether it is new. Raises IdempotencyConflict."""
    row: Parameters = {
        "id": job.import_id,
        "key": idempotency_key,
        "job": json_text(job),
        "now": time_text(now),
    }
    inserted = rows.imports(
        connection,
        "INSERT INTO import"
        " (id, idempotency_key, job, state, version, attempt_count, retry_count, locked_count, keeps_staging, created_at)"
        " VALUES (:id, :key, :job, 'queued', 1, 0, 0, 0, 0, :now) ON CONFLICT (idempotency_key) DO NOTHING"
        f" RETURNING {IMPORT_COLUMNS}",
        row,
    )
    if inserted:
        return inserted[0], True
    (known,) = rows.imports(
        connection, f"SELECT {IMPORT_COLUMNS} FROM import WHERE idempotency_key = :key", row
    )
    if _body(_submitted(connection, known)) != _body(job):
        raise IdempotencyConflict(known.id)
    return known, False


def retry(connection: sqlite3.Connection, import_id: UUID, source: str | None) -> list[Import]:
    """Have an import tried again at once, from `source` if that is given; return it, or nothing where that is no move.

    One that is queued without an error is due as it is, and has not failed.
    """
    found = rows.imports(
        connection, f"SELECT {IMPORT_COLUMNS} FROM import WHERE id = :id", {"id": str(import_id)}
    )
    for one in found:
        if one.state is State.QUEUED and one.error is None:
            return []
        job = one.job if source is None else msgspec.structs.replace(one.job, source=source)
        return rows.update_import(
            connection,
            import_id,
            [State.FAILED, State.CANCELLED, State.QUEUED],
            "submitted = CASE WHEN :job = job THEN submitted ELSE coalesce(submitted, job) END, job = :job,"
            " progress = CASE WHEN state = 'queued' THEN progress END, state = 'queued', finished_at = NULL,"
            " not_before = NULL, error = NULL, retry_count = 0, locked_count = 0, keeps_staging = 0",
            {"job": json_text(job)},
        )
    return []


def queue_times(now: datetime) -> Parameters:
    """Return the parameters of NEXT_IN_QUEUE and NEXT_DUE.

    A `not_before` later than `latest` was written by a clock that was ahead, and counts as past: else the import would wait
    until that clock was right.
    """
    latest = now + timedelta(seconds=MAX_RETRY_DELAY_SECONDS)
    return {"now": time_text(now), "latest": time_text(latest)}


def claim(connection: sqlite3.Connection, now: datetime) -> list[Import]:
    """Begin an attempt at the first import in the queue that is due; return it, or nothing."""
    row = queue_times(now)
    claimed = rows.imports(
        connection,
        "UPDATE import SET state = 'running', version = version + 1, attempt_count = attempt_count + 1,"
        " started_at = coalesce(started_at, :now), not_before = NULL, error = NULL"
        f" WHERE sequence = ({NEXT_IN_QUEUE}) RETURNING {IMPORT_COLUMNS}",
        row,
    )
    for one in claimed:
        connection.execute(
            "INSERT INTO attempt (import_sequence, number, started_at) VALUES (:sequence, :number, :now)",
            {"sequence": one.sequence, "number": one.attempt_count, **row},
        )
    return claimed


def finish_attempt(
    connection: sqlite3.Connection, import_id: UUID, ending: AttemptResult, now: datetime
) -> list[Import]:
    """End the attempt that runs, if one does, and move its import; return it, or nothing where that is no move."""
    is_end = ending.state in FINISHED
    origins = [
        origin
        for origin in (State.RUNNING, State.CANCELLING)
        if (is_end or ending.state is State.QUEUED) and can_transition(origin, ending.state)
    ]
    keeps_staging = ending.state is State.FAILED and ending.keeps_staging
    moved = rows.update_import(
        connection,
        import_id,
        origins,
        "state = :state, phase = NULL, finished_at = :finished_at, retry_count = retry_count + :retried,"
        " locked_count = CASE WHEN :is_locked THEN locked_count + 1 WHEN :retried THEN 0 ELSE locked_count END,"
        " error = :error, receipt = :receipt, not_before = :not_before, keeps_staging = :keeps_staging,"
        # what was rolled back has come nowhere, and what the roll back counted was no progress of the import
        " progress = CASE WHEN :is_kept AND phase IS NOT 'rolling_back' THEN progress END",
        {
            "state": ending.state,
            "finished_at": time_text(now) if is_end else None,
            "is_locked": ending.error is not None and ending.error.code is FailureCode.TABLE_LOCKED,
            "retried": ending.state is State.QUEUED and ending.error is not None and ending.is_retried,
            "error": json_text(ending.error) if ending.state in (State.QUEUED, State.FAILED) else None,
            "receipt": json_text(ending.receipt),
            "not_before": time_text(ending.not_before),
            "is_kept": ending.state in (State.QUEUED, State.SUCCEEDED) or keeps_staging,
            "keeps_staging": keeps_staging,
        },
    )
    for one in moved:
        connection.execute(
            "UPDATE attempt SET finished_at = :now, exit_code = :exit_code, error = :error, log = :log"
            " WHERE import_sequence = :sequence AND finished_at IS NULL",
            {
                "sequence": one.sequence,
                "now": time_text(now),
                "exit_code": ending.exit_code,
                "error": json_text(ending.error),
                "log": ending.log,
            },
        )
    return moved


def _submitted(connection: sqlite3.Connection, one: Import) -> Job:
    """Return the job as it was submitted, whatever a retry has made of it since."""
    (text,) = connection.execute(
        "SELECT coalesce(submitted, job) FROM import WHERE sequence = ?", [one.sequence]
    ).fetchone()
    return msgspec.json.decode(text, type=Job)


def _body(job: Job) -> Job:
    return msgspec.structs.replace(job, import_id=None)
