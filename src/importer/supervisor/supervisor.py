"""Runs up to N imports; resumes them at startup, suspends them at shutdown; cancels and removes imports."""

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
from importer.supervisor.attempt import RetryProgress, RunningAttempt
from importer.supervisor.backoff import until_stored
from importer.supervisor.cleanup import Cleanup
from importer.supervisor.database_probe import DatabaseProbe
from importer.supervisor.ledger import LedgerReader
from importer.supervisor.limits import LIMITS, SupervisorLimits
from importer.supervisor.loaders import LOADER, Loaders
from importer.supervisor.outcome import RETRY_POLICY, SERVICE_ENDED, AttemptRetryPolicy
from importer.supervisor.reconciler import Reconciler
from importer.tasks import KeyedTasks, UnhandledErrors, uninterrupted

# How often the queue is read without a `wake`: after the clock was set, or a full disk was cleared.
_POLL_INTERVAL_SECONDS = 30.0
# How often the database is checked, and how often while it is unavailable: waiting attempts then start soon.
_PROBE_INTERVAL_SECONDS = 5.0
_OUTAGE_PROBE_INTERVAL_SECONDS = 2.0
# How long loaders may take to suspend, if the grace is longer. They need a second, and lose little if killed; Docker
# kills a service after ten seconds by default.
_MAX_SUSPEND_SECONDS = 6.0
# To record the ends of the last loaders, and to reap killed processes.
_RECORD_SECONDS = 2.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Supervisor:
    """Runs all imports of a control DB. To be used in one event loop. The store's lock excludes a second supervisor."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        database_url: str,
        *,
        command: Sequence[str] = LOADER,
        retry_policy: AttemptRetryPolicy = RETRY_POLICY,
        limits: SupervisorLimits = LIMITS,
    ) -> None:
        self._store = store
        self._settings = settings
        self._retry_policy = retry_policy
        self._loaders = Loaders(
            database_url,
            settings.workers,
            settings.allowed_hosts,
            command,
            limits,
            settings.read_timeout_seconds,
        )
        self._ledger = LedgerReader(database_url)
        self.probe = DatabaseProbe(database_url, self.wake)
        self.unhandled_errors = UnhandledErrors()
        self._cleanup = Cleanup(store, self._ledger, self._loaders, self.unhandled_errors, limits)
        self._reconciler = Reconciler(store, self._ledger, self._cleanup, settings.history_days, limits)
        self._attempts: dict[UUID, RunningAttempt] = {}
        self._attempt_tasks = KeyedTasks(self.unhandled_errors)
        self._retry_progress: dict[UUID, RetryProgress] = {}
        # Held from a transition in the control DB until `_attempts`, or the attempt in it, agrees with it.
        self._transition_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._claiming: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Resume the imports of an earlier service, and start to claim others. Raises StoreError."""
        # A core dump of a loader would contain its job, secrets included. Child processes inherit this limit.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        await self._store.skip_lost_versions()
        for found in await self._store.unfinished():
            failpoint.hit()
            await self._recover(found)
        failpoint.hit()
        self._claiming = asyncio.create_task(self._claim_forever(), name="claims")
        self._background = [
            asyncio.create_task(self._reconciler.run(), name="reconciler"),
            asyncio.create_task(self._watch_database(), name="database probe"),
        ]
        for task in (self._claiming, *self._background):
            task.add_done_callback(self.unhandled_errors.check)

    def wake(self) -> None:
        """Read the queue now: an import was queued."""
        self._wake.set()

    async def cancel(self, import_id: UUID) -> Import | None:
        """Cancel an import as Store.request_cancel does, and have its loader roll back. Raises StoreError."""
        return await uninterrupted(self._cancel(import_id))

    async def remove(self, import_id: UUID, *, drops_rows: bool) -> Import | None:
        """Have a finished import removed as Store.request_removal does. Raises StoreError.

        Returns the import also if its removal was requested before.
        """
        return await uninterrupted(self._remove(import_id, drops_rows=drops_rows))

    async def stop(self) -> None:
        """Suspend all loaders and record their ends, in bounded time, even if cancelled in the meantime."""
        await uninterrupted(self._stop())

    async def _stop(self) -> None:
        seconds = min(float(self._settings.grace_seconds), _MAX_SUSPEND_SECONDS)
        # 1. Claim no further imports. A claim that has started is finished, and its attempt suspended with the others.
        failpoint.hit()
        self._is_stopping = True
        self.wake()
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        # 2. Suspend all loaders at once; each is killed if it has not ended in time.
        for attempt in self._attempts.values():
            attempt.suspend(seconds)
        # 3. Stop roll backs and removals. The next start resumes them.
        failpoint.hit()
        self.probe.stop()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await self._cleanup.stop(_RECORD_SECONDS)
        # 4. Record the end of each loader: queued again, or finished. An import whose end can't be recorded stays `running`,
        #    and the next start queues it.
        failpoint.hit()
        await self._attempt_tasks.wait(seconds + _RECORD_SECONDS)
        await self._attempt_tasks.stop(_RECORD_SECONDS)
        failpoint.hit()

    async def _cancel(self, import_id: UUID) -> Import | None:
        async with self._transition_lock:
            attempt = self._attempts.get(import_id)
            try:
                found = await self._store.request_cancel(import_id)
            except StoreError as error:
                if attempt is None:
                    raise
                attempt.cancel(self._settings.grace_seconds, is_recorded=False)
                raise type(error)(
                    f"{error.message} The loader of import {import_id} rolls back anyway.",
                    "Make room: the cancel is recorded as soon as the control DB can be written. If the service restarts"
                    " before that, it starts the import over: cancel it again.",
                ) from error
            failpoint.hit()
            if found is not None and found.state is State.CANCELLING:
                if attempt is not None:
                    attempt.cancel(self._settings.grace_seconds, is_recorded=True)
                else:
                    self._retry_progress.pop(import_id, None)
                    self._cleanup.finish_cancel(import_id)
        return found

    async def _remove(self, import_id: UUID, *, drops_rows: bool) -> Import | None:
        found = await self._store.request_removal(import_id, drops_rows=drops_rows)
        failpoint.hit()
        if found is None:  # or an earlier request, which was interrupted here, has moved it
            found = await self._store.get(import_id)
        if found is None or found.state is not State.REMOVING:
            return None
        self._cleanup.finish_removal(found)
        return found

    async def _recover(self, found: Import) -> None:
        """Resume an import of an earlier service. Its loader has suspended, or is about to: its stdin was closed."""
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
            self._wake.clear()
            seconds = _POLL_INTERVAL_SECONDS
            try:
                while await self._claim():
                    pass
                # Without a free slot, the end of an attempt calls `wake`.
                if self._has_slot() and (due := await self._store.next_due()) is not None:
                    seconds = (due - datetime.datetime.now(datetime.UTC)).total_seconds()
            except StoreError as error:
                log.error("queue not read", error=error.message, hint=error.hint)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(max(seconds, 0), _POLL_INTERVAL_SECONDS))

    async def _claim(self) -> bool:
        """Start the next import of the queue; False: none is due, no slot is free, or the database is unavailable."""
        async with self._transition_lock:
            if self._is_stopping or not self._has_slot() or not self.probe.is_up:
                return False
            claimed = await self._store.claim()
            if claimed is None:
                return False
            failpoint.hit()
            attempt = RunningAttempt(
                claimed,
                self._loaders,
                self._store,
                self._ledger,
                self.probe,
                self._retry_policy,
                self._retry_progress.setdefault(claimed.id, RetryProgress()),
            )
            self._attempts[claimed.id] = attempt
            self._attempt_tasks.start((claimed.id, claimed.attempt_count), lambda: self._run(attempt))
            return True

    def _has_slot(self) -> bool:
        return len(self._attempts) < self._settings.slots

    async def _watch_database(self) -> None:
        """Check the database without end; show on running imports that their loaders wait for it."""
        while True:
            failure = await self.probe.check()
            try:
                async with self._transition_lock:  # each attempt is the current one of its import
                    for attempt in self._attempts.values():
                        await attempt.show_outage(failure)
            except StoreError as error:  # the next check is seconds away
                log.warning("outage not written", error=error.message)
            await asyncio.sleep(
                _PROBE_INTERVAL_SECONDS if failure is None else _OUTAGE_PROBE_INTERVAL_SECONDS
            )

    async def _run(self, attempt: RunningAttempt) -> None:
        try:
            await attempt.run()
        finally:
            await self._release_slot(attempt)
            self.wake()

    async def _release_slot(self, attempt: RunningAttempt) -> None:
        """Release the slot of an attempt that has ended, and start the cleanup that its import needs."""
        async with self._transition_lock:
            if self._attempts[attempt.import_id] is not attempt:
                return  # queued, and already claimed again
            del self._attempts[attempt.import_id]
            failpoint.hit()
            # A cancel that came before this point has left the roll back to the attempt.
            found = await until_stored(lambda: self._store.get(attempt.import_id))
            if found is not None and found.state is State.CANCELLING:
                self._cleanup.finish_cancel(attempt.import_id, attempt.end)
            if found is None or found.state is not State.QUEUED:
                self._retry_progress.pop(attempt.import_id, None)
            has_replaced = found is not None and found.job.mode == "replace"
            if found is not None and (found.state is State.FAILED or has_replaced):
                self._reconciler.wake()
