"""The transitions of an import that take more than one UPDATE. Each function runs inside a transaction of the control DB."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import aiosqlite
import msgspec

from importer.model import (
    FINISHED,
    MAX_RETRY_DELAY_SECONDS,
    AttemptResult,
    Import,
    JobChanges,
    State,
    can_transition,
)
from importer.store import rows
from importer.store.errors import IdempotencyConflict
from importer.store.rows import IMPORT_COLUMNS, Parameters, json_text, time_text
from loader.contract import FailureCode, Job

# The oldest import first, retries included: a retried import holds staging, and later ones have waited less.
NEXT_IN_QUEUE = (
    "SELECT sequence FROM import"
    " WHERE state = 'queued' AND (not_before IS NULL OR not_before <= :now OR not_before > :latest)"
    " ORDER BY sequence LIMIT 1"
)
# The time at which the next import becomes due.
NEXT_DUE = "SELECT min(not_before) FROM import WHERE not_before > :now AND not_before <= :latest"


async def submit(
    connection: aiosqlite.Connection,
    job: Job,
    idempotency_key: str | None,
    label: str | None,
    now: datetime,
) -> tuple[Import, bool]:
    """Queue a job; return the import, and whether it is new. Raises IdempotencyConflict."""
    row: Parameters = {
        "id": job.import_id,
        "key": idempotency_key,
        "job": json_text(job),
        "label": label,
        "now": time_text(now),
    }
    inserted = await rows.imports(
        connection,
        "INSERT INTO import"
        " (id, idempotency_key, job, label, state, version, attempt_count, retry_count, locked_count, keeps_staging,"
        " created_at) VALUES (:id, :key, :job, :label, 'queued', 1, 0, 0, 0, 0, :now)"
        " ON CONFLICT (idempotency_key) DO NOTHING"
        f" RETURNING {IMPORT_COLUMNS}",
        row,
    )
    if inserted:
        return inserted[0], True
    (known,) = await rows.imports(
        connection, f"SELECT {IMPORT_COLUMNS} FROM import WHERE idempotency_key = :key", row
    )
    if known.label != label or _without_id(await _submitted_job(connection, known)) != _without_id(job):
        raise IdempotencyConflict(known.id)
    return known, False


async def retry(connection: aiosqlite.Connection, import_id: UUID, changes: JobChanges) -> list[Import]:
    """Queue the next attempt at once with a changed job; return the import, or an empty list if its state forbids it.

    A queued import without an error is due already, and has not failed.
    """
    found = await rows.imports(
        connection, f"SELECT {IMPORT_COLUMNS} FROM import WHERE id = :id", {"id": str(import_id)}
    )
    for one in found:
        if one.state is State.QUEUED and one.error is None:
            return []
        return await rows.update_import(
            connection,
            import_id,
            [State.FAILED, State.CANCELLED, State.QUEUED],
            "submitted = CASE WHEN :job = job THEN submitted ELSE coalesce(submitted, job) END, job = :job,"
            " progress = CASE WHEN state = 'queued' THEN progress END, state = 'queued', finished_at = NULL,"
            " series_started_at = CASE WHEN state = 'queued' THEN series_started_at END,"
            " not_before = NULL, error = NULL, retry_count = 0, locked_count = 0, keeps_staging = 0",
            {"job": json_text(changes.apply(one.job))},
        )
    return []


def queue_times(now: datetime) -> Parameters:
    """Return the parameters of NEXT_IN_QUEUE and NEXT_DUE.

    A `not_before` later than `latest` was written by a clock that was ahead, and counts as past: the import would otherwise
    wait until that time.
    """
    latest = now + timedelta(seconds=MAX_RETRY_DELAY_SECONDS)
    return {"now": time_text(now), "latest": time_text(latest)}


async def claim(connection: aiosqlite.Connection, now: datetime) -> list[Import]:
    """Start an attempt at the first import in the queue that is due; return it, or an empty list."""
    row = queue_times(now)
    claimed = await rows.imports(
        connection,
        "UPDATE import SET state = 'running', version = version + 1, attempt_count = attempt_count + 1,"
        " started_at = coalesce(started_at, :now), series_started_at = coalesce(series_started_at, :now),"
        " not_before = NULL, error = NULL"
        f" WHERE sequence = ({NEXT_IN_QUEUE}) RETURNING {IMPORT_COLUMNS}",
        row,
    )
    for one in claimed:
        await connection.execute(
            "INSERT INTO attempt (import_sequence, number, started_at) VALUES (:sequence, :number, :now)",
            {"sequence": one.sequence, "number": one.attempt_count, "now": row["now"]},
        )
    return claimed


async def finish_attempt(
    connection: aiosqlite.Connection, import_id: UUID, result: AttemptResult, now: datetime
) -> list[Import]:
    """Finish the attempt that runs, if any, and move its import; return it, or an empty list if its state forbids that."""
    is_finished = result.state in FINISHED
    origins = [
        origin
        for origin in (State.RUNNING, State.CANCELLING)
        if (is_finished or result.state is State.QUEUED) and can_transition(origin, result.state)
    ]
    keeps_staging = result.state is State.FAILED and result.keeps_staging
    updated = await rows.update_import(
        connection,
        import_id,
        origins,
        "state = :state, phase = NULL, finished_at = :finished_at, retry_count = retry_count + :is_retried,"
        " locked_count = CASE WHEN :is_locked THEN locked_count + 1 WHEN :is_retried THEN 0 ELSE locked_count END,"
        " error = :error, receipt = :receipt, not_before = :not_before, keeps_staging = :keeps_staging,"
        # A roll back leaves no progress, and what it reported while it ran was not the import's.
        " progress = CASE WHEN :keeps_progress AND phase IS NOT 'rolling_back' THEN progress END",
        {
            "state": result.state,
            "finished_at": time_text(now) if is_finished else None,
            "is_locked": result.error is not None and result.error.code is FailureCode.TABLE_LOCKED,
            "is_retried": result.state is State.QUEUED and result.error is not None and result.is_retried,
            "error": json_text(result.error) if result.state in (State.QUEUED, State.FAILED) else None,
            "receipt": json_text(result.receipt),
            "not_before": time_text(result.not_before),
            "keeps_progress": result.state in (State.QUEUED, State.SUCCEEDED) or keeps_staging,
            "keeps_staging": keeps_staging,
        },
    )
    for one in updated:
        await connection.execute(
            "UPDATE attempt SET finished_at = :now, exit_code = :exit_code, error = :error, log = :log"
            " WHERE import_sequence = :sequence AND finished_at IS NULL",
            {
                "sequence": one.sequence,
                "now": time_text(now),
                "exit_code": result.exit_code,
                "error": json_text(result.error),
                "log": result.log,
            },
        )
    return updated


async def _submitted_job(connection: aiosqlite.Connection, one: Import) -> Job:
    """Return the job as it was submitted: a retry may have changed its URL since."""
    [(text,)] = await rows.select(
        connection,
        "SELECT coalesce(submitted, job) FROM import WHERE sequence = :sequence",
        {"sequence": one.sequence},
    )
    return msgspec.json.decode(text, type=Job)


def _without_id(job: Job) -> Job:
    return msgspec.structs.replace(job, import_id=None)
