"""The end of a run that has failed: what happens to the staging, and the last message."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

from loader import failpoint
from loader.cancellation import Interrupt, StopReason, call_in_daemon_thread, run_in_daemon_thread
from loader.contract import FAILURE_KINDS, Failed, Failure, FailureCode, Published, Receipt
from loader.errors import LoaderError, as_loader_error
from loader.pipeline.state import ImportState, RunContext
from loader.postgres import import_lock, ledger, ledger_version, remove
from loader.postgres.connection import Database, end_backends
from loader.postgres.errors import with_hint_of_cause
from loader.postgres.ledger import Totals

_RETRY_SECONDS = 0.5
# To read from the ledger what is kept, for the message: a person waits, and a suspended run has seconds to exit.
_SUMMARY_SECONDS = 2.0

R = TypeVar("R")

_STOP_FAILURES = {
    StopReason.TERMINATED: (
        FailureCode.TERMINATED,
        "The import was stopped by SIGTERM and rolled back.",
        "trips is unchanged.",
    ),
    StopReason.INTERRUPTED: (
        FailureCode.INTERRUPTED,
        "The import was stopped by SIGINT and rolled back.",
        "trips is unchanged.",
    ),
    StopReason.SUSPENDED: (
        FailureCode.SUSPENDED,
        "The import was suspended; what is committed is kept.",
        "Run the same command again to resume.",
    ),
}


class _Staged(msgspec.Struct, frozen=True):
    """An import that is not published, and what of it is committed."""

    id: UUID
    attempt: int
    totals: Totals


def stop_failure(reason: StopReason) -> Failure:
    """Return the failure that stands for a request to stop."""
    return LoaderError(*_STOP_FAILURES[reason]).failure


class FailedRun:
    """A run that has failed, with what it knows of its import."""

    def __init__(self, failure: Failure, context: RunContext, state: ImportState) -> None:
        self._failure = failure
        self._context = context
        self._limits = context.limits
        self._state = state
        self._shown_id = None if state.import_id is None else str(state.import_id)

    def resolve(self) -> Failed | Published:
        """Keep or drop the staging, as FailureKind.staging says, and return the last message.

        The ledger decides: if it has the import as published, the message is `Published`, whatever the failure. Nothing is
        dropped where another loader holds the import, nor, unless a signal asks for it, before this run owns the import.
        """
        failure, state = self._failure, self._state
        if failure.code is FailureCode.IMPORT_BUSY:
            return self._failed("kept")
        is_stopped = failure.code in (FailureCode.TERMINATED, FailureCode.INTERRUPTED)
        is_spoiled = FAILURE_KINDS[failure.code].staging == "dropped"
        if state.import_id is None and is_spoiled:
            return self._failed("none")  # this run has no import; others of the file are not its own
        is_useless = is_spoiled or not state.is_resumable
        if state.import_id is not None and (is_stopped or (state.is_owned and is_useless)):
            return self._drop(state.import_id)
        return self._keep()

    def _failed(self, staging: Literal["none", "kept", "unknown"]) -> Failed:
        return Failed(self._failure, staging, self._shown_id)

    def _drop(self, import_id: UUID) -> Failed | Published:
        try:
            receipt = self._retried(lambda on_step: self._roll_back(import_id, on_step))
        except Exception as error:
            return Failed(self._cleanup_pending(as_loader_error(error)), "unknown", str(import_id))
        return Failed(self._failure, "none", str(import_id)) if receipt is None else Published(receipt)

    def _keep(self) -> Failed | Published:
        state = self._state
        try:
            if self._context.interrupt.has_started_commit:
                found = self._retried(lambda _: self._find())
            else:
                found = run_in_daemon_thread(self._find).result(_SUMMARY_SECONDS)
        except Exception:
            if state.import_id is None:
                return self._failed("none")
            return self._failed("kept" if state.is_owned else "unknown")
        if found is None:
            return self._failed("none")
        if isinstance(found, Receipt):
            is_detached = self._failure.code is FailureCode.IMPORT_DETACHED
            return self._failed("none") if is_detached else Published(found)
        is_own = state.import_id is not None and (state.is_owned or found.attempt == 0)
        if found.totals.parts == 0 and is_own and not self._failure.retryable:
            return self._drop(found.id)
        hint = f"{self._failure.hint}{self._kept_text(found)}"
        return Failed(msgspec.structs.replace(self._failure, hint=hint), "kept", str(found.id))

    def _kept_text(self, found: _Staged) -> str:
        totals, data_bytes = found.totals, self._state.data_bytes
        if totals.parts == 0:
            return ""
        percent = f", {100 * totals.bytes / data_bytes:.1f} %" if data_bytes else ""
        text = f" Import {found.id} keeps {totals.rows_copied:,} rows ({totals.bytes / 1e6:,.0f} MB{percent})"
        if self._context.is_supervised:
            return f"{text}; its next attempt resumes it."
        return f"{text} until `loader gc` or `loader drop`; a run of its file with --import-id {found.id} resumes it."

    def _cleanup_pending(self, error: LoaderError) -> Failure:
        failure = self._failure
        if failure.code not in (FailureCode.TERMINATED, FailureCode.INTERRUPTED):
            hint = f"{failure.hint} The staging could not be removed ({error}): run `loader gc`."
            return msgspec.structs.replace(failure, hint=with_hint_of_cause(hint, error))
        return LoaderError(
            FailureCode.CLEANUP_PENDING,
            f"Loading was stopped, but the staging could not be removed: {error}",
            with_hint_of_cause(
                "When the database is back, run `loader gc`, or `loader drop` with the import's id.", error
            ),
        ).failure

    def _retried(self, action: Callable[[Callable[[], None]], R]) -> R:
        """Retry what needs the database for `rollback_seconds`. `action` reports its steps by calling its argument."""
        deadline = time.monotonic() + self._limits.rollback_seconds
        while True:
            try:
                return self._watched(action)
            except LoaderError as error:
                if error.code is not FailureCode.DATABASE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)  # a further signal does not end a roll back

    def _watched(self, action: Callable[[Callable[[], None]], R]) -> R:
        """Call `action`; raise DATABASE_UNAVAILABLE when a step takes longer than `rollback_step_seconds`."""
        last_step = time.monotonic()

        def on_step() -> None:
            nonlocal last_step
            last_step = time.monotonic()

        def check() -> None:
            if time.monotonic() - last_step > self._limits.rollback_step_seconds:
                raise LoaderError(
                    FailureCode.DATABASE_UNAVAILABLE,
                    f"The database has not responded for {self._limits.rollback_step_seconds:.0f} s.",
                    "Check what its sessions named `loader … roll back` wait for.",
                )

        return call_in_daemon_thread(lambda: action(on_step), check)

    def _roll_back(self, import_id: UUID, on_step: Callable[[], None]) -> Receipt | None:
        """Remove the staging; return the receipt instead when the import is published."""
        not_interrupted = Interrupt()

        def on_removed(parts: int, parts_total: int) -> None:
            self._context.meter.removed(parts, parts_total)
            on_step()

        with self._database().connection("roll back") as connection:
            end_backends(connection)  # first: one may be about to commit the import's row
            if not ledger_version.upgrade(connection):
                return None
            found = ledger.find_import(connection, import_id)
            if found is None:
                return None
            failpoint.hit()
            import_lock.lock(connection, found, not_interrupted, self._limits.import_lock_seconds)
            if not remove.mark(connection, found.import_key, published=False):
                published = ledger.find_import(connection, import_id)
                return None if published is None else published.read_receipt()
            failpoint.hit()
            lock_seconds = self._limits.rollback_seconds
            remove.remove(connection, found.import_key, not_interrupted, on_removed, lock_seconds)
            return None

    def _find(self) -> Receipt | _Staged | None:
        """Return what the ledger has of the import, or without an id of the location's last unfinished one.

        No other session of this process can change it then.
        """
        import_id, location = self._state.import_id, self._state.location
        with self._database().connection("summary") as connection:
            end_backends(connection)
            if not ledger_version.upgrade(connection):
                return None
            if import_id is not None:
                found = ledger.find_import(connection, import_id)
            else:
                unfinished = ledger.select_imports(
                    connection, "state = 'loading' AND location = %s", [location]
                )
                found = next(reversed(unfinished), None)
            if found is not None and (receipt := found.read_receipt()) is not None:
                return receipt
            if found is None or found.state == "removing":
                return None
            return _Staged(found.id, found.attempt, ledger.totals(connection, found.import_key))

    def _database(self) -> Database:
        return Database(self._context.database_url, self._limits, was_admitted=True)
