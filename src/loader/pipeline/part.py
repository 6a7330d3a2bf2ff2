"""One part: a table, filled from blocks by binary COPY in one transaction, committed whole with its ledger rows."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Generator, Iterator, Sequence

import psycopg
from psycopg import Copy, Cursor, sql
from psycopg import errors as pg
from psycopg.abc import Buffer
from psycopg.copy import LibpqWriter

from loader import failpoint
from loader.buffers import MIB
from loader.cancellation import Interrupt
from loader.contract import FailureCode
from loader.encoding.blocks import Block
from loader.encoding.encoder import COPY_HEADER, COPY_TRAILER, Chunk, Encoder
from loader.errors import LoaderError
from loader.postgres import import_lock, import_tables, indexing, ledger
from loader.postgres.connection import Connection
from loader.postgres.errors import is_row_fault, row_error, user_code_translated
from loader.postgres.import_lock import Attempt
from loader.postgres.ledger import BlockRow
from loader.postgres.target_table import STATISTICS_TARGET
from loader.rejects import Reject
from loader.schema import COLUMNS

# Each COPY starts on new pages: one COPY for each block wasted 3.7 % of them, one for 8 blocks wastes hardly any.
_BLOCKS_PER_COPY = 8
# Rejects are kept in memory until the COPY ends, so many or long ones end it early.
_REJECTS_PER_COPY = 10_000
_REJECT_BYTES_PER_COPY = 16 * MIB
# libpq copies each write into its own buffer: larger writes make that buffer grow, smaller ones cost calls.
_WRITE_BYTES = 128 * 1024


class ErrorAwareWriter(LibpqWriter):
    """psycopg's writer of a COPY, which also notices when the server sends something before the end.

    During a COPY from the client a server sends only errors: the disk is full, the session ends. It then discards the rest
    of the data, and libpq reports the error at the end of the COPY.
    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
    If the socket is not writable, libpq reads from it, and the error would stay in libpq's buffer unnoticed. So the writer
    waits for a writable socket before each call.
    """

    def __init__(self, cursor: Cursor[tuple[object, ...]]) -> None:
        super().__init__(cursor)
        self._libpq = cursor.connection.pgconn
        self._poll = select.poll()
        self._poll.register(self._libpq.socket, select.POLLIN | select.POLLOUT)
        self.has_response = False  # the end of the COPY tells which; it may be a mere notice

    def write(self, data: Buffer) -> None:
        """Send the data, also when the server has sent something."""
        self._wait()
        while self._libpq.put_copy_data(data) == 0:
            self._wait()
        while self._libpq.flush() != 0:
            self._wait()

    def _wait(self) -> None:
        for _, events in self._poll.poll():
            if events != select.POLLOUT and not self.has_response:
                self.has_response = True
                self._poll.modify(self._libpq.socket, select.POLLOUT)


class Part:
    """A part that is being loaded. It exists for others once `load` has returned."""

    def __init__(
        self,
        connection: Connection,
        attempt: Attempt,
        encoder: Encoder,
        interrupt: Interrupt,
        on_rejects: Callable[[Sequence[Reject], int], None],
        on_block: Callable[[Block, BlockRow], None],
    ) -> None:
        self._connection = connection
        self._attempt = attempt
        self._encoder = encoder
        self._interrupt = interrupt
        self._on_rejects = on_rejects
        self._on_block = on_block
        self._blocks: list[BlockRow] = []
        self._rejects: list[Reject] = []
        self._reject_bytes = 0

    def load(self, blocks: Iterator[Block]) -> int:
        """Load the blocks and commit; return the part's number.

        Calls `on_rejects` with rejected rows and the byte offset behind their block (it may raise), and `on_block` when a
        block's bytes are no longer needed. Raises Stopped, IMPORT_BUSY when another loader has taken over, BAD_ROW for a row
        fault (errors.py), and what the database raises.
        """
        connection, import_key = self._connection, self._attempt.import_key
        with connection.transaction():
            number = ledger.insert_part(connection, import_key)
            table = ledger.part_table(import_key, number)
            _create_table(connection, import_key, number)
            failpoint.hit()
            chunks = self._encode(blocks)
            row_count, more = self._copy(table, chunks)
            while more:
                failpoint.hit()
                self._record(number)
                rows, more = self._copy(table, chunks)
                row_count += rows
            self._record(number)
            ledger.complete_part(connection, number, row_count)
            with _row_faults(), user_code_translated():
                indexing.copy_indexes(connection, ledger.import_table(import_key), table)
            connection.execute(f"SET LOCAL default_statistics_target = {STATISTICS_TARGET}".encode())
            connection.execute(sql.SQL("ANALYZE {}").format(table))
            import_lock.check_attempt(connection, import_key, self._attempt.number)
            failpoint.hit()
        failpoint.hit()
        return number

    def _encode(self, blocks: Iterator[Block]) -> Iterator[Chunk]:
        for block in blocks:
            rows = rejects = 0
            byte_end = block.byte_offset + block.end - block.start
            for chunk in self._encoder.encode(block):
                rows += chunk.rows
                rejects += len(chunk.rejects)
                if chunk.rejects:
                    self._rejects.extend(chunk.rejects)
                    self._reject_bytes += sum(len(reject.original) for reject in chunk.rejects)
                    self._on_rejects(chunk.rejects, byte_end)
                yield chunk
            row = BlockRow(block.byte_offset, byte_end, block.line_count, rows, rejects, block.record_count)
            self._blocks.append(row)
            self._on_block(block, row)

    def _copy(self, table: sql.Identifier, chunks: Iterator[Chunk]) -> tuple[int, bool]:
        """Send chunks in one COPY; return the rows in it, and whether there may be more chunks."""
        columns = sql.SQL(", ").join(
            sql.Identifier(column.name) for column in COLUMNS[: self._attempt.column_count]
        )
        # FREEZE: no vacuum has to rewrite it later. https://www.postgresql.org/docs/current/sql-copy.html
        command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary, FREEZE)").format(table, columns)
        rows, more = 0, False
        with _row_faults(), self._connection.cursor() as cursor:
            writer = ErrorAwareWriter(cursor)
            with cursor.copy(command, writer=writer) as copy:
                copy.write(COPY_HEADER)
                for chunk in chunks:
                    self._write(copy, chunk.payload)
                    rows += chunk.rows
                    more = writer.has_response or self._is_full
                    if more:
                        break
                copy.write(COPY_TRAILER)
            _compare(rows, cursor.rowcount)
        return rows, more

    @property
    def _is_full(self) -> bool:
        """Whether the COPY should end here."""
        many_rejects = len(self._rejects) >= _REJECTS_PER_COPY or self._reject_bytes >= _REJECT_BYTES_PER_COPY
        return many_rejects or len(self._blocks) >= _BLOCKS_PER_COPY

    def _write(self, copy: Copy, payload: memoryview) -> None:
        for start in range(0, len(payload), _WRITE_BYTES):
            self._interrupt.check()
            copy.write(payload[start : start + _WRITE_BYTES])

    def _record(self, number: int) -> None:
        ledger.insert_rejects(self._connection, self._attempt.import_key, number, self._rejects)
        ledger.insert_blocks(self._connection, self._attempt.import_key, number, self._blocks)
        self._rejects.clear()
        self._reject_bytes = 0
        self._blocks.clear()


@contextlib.contextmanager
def _row_faults() -> Generator[None]:
    """Raise BAD_ROW for a row fault (errors.py)."""
    try:
        yield
    except psycopg.Error as error:
        if not is_row_fault(error):
            raise
        raise row_error(
            FailureCode.BAD_ROW,
            "A row breaks a constraint, an index or a column that was added to trips",
            "Drop what was added, or correct the file. PostgreSQL does not report which row of the file it is.",
            error,
        ) from error


def _compare(sent: int, copied: int) -> None:
    if sent != copied:
        raise LoaderError(
            FailureCode.INTERNAL_ERROR,
            f"{sent:,} rows were sent, and the server counted {copied:,}.",
            "Check whether a trigger drops rows; otherwise report this as a defect of the loader.",
        )


def _create_table(connection: Connection, import_key: int, number: int) -> None:
    """Create the part's table so that an attach need not scan it.

    Defaults fill the partition keys, and CHECKs fix them; those of the parent must exist under the same names. Autovacuum
    stays off until the publish, since its locks would delay it.
    https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-ATTACH-PARTITION
    """
    create = sql.SQL(
        "CREATE TABLE {table} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED"
        " INCLUDING STORAGE INCLUDING COMPRESSION, CONSTRAINT part_key CHECK (part = {number}))"
        " WITH (autovacuum_enabled = off)"
    ).format(
        table=ledger.part_table(import_key, number),
        parent=ledger.import_table(import_key),
        number=number,
    )
    try:
        connection.execute(create)
    except pg.DuplicateTable as error:
        raise import_tables.name_taken(f"loader.import_{import_key}_part_{number}") from error
    connection.execute(
        sql.SQL("ALTER TABLE {} ALTER part SET DEFAULT {}").format(
            ledger.part_table(import_key, number), number
        )
    )
