"""The moves of an import that are more than one UPDATE: each a transaction of the control DB, written out."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from uuid import UUID

import msgspec

from importer import import_rows
from importer.errors import IdempotencyConflict
from importer.import_rows import IMPORT_COLUMNS, Parameters, json_text, time_text
from importer.imports import FINISHED, Ending, Import, State, may_move
from loader.wire import Job

# The oldest import first, one that is to be tried again included: it holds staging, and others have waited less.
NEXT_IN_QUEUE = (
    "SELECT sequence FROM import WHERE state = 'queued' AND (not_before IS NULL OR not_before <= :now)"
    " ORDER BY sequence LIMIT 1"
)


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
    inserted = import_rows.imports(
        connection,
        "INSERT INTO import"
        " (id, idempotency_key, job, state, version, attempt_count, retry_count, locked_count, keeps_staging, created_at)"
        " VALUES (:id, :key, :job, 'queued', 1, 0, 0, 0, 0, :now) ON CONFLICT (idempotency_key) DO NOTHING"
        f" RETURNING {IMPORT_COLUMNS}",
        row,
    )
    if inserted:
        return inserted[0], True
    (known,) = import_rows.imports(
        connection, f"SELECT {IMPORT_COLUMNS} FROM import WHERE idempotency_key = :key", row
    )
    if _body(known.job) != _body(job):
        raise IdempotencyConflict(known.id)
    return known, False


def claim(connection: sqlite3.Connection, now: datetime) -> list[Import]:
    """Begin an attempt at the first import in the queue that is due; return it, or nothing."""
    row: Parameters = {"now": time_text(now)}
    claimed = import_rows.imports(
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
    connection: sqlite3.Connection, import_id: UUID, ending: Ending, now: datetime
) -> list[Import]:
    """End the attempt that runs, if one does, and move its import; return it, or nothing where that is no move."""
    is_end = ending.state in FINISHED
    origins = [
        origin
        for origin in (State.RUNNING, State.CANCELLING)
        if (is_end or ending.state is State.QUEUED) and may_move(origin, ending.state)
    ]
    keeps_staging = ending.state is State.FAILED and ending.keeps_staging
    moved = import_rows.update_import(
        connection,
        import_id,
        origins,
        "state = :state, phase = NULL, finished_at = :finished_at, retry_count = retry_count + :retried,"
        " error = :error, receipt = :receipt, not_before = :not_before, keeps_staging = :keeps_staging,"
        # what was rolled back has come nowhere, and what the roll back counted was no progress of the import
        " progress = CASE WHEN :is_kept AND phase IS NOT 'rolling_back' THEN progress END",
        {
            "state": ending.state,
            "finished_at": time_text(now) if is_end else None,
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


def _body(job: Job) -> Job:
    return msgspec.structs.replace(job, import_id=None)
