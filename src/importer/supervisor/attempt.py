"""One attempt at one import: from the start of its loader to what the control DB says about its end."""

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
    Known,
    LoaderExit,
    RetryPolicy,
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
    """How far an import's loaders have come, from one attempt to the next. Lost with the service: a fresh start."""

    committed_bytes: int = 0
    retry_count: int = 0  # of the import, when they came so far


class ImportRun:
    """A loader that is at an import. It exists as long as its process, and until the end is written down."""

    def __init__(
        self,
        claimed: Import,
        loaders: Loaders,
        store: Store,
        ledger: LedgerReader,
        probe: DatabaseProbe,
        retries: RetryPolicy,
        reached: RetryProgress,
    ) -> None:
        """Start the loader of an import that was just claimed."""
        self.import_id = claimed.id
        self.end: LoaderExit | None = None
        self._store = store
        self._ledger = ledger
        self._probe = probe
        self._retries = retries
        self._reached = reached
        self._reported: ProgressMessage | None = None
        self._has_moved = True  # the loader has come further since `show_outage` was called last
        self._shows_outage = False
        self._has_unwritten_cancel = self._is_suspended = False
        self._process = loaders.run(claimed.job)
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(
            import_id=str(claimed.id), attempt=claimed.attempt_count
        )
        self._log.info("attempt started", process_id=self._process.process_id)

    def cancel(self, grace_seconds: float, *, is_written: bool) -> None:
        """Have the loader roll back, or be killed if that takes longer: what is left then, Cleanup removes.

        `is_written`: the control DB says so. Else `drive` writes it before it decides what becomes of the import.
        """
        self._has_unwritten_cancel = not is_written
        self._process.roll_back(grace_seconds)

    def suspend(self, grace_seconds: float) -> None:
        """Have the loader keep what is committed and end; killed, it keeps as much."""
        self._is_suspended = True
        self._process.suspend(grace_seconds)

    async def show_outage(self, failure: Failure | None) -> None:
        """Have the import show that its loader waits for the database, which can't be used; None: it can.

        To be called at each look at the database. One that comes further meanwhile does not wait. Raises StoreError.
        """
        is_waiting = failure is not None and not self._has_moved
        self._has_moved = False
        if is_waiting != self._shows_outage:
            await self._store.show_outage(self.import_id, failure if is_waiting else None)
            self._shows_outage = is_waiting

    async def drive(self) -> None:
        """Write down what the loader reports, and in the end what becomes of the import.

        A publish is written down when it is reported, since the loader then tidies up, for minutes at most. An import
        that was cancelled and has left staging stays `cancelling`, and its attempt open.
        """
        try:
            while not self._process.has_ended:
                await self._process.changed.wait()
                self._process.changed.clear()
                await self._report()
                if self.end is None and (publish := self._process.publish) is not None:
                    await self._conclude(publish, "absent")
        finally:
            self._process.kill()  # nothing, unless we are stopped, or have a defect
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
        standing: Known = "unknown"
        if not self._is_suspended and needs_ledger(process_end):  # else the next attempt looks
            with contextlib.suppress(LoaderError):  # the database is away
                standing = await self._ledger.standing(self.import_id)
        is_database_down = False
        if not self._is_suspended and blames_database(process_end):
            is_database_down = await self._probe.look(0) is not None
        failpoint.hit()
        await self._conclude(process_end, standing, is_database_down=is_database_down)

    async def _conclude(self, end: LoaderExit, standing: Known, *, is_database_down: bool = False) -> None:
        self.end = end
        while not await self._settle(end, standing, is_database_down):
            pass  # cancel was asked for between the look and the move

    async def _report(self) -> None:
        report = self._process.progress
        if report is None or report is self._reported:
            return
        if self._reported is None or report.phase != self._reported.phase:
            failpoint.hit()
            self._log.info("phase", phase=report.phase)
        # not by its phase: a loader that has lost the database probes the source again and again
        if self._reported is None or counters(report) != counters(self._reported):
            self._has_moved = True
        self._reported = report
        try:
            await self._store.report(self.import_id, report.phase, report.progress)
        except StoreError as error:  # the next one is half a second away
            self._log.warning("progress not written", error=error.message)

    async def _settle(self, end: LoaderExit, standing: Known, is_database_down: bool) -> bool:
        """Decide and write it down; False: the import has moved meanwhile."""
        if self._has_unwritten_cancel:
            await until_stored(lambda: self._store.request_cancel(self.import_id))
        found = await until_stored(lambda: self._store.get(self.import_id))
        if found is None or found.state not in (State.RUNNING, State.CANCELLING):
            return True
        outcome = decide(
            end,
            standing,
            self._asked(found),
            self._fruitless(found, standing),
            self._retries,
            locked=found.locked_count,
            is_database_down=is_database_down,
        )
        if outcome.state is State.CANCELLING:
            return True
        not_before = None
        if outcome.retry_after_seconds:
            delay = datetime.timedelta(seconds=jittered(outcome.retry_after_seconds))
            not_before = datetime.datetime.now(datetime.UTC) + delay
        ending = AttemptResult(
            state=outcome.state,
            exit_code=end.exit_code,
            error=outcome.error,
            log=end.log,
            receipt=outcome.receipt,
            not_before=not_before,
            is_retried=outcome.is_retried,
            keeps_staging=keeps_staging(end),
        )
        moved = await until_stored(lambda: self._store.finish_attempt(self.import_id, ending))
        failpoint.hit()
        if moved is not None:
            error = None if outcome.error is None else outcome.error.code
            self._log.info("attempt ended", state=moved.state, error=error, not_before=moved.not_before)
        return moved is not None

    def _asked(self, found: Import) -> StopIntent:
        if found.state is State.CANCELLING:
            return StopIntent.CANCEL
        return StopIntent.SUSPEND if self._is_suspended else StopIntent.NOTHING

    def _fruitless(self, found: Import, standing: Known) -> int:
        # less, too: somebody's SIGTERM has taken it back, and it has come so far anew
        if isinstance(standing, Staged) and standing.committed_bytes != self._reached.committed_bytes:
            self._reached.committed_bytes = standing.committed_bytes
            self._reached.retry_count = found.retry_count
        # a retry that was asked for has begun to count anew
        self._reached.retry_count = min(self._reached.retry_count, found.retry_count)
        return found.retry_count - self._reached.retry_count
