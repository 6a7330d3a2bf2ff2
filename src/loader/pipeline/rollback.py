"""How a run ends that does not publish: what becomes of the staging, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from uuid import UUID

import msgspec

from loader import failpoint
from loader.cancellation import Interrupt, StopReason, call_in_daemon_thread, run_in_daemon_thread
from loader.contract import FAILURE_KINDS, Failed, Failure, FailureCode, Published, Receipt
from loader.errors import LoaderError, as_loader_error
from loader.limits import Limits
from loader.pipeline.attempt import Load
from loader.postgres import import_lock, ledger, ledger_version, remove
from loader.postgres.connection import Connection, Database, end_backends
from loader.postgres.ledger import Totals

_RETRY_SECONDS = 0.5
# What an end that keeps the staging may take to say how much: a person waits, and a suspended run is to be gone in seconds.
_LOOK_SECONDS = 2.0

R = TypeVar("R")

_STOP_FAILURES = {
    StopReason.TERMINATED: (
        FailureCode.TERMINATED,
        "The import was stopped by SIGTERM and rolled back.",
        "trips is as it was.",
    ),
    StopReason.INTERRUPTED: (
        FailureCode.INTERRUPTED,
        "The import was stopped by SIGINT and rolled back.",
        "trips is as it was.",
    ),
    StopReason.SUSPENDED: (
        FailureCode.SUSPENDED,
        "The import was told to stop and to keep what is committed.",
        "Run the same command again: it goes on from there.",
    ),
}


class _Staged(msgspec.Struct, frozen=True):
    """An import that is not published, and what of it is committed."""

    id: UUID
    attempt: int
    totals: Totals


def stop_failure(reason: StopReason) -> Failure:
    """Return the failure that a request to stop is."""
    return LoaderError(*_STOP_FAILURES[reason]).failure


def end_unpublished(
    failure: Failure,
    load: Load,
    *,
    database_url: str,
    limits: Limits,
    is_in_doubt: bool,
    is_supervised: bool,
    on_part: Callable[[int, int], None],
) -> Failed | Published:
    """Keep or drop the staging, as FailureKind.staging says, and return the last message.

    An import that turns out to be published ends as published, whatever the failure: the ledger decides. `is_in_doubt`:
    its commit was begun. Nothing is dropped before the loader has seen that the import is this file's, unless a signal
    asks for it, nor where another loader holds it.
    """
    if failure.code is FailureCode.IMPORT_BUSY:
        return Failed(failure, "kept", _shown(load.import_id))
    is_stopped = failure.code in (FailureCode.TERMINATED, FailureCode.INTERRUPTED)
    is_spoiled = FAILURE_KINDS[failure.code].staging == "dropped"
    if load.import_id is None and is_spoiled:
        return Failed(failure, "none")  # nothing was begun; others' imports of this file are not this run's
    is_useless = is_spoiled or not load.is_resumable
    if load.import_id is not None and (is_stopped or (load.is_claimed and is_useless)):
        return _drop(failure, load.import_id, database_url, limits, on_part)
    return _keep(
        failure, load, database_url, limits, on_part, is_in_doubt=is_in_doubt, is_supervised=is_supervised
    )


def _drop(
    failure: Failure,
    import_id: UUID,
    database_url: str,
    limits: Limits,
    on_part: Callable[[int, int], None],
) -> Failed | Published:
    try:
        receipt = _retried(
            limits, lambda on_step: _roll_back(database_url, limits, import_id, on_part, on_step)
        )
    except Exception as error:
        return Failed(_cleanup_pending(failure, as_loader_error(error)), "unknown", _shown(import_id))
    return Failed(failure, "none", _shown(import_id)) if receipt is None else Published(receipt)


def _keep(
    failure: Failure,
    load: Load,
    database_url: str,
    limits: Limits,
    on_part: Callable[[int, int], None],
    *,
    is_in_doubt: bool,
    is_supervised: bool,
) -> Failed | Published:
    try:
        find = partial(_find, database_url, limits, load.import_id, load.location)
        found = (
            _retried(limits, lambda _: find())
            if is_in_doubt
            else run_in_daemon_thread(find).result(_LOOK_SECONDS)
        )
    except Exception:
        if load.import_id is None:
            return Failed(failure, "none")  # nothing was begun
        return Failed(failure, "kept" if load.is_claimed else "unknown", _shown(load.import_id))
    if found is None:
        return Failed(failure, "none", _shown(load.import_id))
    if isinstance(found, Receipt):
        is_detached = failure.code is FailureCode.IMPORT_DETACHED
        return Failed(failure, "none", _shown(load.import_id)) if is_detached else Published(found)
    is_ours = load.import_id is not None and (load.is_claimed or found.attempt == 0)
    if found.totals.parts == 0 and is_ours and not failure.retryable:
        return _drop(failure, found.id, database_url, limits, on_part)
    hint = f"{failure.hint}{_kept_text(found, load.data_bytes, is_supervised=is_supervised)}"
    return Failed(msgspec.structs.replace(failure, hint=hint), "kept", _shown(found.id))


def _kept_text(found: _Staged, data_bytes: int | None, *, is_supervised: bool) -> str:
    totals = found.totals
    if totals.parts == 0:
        return ""
    percent = f", {100 * totals.bytes / data_bytes:.1f} %" if data_bytes else ""
    text = f" Import {found.id} keeps {totals.rows_copied:,} rows ({totals.bytes / 1e6:,.0f} MB{percent})"
    if is_supervised:
        return f"{text}; its next attempt resumes it."
    return f"{text} until `loader gc` or `loader drop`; a run of its file with --import-id {found.id} resumes it."


def _shown(import_id: UUID | None) -> str | None:
    return None if import_id is None else str(import_id)


def _cleanup_pending(failure: Failure, error: LoaderError) -> Failure:
    if failure.code not in (FailureCode.TERMINATED, FailureCode.INTERRUPTED):
        return msgspec.structs.replace(
            failure, hint=f"{failure.hint} What was loaded could not be removed ({error}): run `loader gc`."
        )
    return LoaderError(
        FailureCode.CLEANUP_PENDING,
        f"Loading was stopped, but what was loaded could not be removed: {error}",
        "When the database is back, run `loader gc`, or `loader drop` with the import's id.",
    ).failure


def _retried(limits: Limits, action: Callable[[Callable[[], None]], R]) -> R:
    """Do what needs the database, repeatedly where that is away. `action` calls what it gets at each step."""
    deadline = time.monotonic() + limits.rollback_seconds
    while True:
        try:
            return _unless_it_hangs(limits.rollback_step_seconds, action)
        except LoaderError as error:
            if error.code is not FailureCode.DATABASE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def _unless_it_hangs(step_seconds: float, action: Callable[[Callable[[], None]], R]) -> R:
    step_seen = time.monotonic()

    def on_step() -> None:
        nonlocal step_seen
        step_seen = time.monotonic()

    def check() -> None:
        if time.monotonic() - step_seen > step_seconds:
            raise LoaderError(
                FailureCode.DATABASE_UNAVAILABLE,
                f"The database has not answered for {step_seconds:.0f} s.",
                "See what its sessions called `loader … roll back` wait for.",
            )

    return call_in_daemon_thread(lambda: action(on_step), check)


def _roll_back(
    database_url: str,
    limits: Limits,
    import_id: UUID,
    on_part: Callable[[int, int], None],
    on_step: Callable[[], None],
) -> Receipt | None:
    """Remove the staging; return the receipt instead when the import is published."""
    undisturbed = Interrupt()

    def on_removed(parts: int, parts_total: int) -> None:
        on_part(parts, parts_total)
        on_step()

    with Database(database_url, limits, was_admitted=True).connection("roll back") as connection:
        end_backends(connection)  # first: one may be about to commit the import's row
        if (
            not ledger_version.upgrade(connection)
            or (found := ledger.find_import(connection, import_id)) is None
        ):
            return None
        failpoint.hit()
        import_lock.lock(connection, found, undisturbed, limits.import_lock_seconds)
        if remove.mark(connection, found.import_key, published=False):
            failpoint.hit()
            remove.remove(connection, found.import_key, undisturbed, on_removed, limits.rollback_seconds)
            return None
        return _receipt(connection, import_id)


def _find(
    database_url: str, limits: Limits, import_id: UUID | None, location: str | None
) -> Receipt | _Staged | None:
    """Return what the ledger has of the import, once no session of ours can change it; without an id, of this location."""
    with Database(database_url, limits, was_admitted=True).connection("look") as connection:
        end_backends(connection)
        if not ledger_version.upgrade(connection):
            return None
        if import_id is not None:
            found = ledger.find_import(connection, import_id)
        else:
            unfinished = ledger.select_imports(connection, "state = 'loading' AND location = %s", [location])
            found = next(reversed(unfinished), None)
        if found is not None and found.receipt is not None:
            return msgspec.json.decode(found.receipt, type=Receipt)
        if found is None or found.state == "removing":
            return None
        return _Staged(found.id, found.attempt, ledger.totals(connection, found.import_key))


def _receipt(connection: Connection, import_id: UUID) -> Receipt | None:
    found = ledger.find_import(connection, import_id)
    return msgspec.json.decode(found.receipt, type=Receipt) if found and found.receipt else None
