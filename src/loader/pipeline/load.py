"""The attempts of a run: each repeats all steps, so that a resumed import takes the same path as a new one."""

from __future__ import annotations

import contextlib
import time
from uuid import UUID

from loader.cancellation import call_in_daemon_thread
from loader.contract import FailureCode, Receipt
from loader.errors import LoaderError
from loader.pipeline.attempt import ImportAttempt
from loader.pipeline.reject_limit import parse_allowance
from loader.pipeline.state import ImportState, RunContext
from loader.postgres import remove
from loader.postgres.connection import Database
from loader.source.open import shown_location

_DATABASE_RETRY_SECONDS = 1.0
# To drop 300 GB takes two minutes. Tidying that takes longer than this hangs, and must not delay the exit.
_TIDY_SECONDS = 300.0


class Load:
    """One run of the loader for one job."""

    def __init__(self, context: RunContext) -> None:
        """Raises USAGE."""
        job = context.job
        self._context = context
        self._allowance = parse_allowance(job.max_rejects)
        self._started = time.monotonic()
        self.state = ImportState(
            import_id=UUID(job.import_id) if job.import_id else None, location=shown_location(job.source)
        )

    def run(self) -> Receipt:
        """Repeat attempts until one publishes; return the receipt. Raises LoaderError, Stopped.

        A lost database is retried for `database_outage_seconds` after the last progress.
        """
        context, state, limits = self._context, self.state, self._context.limits
        deadline = time.monotonic() + limits.database_outage_seconds
        while True:
            try:
                return ImportAttempt(context, state, self._allowance, self._started).run()
            except LoaderError as error:
                is_lost = error.code is FailureCode.DATABASE_UNAVAILABLE and state.is_owned
                if not is_lost or not state.is_readable_again:
                    raise
                if context.meter.rows_sent > state.rows_before:
                    deadline = time.monotonic() + limits.database_outage_seconds
                    state.rows_before = context.meter.rows_sent
                    state.attempts_without_progress += 1
                is_stuck = state.attempts_without_progress >= limits.max_attempts_without_progress
                if is_stuck or time.monotonic() > deadline:
                    raise
            context.interrupt.sleep(_DATABASE_RETRY_SECONDS)

    def tidy(self) -> None:
        """After the publish, refresh statistics and remove replaced imports; a later publish or `gc` removes the rest.

        Ends at a request to stop, or after a time limit. No failure: the import is published.
        """
        interrupt = self._context.interrupt
        database = Database(self._context.database_url, self._context.limits)
        deadline = time.monotonic() + _TIDY_SECONDS

        def check() -> None:
            interrupt.check()
            if time.monotonic() > deadline:
                raise TimeoutError

        with contextlib.suppress(Exception):
            call_in_daemon_thread(lambda: remove.tidy(database, interrupt), check)
        database.abort()
