"""One run as a process: the work in a thread, the main thread on watch, the last message."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from loader import failpoint
from loader.cancellation import POLL_INTERVAL_SECONDS, Interrupt
from loader.contract import Failed, Failure, Job, Message, Published, Receipt, Started
from loader.errors import as_loader_error
from loader.limits import DEFAULT_LIMITS, Limits
from loader.pipeline.load import Load
from loader.pipeline.outbox import Outbox
from loader.pipeline.progress import Meter, Ticker
from loader.pipeline.rollback import FailedRun, stop_failure
from loader.pipeline.signals import SignalWatch
from loader.pipeline.state import RunContext

# For the reader of stdout to take the last messages once the run was asked to stop: it may be a terminal that is paused by
# Ctrl-S, or a service that the machine has suspended for a moment.
_READER_SECONDS = 2.0

OpenDatabase = Callable[[], AbstractContextManager[str]]


def run(
    job: Job,
    open_database: OpenDatabase,
    show: Callable[[Message], None],
    *,
    is_supervised: bool,
    on_published: Callable[[Receipt], None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Published | Failed:
    """Run a job to its end, show all messages, and return the last one. After `Published` it also tidies up.

    Must be called in the main thread, because it handles signals. A supervised run treats the end of stdin as SIGHUP.
    `show` is called in one thread and may block; `on_published` is called before the last message, and must not block.
    """
    if is_supervised:  # its supervisor retries, and must not mistake the wait for a hang
        limits = msgspec.structs.replace(limits, staging_lock_seconds=limits.trips_lock_seconds)
    interrupt = Interrupt(limits.commit_seconds)
    outbox = Outbox(show)

    def send(message: Message) -> None:
        if on_published is not None and isinstance(message, Published):
            on_published(message.receipt)
        outbox.send(message)

    last_messages: list[Published | Failed] = []
    with SignalWatch(interrupt, on_sigterm=job.on_sigterm, watch_stdin=is_supervised) as watch:

        def work() -> None:
            current = _Run(job, interrupt, send, limits, is_supervised=is_supervised)
            try:
                current.execute(open_database)
            except BaseException as error:  # whatever it is: the main thread waits for the last message
                current.end(Failed(as_loader_error(error).failure, "unknown", job.import_id))
            finally:
                last_messages.extend(current.last_messages)
                watch.wake()

        threading.Thread(target=work, name="run", daemon=True).start()
        is_aborted = False
        while not last_messages:
            watch.wait(POLL_INTERVAL_SECONDS if interrupt.reason and not is_aborted else None)
            if interrupt.is_effective and not is_aborted:
                interrupt.abort()
                is_aborted = True
        _show_the_rest(outbox, watch, interrupt)
    return last_messages[0]


def _show_the_rest(outbox: Outbox, watch: SignalWatch, interrupt: Interrupt) -> None:
    """Wait until all messages are shown; after a request to stop at most for _READER_SECONDS."""
    deadline: float | None = None
    while not outbox.wait_until_shown(POLL_INTERVAL_SECONDS):
        watch.wait(0)
        if interrupt.reason is None:
            continue
        deadline = deadline or time.monotonic() + _READER_SECONDS
        if time.monotonic() > deadline:
            # to flush the former streams would wait for the thread that writes
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
            return


class _Run:
    """The work, from the first message to the last, and the tidying after it."""

    def __init__(
        self,
        job: Job,
        interrupt: Interrupt,
        send: Callable[[Message], None],
        limits: Limits,
        *,
        is_supervised: bool,
    ) -> None:
        self._job = job
        self._interrupt = interrupt
        self._limits = limits
        self._is_supervised = is_supervised
        self._meter = Meter()
        self._send = send
        self._ticker: Ticker | None = None
        self.last_messages: list[Published | Failed] = []  # one, once it was sent

    def execute(self, open_database: OpenDatabase) -> None:
        """Load, send the last message, then tidy up."""
        self._send(Started(os.getpid(), importlib.metadata.version("large-file-importer")))
        self._ticker = Ticker(self._meter, self._send)
        try:
            with contextlib.ExitStack() as stack:

                def opened() -> str:
                    failpoint.hit()
                    return stack.enter_context(open_database())

                self._load(self._interrupt.call(opened))
        except Exception as error:
            # the database was never opened, so nothing is known of what earlier attempts have left
            import_id = self._job.import_id
            self.end(Failed(self._failure(error), "none" if import_id is None else "unknown", import_id))

    def end(self, last: Published | Failed) -> None:
        """Send the last message, unless it was sent: a later failure changes nothing."""
        if self.last_messages:
            return
        if self._ticker is not None:
            self._ticker.end()
        self.last_messages.append(last)
        self._send(last)

    def _load(self, database_url: str) -> None:
        context = RunContext(
            self._job,
            database_url,
            self._interrupt,
            self._meter,
            self._send,
            self._limits,
            self._is_supervised,
        )
        load = Load(context)
        last = self._publish(context, load)
        self.end(last)
        if isinstance(last, Published):
            load.tidy()

    def _publish(self, context: RunContext, load: Load) -> Published | Failed:
        try:
            return Published(self._interrupt.call(load.run, self._limits.abort_seconds))
        except Exception as error:
            failure = self._failure(error)
        return FailedRun(failure, context, load.state).resolve()

    def _failure(self, error: Exception) -> Failure:
        if self._interrupt.reason is not None:  # the error is a consequence of the abort
            return stop_failure(self._interrupt.reason)
        return as_loader_error(error).failure
