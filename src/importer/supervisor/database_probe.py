"""Whether the target database can be used: checked in one place, for the queue, readiness, metrics and failed attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from importer.supervisor.ledger import LedgerReader
from loader.contract import Failure
from loader.errors import LoaderError

# Callers within this time share a result: any number of clients costs one connection a second.
FRESH_SECONDS = 1.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class DatabaseProbe:
    """The latest check of one target database. To be used in one event loop."""

    def __init__(self, database_url: str, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever `is_up` has changed."""
        self._ledger = LedgerReader(database_url)  # of its own: no other query delays a check
        self._on_change = on_change
        self._check: asyncio.Task[Failure | None] | None = None
        self._started_at = float("-inf")
        self._is_up: bool | None = None  # None: no check has ended yet

    @property
    def is_up(self) -> bool:
        """Whether the database could be used at the latest check."""
        return self._is_up is True

    async def check(self, max_age_seconds: float = FRESH_SECONDS) -> Failure | None:
        """Return why the database can't be used, None if it can; the check started at most `max_age_seconds` ago.

        All callers share one check at a time. It takes at most as long as LedgerReader waits for an answer.
        """
        oldest = time.monotonic() - max_age_seconds
        while self._check is None or self._started_at < oldest:
            if self._check is None or self._check.done():
                self._started_at = time.monotonic()
                self._check = asyncio.create_task(self._run_check())
            else:
                await asyncio.shield(self._check)
        # a caller that is cancelled does not cancel it for the others
        return await asyncio.shield(self._check)

    def stop(self) -> None:
        """Cancel the check that runs, if any."""
        if self._check is not None:
            self._check.cancel()

    async def _run_check(self) -> Failure | None:
        failure = None
        try:
            await self._ledger.require_primary()
        except LoaderError as error:
            failure = error.failure
        if self._is_up is not (failure is None):
            self._is_up = failure is None
            if failure is None:
                log.info("database available")
            else:
                log.warning("database unavailable", error=failure.message, hint=failure.hint)
            self._on_change()
        return failure
