"""One attempt at one import: from the start of its loader to the record of its end in the control DB."""

from __future__ import annotations

import contextlib
import datetime

import msgspec
import structlog

from importer import failpoint
from importer.model import AttemptResult, Import, State
from importer.store.errors import StoreError
from importer.store.store import Store
from importer.supervisor.backoff import jittered, until_stored
from importer.supervisor.database_probe import DatabaseProbe
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.loaders import Loaders
from importer.supervisor.outcome import (
    AttemptRetryPolicy,
    LoaderExit,
    PossibleLedgerState,
    Staged,
    StopIntent,
    blames_database,
    decide,
    keeps_staging,
    needs_ledger,
)
from importer.supervisor.process import counters
from loader.contract import Failure, ProgressMessage
from loader.errors import LoaderError


class RetryProgress(msgspec.Struct):
    """The progress of an import's attempts. In memory only: after a restart of the service the count starts over."""

    committed_bytes: int = 0
    retry_count: int = 0  # the import's, when `committed_bytes` last changed


class RunningAttempt:
    """An attempt until its end is recorded."""

    def __init__(
        self,
        claimed: Import,
        loaders: Loaders,
        store: Store,
        ledger: LedgerReader,
        probe: DatabaseProbe,
        retry_policy: AttemptRetryPolicy,
        retry_progress: RetryProgress,
    ) -> None:
        """Start the loader of an import that was just claimed."""
        self.import_id = claimed.id
        self.end: LoaderExit | None = None
        self._store = store
        self._ledger = ledger
        self._probe = probe
        self._retry_policy = retry_policy
        self._retry_progress = retry_progress
        self._reported: ProgressMessage | None = None
        self._has_progressed = True  # since the last call of `show_outage`
        self._shows_outage = False
        self._has_unrecorded_cancel = self._is_suspended = False
        self._process = loaders.run(claimed.job)
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(
            import_id=str(claimed.id), attempt=claimed.attempt_count
        )
        self._log.info("attempt started", process_id=self._process.process_id)

    def cancel(self, grace_seconds: float, *, is_recorded: bool) -> None:
        """Have the loader roll back, or kill it after the grace; Cleanup then removes the rest.

        `is_recorded`: the control DB has the cancel. Otherwise `run` records it before it decides the outcome.
        """
        self._has_unrecorded_cancel = not is_recorded
        self._process.roll_back(grace_seconds)

    def suspend(self, grace_seconds: float) -> None:
        """Have the loader keep what is committed and end, or kill it after the grace, which keeps the same."""
        self._is_suspended = True
        self._process.suspend(grace_seconds)

    async def show_outage(self, failure: Failure | None) -> None:
        """Show on the import that its loader waits for the database; `failure` None: the database can be used.

        To be called after each check of the database. A loader that has made progress since the last call does not wait.
        Raises StoreError.
        """
        is_waiting = failure is not None and not self._has_progressed
        self._has_progressed = False
        if is_waiting != self._shows_outage:
            await self._store.show_outage(self.import_id, failure if is_waiting else None)
            self._shows_outage = is_waiting

    async def run(self) -> None:
        """Record the loader's progress, and in the end the outcome.

        A publish is recorded when the loader reports it, since the loader may then tidy up for minutes. A cancelled import
        that has staging stays `cancelling`, and its attempt open.
        """
        try:
            while not self._process.has_ended:
                await self._process.changed.wait()
                self._process.changed.clear()
                await self._report()
                if self.end is None and (publish := self._process.publish) is not None:
                    await self._report()  # what came with the publish, while the report before it was written
                    await self._finish(publish, "absent")
        finally:
            self._process.kill()  # if this task is cancelled, or has failed
        process_end = await self._process.end()
        self._log.info(
            "loader ended",
            exit_code=process_end.exit_code,
            was_silent=process_end.was_silent,
            was_stalled=process_end.was_stalled,
        )
        if self.end is not None:
            return
        failpoint.hit()
        ledger_state: PossibleLedgerState = "unknown"
        # after a suspension the next attempt reads the ledger
        if not self._is_suspended and needs_ledger(process_end):
            with contextlib.suppress(LoaderError):  # the database is unavailable
                ledger_state = await self._ledger.state_of(self.import_id)
        is_database_down = False
        if not self._is_suspended and blames_database(process_end):
            is_database_down = await self._probe.check(0) is not None
        failpoint.hit()
        await self._finish(process_end, ledger_state, is_database_down=is_database_down)

    async def _finish(
        self, end: LoaderExit, ledger_state: PossibleLedgerState, *, is_database_down: bool = False
    ) -> None:
        self.end = end
        while not await self._try_to_finish(end, ledger_state, is_database_down):
            pass  # a cancel came between reading and updating the import

    async def _report(self) -> None:
        report = self._process.progress
        if report is None or report is self._reported:
            return
        if self._reported is None or report.phase != self._reported.phase:
            failpoint.hit()
            self._log.info("phase", phase=report.phase)
        # A new phase is no progress: a loader that has lost the database probes the source again and again.
        if self._reported is None or counters(report) != counters(self._reported):
            self._has_progressed = True
        self._reported = report
        try:
            await self._store.report(self.import_id, report.phase, report.progress)
        except StoreError as error:  # the next report comes in half a second
            self._log.warning("progress not written", error=error.message)

    async def _try_to_finish(
        self, end: LoaderExit, ledger_state: PossibleLedgerState, is_database_down: bool
    ) -> bool:
        """Decide the outcome and record it; False: the import's state has changed in the meantime."""
        if self._has_unrecorded_cancel:
            await until_stored(lambda: self._store.request_cancel(self.import_id))
        found = await until_stored(lambda: self._store.get(self.import_id))
        if found is None or found.state not in (State.RUNNING, State.CANCELLING):
            return True
        outcome = decide(
            end,
            ledger_state,
            self._intent(found),
            self._attempts_without_progress(found, ledger_state),
            self._retry_policy,
            locked_attempts=found.locked_count,
            is_database_down=is_database_down,
        )
        if outcome.state is State.CANCELLING:
            return True
        not_before = None
        if outcome.retry_after_seconds:
            delay = datetime.timedelta(seconds=jittered(outcome.retry_after_seconds))
            not_before = datetime.datetime.now(datetime.UTC) + delay
        result = AttemptResult(
            state=outcome.state,
            exit_code=end.exit_code,
            error=outcome.error,
            log=end.log,
            receipt=outcome.receipt,
            not_before=not_before,
            is_retried=outcome.is_retried,
            keeps_staging=keeps_staging(end),
        )
        updated = await until_stored(lambda: self._store.finish_attempt(self.import_id, result))
        failpoint.hit()
        if updated is not None:
            error = None if outcome.error is None else outcome.error.code
            self._log.info("attempt ended", state=updated.state, error=error, not_before=updated.not_before)
        return updated is not None

    def _intent(self, found: Import) -> StopIntent:
        if found.state is State.CANCELLING:
            return StopIntent.CANCEL
        return StopIntent.SUSPEND if self._is_suspended else StopIntent.NOTHING

    def _attempts_without_progress(self, found: Import, ledger_state: PossibleLedgerState) -> int:
        progress = self._retry_progress
        # Fewer bytes are progress, too: a SIGTERM has rolled back the staging, and these were committed since.
        if isinstance(ledger_state, Staged) and ledger_state.committed_bytes != progress.committed_bytes:
            progress.committed_bytes = ledger_state.committed_bytes
            progress.retry_count = found.retry_count
        # A retry request has set the import's count to 0.
        progress.retry_count = min(progress.retry_count, found.retry_count)
        return found.retry_count - progress.retry_count
