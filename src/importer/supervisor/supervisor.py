"""The set of imports that are in hand: claimed for N slots, cancelled, removed, gone on with at start, left at stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import resource
from collections.abc import Sequence
from uuid import UUID

import structlog

from importer import failpoint
from importer.model import AttemptResult, Import, State
from importer.settings import Settings
from importer.store.errors import StoreError
from importer.store.store import Store
from importer.supervisor.attempt import ImportRun, RetryProgress
from importer.supervisor.backoff import until_stored
from importer.supervisor.cleanup import Cleanup
from importer.supervisor.database_probe import DatabaseProbe
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.limits import LIMITS, Limits
from importer.supervisor.loaders import LOADER, Loaders
from importer.supervisor.outcome import RETRIES, SERVICE_ENDED, RetryPolicy
from importer.supervisor.reconciler import Reconciler
from importer.tasks import KeyedTasks, UnhandledErrors, uninterrupted

# The queue is looked at this often even if nobody calls: clocks are set, and a full disk is emptied, without a word.
_LOOK_SECONDS = 30.0
# How often the database is looked at: while it can be used, and while it can't. What waits for it goes on so soon.
_PROBE_SECONDS = 5.0
_OUTAGE_PROBE_SECONDS = 2.0
# What a loader that is to suspend may take, if the grace is longer: it needs a second, and loses little if it is killed;
# Docker, which stops a service, waits ten.
_SUSPEND_SECONDS = 6.0
# To write down how the last loaders ended, and to reap what was killed.
_WRITE_SECONDS = 2.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Supervisor:
    """Drives all imports of a control DB. To be used in one event loop; one at a time, which the store sees to."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        database_url: str,
        *,
        command: Sequence[str] = LOADER,
        retries: RetryPolicy = RETRIES,
        limits: Limits = LIMITS,
    ) -> None:
        self._store = store
        self._settings = settings
        self._retries = retries
        self._loaders = Loaders(database_url, settings.workers, settings.allowed_hosts, command, limits)
        self._ledger = LedgerReader(database_url)
        self.probe = DatabaseProbe(database_url, self.wake)
        self.defects = UnhandledErrors()
        self._cleanup = Cleanup(store, self._ledger, self._loaders, self.defects, limits)
        self._janitor = Reconciler(store, self._ledger, self._cleanup, settings.history_days, limits)
        self._runs: dict[UUID, ImportRun] = {}
        self._run_tasks = KeyedTasks(self.defects)
        self._reached: dict[UUID, RetryProgress] = {}
        # Held from a move in the control DB until the run that belongs to it is in `_runs`, or is told of it.
        self._turn = asyncio.Lock()
        self._called = asyncio.Event()
        self._is_stopping = False
        self._claims: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Go on with what an earlier service had in hand, and begin to claim. Raises StoreError."""
        # a core dump of a loader would hold its job, secrets included; children inherit this
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        for found in await self._store.unfinished():
            failpoint.hit()
            await self._recover(found)
        failpoint.hit()
        self._claims = asyncio.create_task(self._claim_forever(), name="claims")
        self._background = [
            asyncio.create_task(self._janitor.work(), name="housekeeping"),
            asyncio.create_task(self._watch_database(), name="database probe"),
        ]
        for task in (self._claims, *self._background):
            task.add_done_callback(self.defects.check)

    def wake(self) -> None:
        """Look at the queue now: something was put into it."""
        self._called.set()

    async def cancel(self, import_id: UUID) -> Import | None:
        """Ask for an import to end without rows, see Store.request_cancel; have its loader roll back. Raises StoreError."""
        return await uninterrupted(self._cancel(import_id))

    async def remove(self, import_id: UUID) -> Import | None:
        """Ask for a finished import to go, see Store.request_removal; take its rows out of trips. Asked for twice is once.

        Raises StoreError.
        """
        return await uninterrupted(self._remove(import_id))

    async def stop(self) -> None:
        """Suspend all loaders and write down where things stand, in bounded time, even if cancelled meanwhile."""
        await uninterrupted(self._stop())

    async def _stop(self) -> None:
        seconds = min(float(self._settings.grace_seconds), _SUSPEND_SECONDS)
        # 1. Nothing new is begun. A claim that is under way is finished: its run is among those below.
        failpoint.hit()
        self._is_stopping = True
        self.wake()
        if self._claims is not None:
            await asyncio.wait([self._claims])
        # 2. All loaders are told at once to keep what is committed and to end; who does not in time is killed.
        for run in self._runs.values():
            run.suspend(seconds)
        # 3. Roll backs and removals under way are left as they are: their next step is the first after the next start.
        failpoint.hit()
        self.probe.stop()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await self._cleanup.stop(_WRITE_SECONDS)
        # 4. Each loader's end is written down: back into the queue, or how it ended. Where that fails the row stays
        #    `running`, which the next start takes for the same.
        failpoint.hit()
        await self._run_tasks.wait(seconds + _WRITE_SECONDS)
        await self._run_tasks.stop(_WRITE_SECONDS)
        failpoint.hit()

    async def _cancel(self, import_id: UUID) -> Import | None:
        async with self._turn:
            run = self._runs.get(import_id)
            try:
                found = await self._store.request_cancel(import_id)
            except StoreError as error:
                if run is None:
                    raise
                run.cancel(self._settings.grace_seconds, is_written=False)
                raise type(error)(
                    f"{error.message} The loader of import {import_id} is told to roll back all the same.",
                    "The import is cancelled when that can be written: make room. A service that is restarted before then"
                    " begins the import again: cancel it again.",
                ) from error
            failpoint.hit()
            if found is not None and found.state is State.CANCELLING:
                if run is not None:
                    run.cancel(self._settings.grace_seconds, is_written=True)
                else:
                    self._reached.pop(import_id, None)
                    self._cleanup.finish_cancel(import_id)
        return found

    async def _remove(self, import_id: UUID) -> Import | None:
        found = await self._store.request_removal(import_id)
        failpoint.hit()
        if found is None:  # or a request that broke off has asked before
            found = await self._store.get(import_id)
        if found is None or found.state is not State.REMOVING:
            return None
        self._cleanup.finish_removal(found)
        return found

    async def _recover(self, found: Import) -> None:
        """Go on with an import whose loader is gone, or goes: the end of its stdin has suspended it."""
        log.info("found unfinished", import_id=str(found.id), state=found.state)
        match found.state:
            case State.RUNNING:
                await self._store.finish_attempt(
                    found.id, AttemptResult(State.QUEUED, error=SERVICE_ENDED, is_retried=False)
                )
            case State.CANCELLING:
                self._cleanup.finish_cancel(found.id)
            case _:
                self._cleanup.finish_removal(found)

    async def _claim_forever(self) -> None:
        while not self._is_stopping:
            self._called.clear()
            seconds = _LOOK_SECONDS
            try:
                while await self._claim():
                    pass
                # with all slots taken it is the end of a run that calls
                if self._has_slot() and (due := await self._store.next_due()) is not None:
                    seconds = (due - datetime.datetime.now(datetime.UTC)).total_seconds()
            except StoreError as error:
                log.error("queue not read", error=error.message, hint=error.hint)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), min(max(seconds, 0), _LOOK_SECONDS))

    async def _claim(self) -> bool:
        """Begin the next import of the queue; False: there is none, or no slot."""
        async with self._turn:
            if self._is_stopping or not self._has_slot() or not self.probe.is_up:
                return False
            claimed = await self._store.claim()
            if claimed is None:
                return False
            failpoint.hit()
            reached = self._reached.setdefault(claimed.id, RetryProgress())
            run = ImportRun(
                claimed, self._loaders, self._store, self._ledger, self.probe, self._retries, reached
            )
            self._runs[claimed.id] = run
            self._run_tasks.start((claimed.id, claimed.attempt_count), lambda: self._drive(run))
            return True

    def _has_slot(self) -> bool:
        return len(self._runs) < self._settings.slots

    async def _watch_database(self) -> None:
        """Look at the database for ever, and have imports whose loaders run show that they wait for it."""
        while True:
            failure = await self.probe.look()
            try:
                async with self._turn:  # so that each run is that of its import's present attempt
                    for run in self._runs.values():
                        await run.show_outage(failure)
            except StoreError as error:  # the next look is seconds away
                log.warning("outage not written", error=error.message)
            await asyncio.sleep(_PROBE_SECONDS if failure is None else _OUTAGE_PROBE_SECONDS)

    async def _drive(self, run: ImportRun) -> None:
        try:
            await run.drive()
        finally:
            await self._leave(run)
            self.wake()

    async def _leave(self, run: ImportRun) -> None:
        """Give the slot back, and see to what is left to do about the import."""
        async with self._turn:
            if self._runs[run.import_id] is not run:
                return  # back in the queue, and claimed again already
            del self._runs[run.import_id]
            failpoint.hit()
            # a cancel may have come at any time until now, and left it to the run
            found = await until_stored(lambda: self._store.get(run.import_id))
            if found is not None and found.state is State.CANCELLING:
                self._cleanup.finish_cancel(run.import_id, run.end)
            if found is None or found.state is not State.QUEUED:
                self._reached.pop(run.import_id, None)
            has_replaced = found is not None and found.job.mode == "replace"
            if found is not None and (found.state is State.FAILED or has_replaced):
                self._janitor.call()
