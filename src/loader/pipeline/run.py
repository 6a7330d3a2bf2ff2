"""One run as a process: the story in a thread, the main thread on watch, the last message and its exit code."""

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
from loader.contract import (
    Failed,
    Failure,
    Job,
    Message,
    Published,
    Receipt,
    Started,
)
from loader.errors import as_loader_error
from loader.limits import DEFAULT_LIMITS, Limits
from loader.pipeline.attempt import Load
from loader.pipeline.outbox import Outbox
from loader.pipeline.progress import Meter, Ticker
from loader.pipeline.rollback import end_unpublished, stop_failure
from loader.pipeline.signals import SignalWatch

# What a reader that does not read has to take the last messages once the run was told to stop: it may be a terminal that is
# held up by Ctrl-S, or a service that the machine has suspended for a moment.
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
    """Run a job to its end; show all messages and return the last one. Of a publish, the tidying comes after it.

    Must be called in the main thread: signals are its business. A supervised run takes the end of stdin for a SIGHUP.
    `show` is called in one thread and may block; `on_published` is called before the last message, and must not.
    """
    if is_supervised:  # its supervisor retries, and must not take the wait for a hang
        limits = msgspec.structs.replace(limits, staging_lock_seconds=limits.trips_lock_seconds)
    interrupt = Interrupt(limits.commit_seconds)
    outbox = Outbox(show)

    def send(message: Message) -> None:
        if on_published is not None and isinstance(message, Published):
            on_published(message.receipt)
        outbox.send(message)

    ends: list[Published | Failed] = []
    with SignalWatch(interrupt, on_sigterm=job.on_sigterm, watch_stdin=is_supervised) as watch:

        def work() -> None:
            story = _Run(job, interrupt, send, limits, is_supervised=is_supervised)
            try:
                story.tell(open_database)
            except BaseException as error:  # whatever ends the thread: the main thread waits for it
                story.end(Failed(as_loader_error(error).failure, "unknown", job.import_id))
            finally:
                ends.extend(story.ends)
                watch.wake()

        threading.Thread(target=work, name="story", daemon=True).start()
        is_aborted = False
        while not ends:
            watch.wait(POLL_INTERVAL_SECONDS if interrupt.reason and not is_aborted else None)
            if interrupt.is_effective and not is_aborted:
                interrupt.abort()
                is_aborted = True
        _show_the_rest(outbox, watch, interrupt)
    return ends[0]


def _show_the_rest(outbox: Outbox, watch: SignalWatch, interrupt: Interrupt) -> None:
    """Wait for the reader of the messages; after a request to stop only for a while."""
    deadline: float | None = None
    while not outbox.wait_until_shown(POLL_INTERVAL_SECONDS):
        watch.wait(0)
        if interrupt.reason is None:
            continue
        deadline = deadline or time.monotonic() + _READER_SECONDS
        if time.monotonic() > deadline:
            # to flush the others would wait for the thread that writes
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
            return


class _Run:
    """What happens from the first message to the last, and after it."""

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
        self.ends: list[Published | Failed] = []  # the last message, once it was sent

    def tell(self, open_database: OpenDatabase) -> None:
        """Load, say how it ended, and then tidy up."""
        self._send(Started(os.getpid(), importlib.metadata.version("large-file-importer")))
        self._ticker = Ticker(self._meter, self._send)
        try:
            with contextlib.ExitStack() as stack:

                def opened() -> str:
                    failpoint.hit()
                    return stack.enter_context(open_database())

                self._load(self._interrupt.call(opened))
        except Exception as error:
            # the database was never opened: what earlier attempts at this import have left, nobody looked at
            import_id = self._job.import_id
            self.end(Failed(self._failure(error), "none" if import_id is None else "unknown", import_id))

    def end(self, last: Published | Failed) -> None:
        """Send the last message. There is one: what goes wrong afterwards changes nothing."""
        if self.ends:
            return
        if self._ticker is not None:
            self._ticker.end()
        self.ends.append(last)
        self._send(last)

    def _load(self, database_url: str) -> None:
        load = Load(self._job, database_url, self._interrupt, self._meter, self._send, self._limits)
        last = self._publish(load, database_url)
        self.end(last)
        if isinstance(last, Published):
            load.tidy()

    def _publish(self, load: Load, database_url: str) -> Published | Failed:
        try:
            return Published(self._interrupt.call(load.until_published, self._limits.abort_seconds))
        except Exception as error:
            failure = self._failure(error)
        return end_unpublished(
            failure,
            load,
            database_url=database_url,
            limits=self._limits,
            is_in_doubt=self._interrupt.has_started_commit,
            is_supervised=self._is_supervised,
            on_part=self._meter.removed,
        )

    def _failure(self, error: Exception) -> Failure:
        if self._interrupt.reason is not None:  # whatever came of the abort
            return stop_failure(self._interrupt.reason)
        return as_loader_error(error).failure
