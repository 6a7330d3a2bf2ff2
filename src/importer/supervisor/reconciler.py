"""Reconciles the ledger and the control DB once an hour: missed publishes, staging of finished imports, old records."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from uuid import UUID

import structlog

from importer import failpoint
from importer.model import FINISHED, Import
from importer.store.errors import StoreError
from importer.store.store import Store, utc_now
from importer.supervisor.cleanup import Cleanup
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.limits import LIMITS, SupervisorLimits
from loader.errors import LoaderError

# Reads two small tables; old records may stay an hour longer.
_INTERVAL_SECONDS = 3600.0
# How long the staging of a failed import is kept for a retry, unless the failure makes it useless.
_STAGING_AGE = datetime.timedelta(hours=24)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Reconciler:
    """Repeats what it could not do until it succeeds."""

    def __init__(
        self,
        store: Store,
        ledger: LedgerReader,
        cleanup: Cleanup,
        history_days: int,
        limits: SupervisorLimits = LIMITS,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._cleanup = cleanup
        self._limits = limits
        self._record_age = datetime.timedelta(days=history_days)
        self._wake = asyncio.Event()
        self._started_at = utc_now()
        self._started_monotonic = time.monotonic()

    def wake(self) -> None:
        """Reconcile now: an import has finished that may have left staging."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile without end."""
        while True:
            self._wake.clear()
            seconds = self._limits.reconcile_retry_seconds
            try:
                await self._correct_failures()  # first: the next steps look for failed imports
                is_all_dropped = await self._drop_staging()
                failpoint.hit()
                await self._delete_records(await self._ledger.unpublished())
                if is_all_dropped:
                    seconds = _INTERVAL_SECONDS
            except StoreError as error:
                log.warning("reconciliation postponed", error=error.message, hint=error.hint)
            except LoaderError as error:
                log.warning("reconciliation postponed", error=error.failure.message, hint=error.failure.hint)
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with `wake`, and `stop` would wait
            # for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def _correct_failures(self) -> None:
        """Mark failed imports as succeeded if the ledger has them as published: the response to their commit was lost."""
        for import_id, receipt in (await self._ledger.published(await self._store.failed())).items():
            if await self._store.mark_published(import_id, receipt) is not None:
                log.info("failed import is published", import_id=str(import_id))

    async def _drop_staging(self) -> bool:
        """Drop the staging of finished imports; return whether all was dropped. A locked one does not delay the others.

        The staging of imports that are not in the control DB, such as those of `loader run`, is left alone.
        """
        is_all_dropped = True
        for import_id in await self._ledger.unpublished():
            found = await self._store.get(import_id)
            if found is not None and found.state in FINISHED and not self._is_kept(found):
                try:
                    await self._cleanup.clear(import_id, published=False)
                except LoaderError as error:
                    failure = error.failure
                    log.warning(
                        "staging not dropped",
                        import_id=str(import_id),
                        error=failure.message,
                        hint=failure.hint,
                    )
                    is_all_dropped = False
        return is_all_dropped

    async def _delete_records(self, staged: list[UUID]) -> None:
        count = await self._store.prune(self._now() - self._record_age, staged)
        if count:
            log.info("old records deleted", count=count)

    def _is_kept(self, found: Import) -> bool:
        if not found.keeps_staging or found.finished_at is None:
            return False
        return self._now() < found.finished_at + _STAGING_AGE

    def _now(self) -> datetime.datetime:
        """Return the current time, or an earlier one if the clock was set forward since the start.

        This time decides what is old enough to delete, so a clock that jumps must not make everything old.
        """
        elapsed = datetime.timedelta(seconds=time.monotonic() - self._started_monotonic)
        return min(utc_now(), self._started_at + elapsed)
