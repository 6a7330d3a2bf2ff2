"""The threads that load the missing blocks: one reads and cuts, N encode, send and commit parts."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

from loader.buffers import BufferPool
from loader.cancellation import POLL_INTERVAL_SECONDS, Interrupt, SourceClosed, Stopped
from loader.encoding.blocks import Block
from loader.encoding.encoder import Encoder
from loader.encoding.zones import DroppedZone, first_zone
from loader.errors import LoaderError
from loader.limits import Limits
from loader.pipeline.commit_schedule import CommitSchedule
from loader.pipeline.part import Part
from loader.pipeline.progress import Meter
from loader.pipeline.reject_limit import RejectCount
from loader.postgres.connection import Connection, Database, write_early
from loader.postgres.import_lock import Attempt
from loader.postgres.ledger import BlockRow

# A third worker on two cores was no faster. More than four load the server, which --workers decides.
_MAX_DEFAULT_WORKERS = 4
# For the workers to finish earlier blocks once a row was bad: the first bad row of the file is the one to report.
_EARLIER_BLOCKS_SECONDS = 30.0
# For all threads together to end after an abort: a little longer than an abort takes where the database hangs
# (CANCEL_TIMEOUT_SECONDS). A thread that compiles, or hangs in a system call, is left behind.
_END_TIMEOUT_SECONDS = 1.5


def default_worker_count() -> int:
    """Return one worker per core that this process may use, at most four."""
    return min(len(usable_cores()), _MAX_DEFAULT_WORKERS)


def usable_cores() -> set[int]:
    """Return the numbers of the cores that this process may use: of all, where the system restricts no process (macOS)."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return set(range(os.cpu_count() or 1)) if affinity is None else affinity(0)


