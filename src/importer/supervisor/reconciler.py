"""What is put in order now and then: staging of imports that have ended is dropped, old records are deleted."""

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
from importer.supervisor.limits import LIMITS, Limits
from loader.errors import LoaderError

# A look at two small tables; a record that stays an hour longer disturbs nobody.
_INTERVAL_SECONDS = 3600.0
# What a failed import has committed and a retry can use, where the failure spoils nothing of it, waits for a day.
_KEPT = datetime.timedelta(hours=24)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Reconciler:
    """Makes ledger and control DB agree about what has ended. What it can't do now, it does the next time."""

    def __init__(
        self, store: Store, ledger: LedgerReader, cleanup: Cleanup, history_days: int, limits: Limits = LIMITS
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._cleanup = cleanup
        self._limits = limits
        self._history = datetime.timedelta(days=history_days)
        self._called = asyncio.Event()
        self._started_at = utc_now()
        self._started_monotonic = time.monotonic()

    def call(self) -> None:
        """Have it look now: an import has ended that may have left something."""
        self._called.set()

    async def work(self) -> None:
        """Put in order what there is, for ever."""
        while True:
            self._called.clear()
            seconds = self._limits.reconcile_retry_seconds
            try:
                await self._correct_failures()  # first: the others look at what has failed
                is_all_dropped = await self._drop_staging()
                failpoint.hit()
                await self._delete_records(await self._ledger.unpublished())
                seconds = _INTERVAL_SECONDS if is_all_dropped else self._limits.reconcile_retry_seconds
            except (StoreError, LoaderError) as error:
                log.warning("housekeeping postponed", error=str(error))
            # Not wait_for: before Python 3.12 it drops a cancellation that comes at the moment of a call, and who stops us
            # would wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._called.wait()

    async def _correct_failures(self) -> None:
        """Have those succeed of which a commit arrived that nobody got the answer of, and nobody could ask for."""
        for import_id, receipt in (await self._ledger.published(await self._store.failed())).items():
            if await self._store.mark_published(import_id, receipt) is not None:
                log.info("found published", import_id=str(import_id))

    async def _drop_staging(self) -> bool:
        """Drop the staging of ended imports; False: of some it is still there. One that is held keeps no other.

        That of others' imports, run by hand on the same database, is not ours.
        """
        is_all_dropped = True
        for import_id in await self._ledger.unpublished():
            found = await self._store.get(import_id)
            if found is not None and found.state in FINISHED and not self._is_kept(found):
                try:
                    await self._cleanup.clear(import_id, published=False)
                except LoaderError as error:
                    log.warning("staging not dropped", import_id=str(import_id), error=error.failure.message)
                    is_all_dropped = False
        return is_all_dropped

    async def _delete_records(self, staged: list[UUID]) -> None:
        count = await self._store.prune(self._now() - self._history, staged)
        if count:
            log.info("old records deleted", count=count)

    def _is_kept(self, found: Import) -> bool:
        if not found.keeps_staging or found.finished_at is None:
            return False
        return self._now() < found.finished_at + _KEPT

    def _now(self) -> datetime.datetime:
        """Return the time, or an earlier one where somebody has set the clock forward since the start.

        What is old is deleted by it: a clock that jumps must not make everything old.
        """
        elapsed = datetime.timedelta(seconds=time.monotonic() - self._started_monotonic)
        return min(utc_now(), self._started_at + elapsed)
