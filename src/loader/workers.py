"""The missing bytes of an import to committed parts: one thread reads and cuts, N threads encode and send."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

from loader.blocks import Block
from loader.buffers import BufferPool
from loader.claim import Attempt
from loader.database import Connection, Database, write_early
from loader.encode import Encoder
from loader.errors import LoaderError
from loader.interrupt import POLL_SECONDS, Interrupt, Stopped
from loader.ledger import BlockRow
from loader.part import Part
from loader.progress import Meter
from loader.raw_source import SourceClosed
from loader.rejection import RejectCount

# A third worker on two cores was no faster; more than four are for the server to bear, and for --workers to say.
_MOST_DEFAULT_WORKERS = 4
# What a crash may cost: a part is loaded again. Smaller ones would make more tables to no use.
_LEAST_PART_BYTES = 1 << 30
# More partitions than this make planning and locking slow, however large the file.
_MOST_PARTS = 128
# How long a worker may take to end the block before one with a bad row: the first bad row is the one that is told.
_EARLIER_BLOCKS_SECONDS = 30.0
# How long all threads together have to end after they were aborted: a little longer than that takes where the database
# hangs (CANCEL_TIMEOUT_SECONDS). One that compiles, or hangs in a system call, is left behind.
_END_TIMEOUT_SECONDS = 1.5


def default_worker_count() -> int:
    """Return a worker a core, up to four."""
    return min(len(os.sched_getaffinity(0)), _MOST_DEFAULT_WORKERS)


def part_bytes(file_bytes: int | None) -> int:
    """Return how much of a file goes into one part."""
    return max(_LEAST_PART_BYTES, (file_bytes or 0) // _MOST_PARTS)


class Workers:
    """The threads of one attempt, and the first thing that went wrong in them."""

    def __init__(
        self,
        database: Database,
        attempt: Attempt,
        count: int,
        part_target_bytes: int,
        pool: BufferPool,
        interrupt: Interrupt,
        meter: Meter,
        reject_count: RejectCount,
    ) -> None:
        self._database = database
        self._attempt = attempt
        self._count = count
        self._part_target_bytes = part_target_bytes
        self._pool = pool
        self._interrupt = interrupt
        self._meter = meter
        self._reject_count = reject_count
        self._blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()  # bounded by the pool
        self._parts: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._refused = 0

    def run(
        self, blocks: Iterator[Block], close_source: Callable[[], None], on_part: Callable[[], None]
    ) -> None:
        """Load all blocks, which `blocks` reads; `on_part` is called, in this thread, as parts are committed.

        When a worker fails, the others end with the block they are at, and of all failures the one whose place in the
        file is first is raised: so "the first bad row" is that. When the source fails, what was read is committed
        before that is raised. Raises Stopped; `close_source` makes `blocks` end early.
        """
        threads = [threading.Thread(target=self._read, args=(blocks,), name="reader", daemon=True)]
        threads += [
            threading.Thread(target=self._work, args=(index,), name=f"worker {index}", daemon=True)
            for index in range(self._count)
        ]
        for thread in threads:
            thread.start()
        try:
            self._wait(threads, on_part)
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

    def _wait(self, threads: list[threading.Thread], on_part: Callable[[], None]) -> None:
        """Wait until all threads have ended, or until they are told to."""
        while any(thread.is_alive() for thread in threads) and not self._closed.is_set():
            self._interrupt.check()
            try:
                self._parts.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            on_part()

    def _wait_for_earlier_blocks(self, workers: list[threading.Thread]) -> None:
        """Wait, where a row was bad, for the workers that were at other blocks just then."""
        deadline = time.monotonic() + _EARLIER_BLOCKS_SECONDS
        if any(_position(failure) < math.inf for failure in self._failures):
            for worker in workers:
                while worker.is_alive() and time.monotonic() < deadline:
                    self._interrupt.check()
                    worker.join(POLL_SECONDS)

    def _read(self, blocks: Iterator[Block]) -> None:
        try:
            for block in blocks:
                self._blocks.put(block)
        except BaseException as error:
            self._fail(error)
        for _ in range(self._count):
            self._blocks.put(None)

    def _work(self, index: int) -> None:
        try:
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

    def _refuse(self, error: LoaderError) -> None:
        """Do with fewer workers, as long as the server admits any."""
        with self._lock:
            self._refused += 1
            if self._refused < self._count:
                return
        raise error

    def _fill_parts(self, connection: Connection, index: int) -> None:
        write_early(connection)
        encoder = Encoder(self._attempt.column_count)
        # The first parts end one after the other, so that not all workers wait for a commit at once.
        target_bytes = self._part_target_bytes * (index + 1) // self._count
        while (first := self._take()) is not None:
            part = Part(
                connection, self._attempt, encoder, self._interrupt, self._reject_count.add, self._loaded
            )
            self._parts.put(part.load(self._take_up_to(first, target_bytes)))
            target_bytes = self._part_target_bytes

    def _take(self) -> Block | None:
        """Return the next block of the file, or None after the last; raises Stopped when there is to be no more."""
        while True:
            self._interrupt.check()
            if self._closed.is_set():
                raise Stopped
            try:
                return self._blocks.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue

    def _take_up_to(self, first: Block, target_bytes: int) -> Iterator[Block]:
        block: Block | None = first
        taken = 0
        while block is not None:
            taken += block.end - block.start
            yield block
            if taken >= target_bytes:
                return
            block = self._take()
        self._blocks.put(None)  # the end is seen once more, by the loop over parts

    def _loaded(self, block: Block, row: BlockRow) -> None:
        self._pool.release(block.buffer)
        self._meter.add(block.source_bytes, row.row_count, row.reject_count)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, (Stopped, SourceClosed)):
            self._failures.append(error)


def _position(error: BaseException) -> float:
    """Return the byte of the file that a failure is about; one that is about none comes last."""
    offset = error.failure.byte_offset if isinstance(error, LoaderError) else None
    return math.inf if offset is None else offset