class Workers:
    """The threads of one attempt, and their failures."""

    def __init__(
        self,
        database: Database,
        attempt: Attempt,
        count: int,
        file_bytes: int | None,
        pool: BufferPool,
        interrupt: Interrupt,
        meter: Meter,
        reject_count: RejectCount,
        limits: Limits,
    ) -> None:
        """`file_bytes`: size of the file as transferred; None: not announced."""
        self._database = database
        self._attempt = attempt
        self._count = count
        self._schedule = CommitSchedule(file_bytes, limits=limits)
        self._pool = pool
        self._interrupt = interrupt
        self._meter = meter
        self._reject_count = reject_count
        self._blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()  # bounded by the pool
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._encoders: list[Encoder] = []  # one for each worker that has loaded something
        self._refused_count = 0
        self._is_read = self._is_loading = False
        self._needs_all = threading.Event()  # workers; a small file needs only the first
        self._one_part_bytes = limits.one_part_bytes
        if (file_bytes or 0) >= self._one_part_bytes:
            self._needs_all.set()

    def run(self, blocks: Iterator[Block], close_source: Callable[[], None]) -> None:
        """Load all blocks; `close_source` makes `blocks` end early. Raises Stopped and LoaderError.

        When a worker fails, the others finish their current block, and the failure that comes first in the file is raised:
        so a reported bad row is the first one. When the source fails, what was read is committed before that is raised.
        """
        threads = [threading.Thread(target=self._read, args=(blocks,), name="reader", daemon=True)]
        threads += [
            threading.Thread(target=self._work, args=(index,), name=f"worker {index}", daemon=True)
            for index in range(self._count)
        ]
        for thread in threads:
            thread.start()
        try:
            self._wait(threads)
            self._wait_for_earlier_blocks(threads[1:])
        finally:
            if not self._interrupt.is_effective:
                self._closed.set()
            close_source()
            deadline = time.monotonic() + _END_TIMEOUT_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._interrupt.check()
        if self._failures:
            raise min(self._failures, key=_position)

    @property
    def zone(self) -> DroppedZone | None:
        """The first zone of a timestamp that was not stored, of the blocks loaded so far."""
        return first_zone(encoder.zone for encoder in self._encoders)

    def _wait(self, threads: list[threading.Thread]) -> None:
        """Wait until all threads have ended, or a worker has failed."""
        for thread in threads:
            while thread.is_alive() and not self._closed.is_set():
                self._interrupt.check()
                thread.join(POLL_INTERVAL_SECONDS)

    def _wait_for_earlier_blocks(self, workers: list[threading.Thread]) -> None:
        """After a bad row, wait for the other workers to finish the blocks they had at that time."""
        deadline = time.monotonic() + _EARLIER_BLOCKS_SECONDS
        if any(_position(failure) < math.inf for failure in self._failures):
            for worker in workers:
                while worker.is_alive() and time.monotonic() < deadline:
                    self._interrupt.check()
                    worker.join(POLL_INTERVAL_SECONDS)

    def _read(self, blocks: Iterator[Block]) -> None:
        try:
            for block in blocks:
                self._blocks.put(block)
                if block.byte_offset + block.end - block.start >= self._one_part_bytes:
                    self._needs_all.set()
        except BaseException as error:
            self._fail(error)
        self._is_read = True
        for _ in range(self._count):
            self._blocks.put(None)

    def _work(self, index: int) -> None:
        try:
            if index > 0 and not self._is_needed():
                return
            with contextlib.ExitStack() as stack:
                try:
                    connection = stack.enter_context(self._database.connection(f"worker {index}"))
                except LoaderError as error:
                    self._refuse(error)
                    return
                self._fill_parts(connection, index)
        except BaseException as error:
            self._fail(error)
            self._closed.set()

    def _is_needed(self) -> bool:
        """Wait until it is known whether the file needs more than the first worker; raises Stopped."""
        while not self._needs_all.wait(POLL_INTERVAL_SECONDS):
            self._check()
            if self._is_read and self._is_loading:
                return False
        return True

    def _refuse(self, error: LoaderError) -> None:
        """Continue with fewer workers; raise the error when the server has refused all of them."""
        self._needs_all.set()
        with self._lock:
            self._refused_count += 1
            if self._refused_count < self._count:
                return
        raise error

    def _fill_parts(self, connection: Connection, index: int) -> None:
        self._is_loading = True
        write_early(connection)
        encoder = Encoder(self._attempt.column_count)
        self._encoders.append(encoder)
        while (first := self._take()) is not None:
            part = Part(
                connection, self._attempt, encoder, self._interrupt, self._reject_count.add, self._loaded
            )
            part.load(self._take_until_due(index, first))

    def _take(self) -> Block | None:
        """Return the next block, or None after the last. Raises Stopped."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._poll()

    def _poll(self) -> Block | None:
        """Return the next block as `_take` does; raise queue.Empty when there is none yet."""
        self._check()
        return self._blocks.get(timeout=POLL_INTERVAL_SECONDS)

    def _check(self) -> None:
        self._interrupt.check()
        if self._closed.is_set():
            raise Stopped

    def _take_until_due(self, index: int, first: Block) -> Iterator[Block]:
        """Yield blocks until the worker's part is due for commit."""
        self._schedule.begin(index)
        block: Block | None = first
        while block is not None:
            self._schedule.add(index, block.end - block.start, block.source_bytes)
            self._reject_count.read(block.record_count)
            yield block
            block = self._take_unless_due(index)
        self._schedule.end(index)

    def _take_unless_due(self, index: int) -> Block | None:
        """Return the next block, or None after the last one or when the worker's part is due."""
        while not self._schedule.is_due(index):
            with contextlib.suppress(queue.Empty):
                block = self._poll()
                if block is None:
                    self._blocks.put(None)  # the loop over parts sees the end, too
                return block
        return None

    def _loaded(self, block: Block, row: BlockRow) -> None:
        self._pool.release(block.buffer)
        self._meter.add(block.source_bytes, row.row_count, row.reject_count)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, (Stopped, SourceClosed)):
            self._failures.append(error)


def _position(error: BaseException) -> float:
    """Return the byte offset of a failure; infinity where it has none, so that it sorts last."""
    offset = error.failure.byte_offset if isinstance(error, LoaderError) else None
    return math.inf if offset is None else offset
