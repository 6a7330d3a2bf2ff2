"""The oracle of whole files: what the loader must do with a header and with records, according to PostgreSQL.

A record that `COPY ... (FORMAT csv)` accepts is a row, bit for bit as it is stored. A record that it rejects is a reject;
column and value follow from how Postgres splits and reads it. So is a record with a field that fields.py rejects by design.
Records are split here byte by byte: a newline outside quotes ends one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import msgspec
import psycopg

from loader.rejects import Reason
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, POSTGRES_TYPES, Kind
from loader.text import VALUE_CHARACTERS
from tests.support.csv_reader import RANGE_REASONS, RANGE_SQLSTATES, is_rejected_on_purpose, tuples_in
from tests.support.dialects import BYTE_ORDER_MARK
from tests.support.encoding import records_of

_NAMES = [column.name for column in COLUMNS]
_TYPES = [POSTGRES_TYPES[column.kind] for column in COLUMNS]
_BAD_FORMAT = "22P04"  # bad_copy_file_format


class Record(msgspec.Struct, frozen=True):
    """A record of the file: where it starts, and its bytes without the line end."""

    line: int
    byte_offset: int
    content: bytes


class ExpectedReject(msgspec.Struct, frozen=True):
    """Why a record must be rejected: the column, the value, and the reasons that are right."""

    column: str | None
    value: str
    reasons: frozenset[Reason]


def records_behind_header(csv: bytes) -> list[Record]:
    """Return the records of a file, of which the header is one line."""
    header, newline, data = csv.partition(b"\n")
    byte_offset, line = len(header) + len(newline), 2
    found: list[Record] = []
    for record in records_of(data):
        ended = b"\r\n" if record.endswith(b"\r\n") else b"\n"
        found.append(Record(line, byte_offset, record.removesuffix(ended)))
        byte_offset += len(record)
        line += record.count(b"\n")
    return found


@contextmanager
def oracle(database_url: str) -> Generator[Oracle]:
    """Yield an oracle with its own session and temporary tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Oracle(connection)


class Oracle:
    """Queries Postgres."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        typed = ", ".join(f"{name} {kind}" for name, kind in zip(_NAMES, _TYPES, strict=True))
        texts = ", ".join(f"field_{index} text" for index in range(len(_NAMES)))
        connection.execute(f"CREATE TEMPORARY TABLE stored ({typed}) ON COMMIT DELETE ROWS".encode())
        connection.execute(f"CREATE TEMPORARY TABLE split ({texts}) ON COMMIT DELETE ROWS".encode())

    def header_columns(self, line: bytes) -> int | None:
        """Return the number of columns of a header that must be accepted: that of a layout, at most one name unexpected."""
        for count in LAYOUT_COLUMN_COUNTS:
            fields = self._split(line.removeprefix(BYTE_ORDER_MARK).removesuffix(b"\r"), count)
            if isinstance(fields, str):
                continue
            try:
                names = [(field or b"").decode().strip().lower() for field in fields]
            except UnicodeDecodeError:
                return None
            known = sum(name == column for name, column in zip(names, _NAMES, strict=False))
            return count if known >= count - 1 and b"\0" not in line else None
        return None

    def stored(self, records: Iterable[Record], column_count: int) -> Counter[bytes]:
        """Return records that Postgres must accept as it stores them: binary COPY tuples of all columns."""
        with self.connection.transaction():
            columns = ", ".join(_NAMES[:column_count])
            command = f"COPY stored ({columns}) FROM STDIN (FORMAT csv, HEADER, ENCODING 'UTF8')"
            with self.connection.cursor().copy(command.encode()) as copy:
                # Postgres takes the first line's end for that of all lines.
                copy.write(b"header\n" + b"".join(record.content + b"\n" for record in records))
            return self.tuples("stored")

    def tuples(self, table: str) -> Counter[bytes]:
        """Return the rows of a table, as binary COPY tuples of the file's columns."""
        return Counter(tuples_in(self.connection, f"SELECT {', '.join(_NAMES)} FROM {table}"))

    def expected_reject(self, content: bytes, column_count: int) -> ExpectedReject | None:
        """Return why a record must be rejected, None if it is a row."""
        fields = self._split(content, column_count)
        if content.count(b'"') % 2 == 1:
            assert fields == _BAD_FORMAT, content
            return ExpectedReject(None, _shown(content), frozenset({Reason.QUOTE}))
        if b"\r" in re.sub(rb'"[^"]*"', b"", content):
            assert fields == _BAD_FORMAT, content
            return ExpectedReject(None, _shown(content), frozenset({Reason.CARRIAGE_RETURN}))
        if isinstance(fields, str):
            assert fields == _BAD_FORMAT, content
            return ExpectedReject(None, _shown(content), frozenset({Reason.FIELD_COUNT}))
        return self._expected_by_text(content, fields) or self._expected_by_values(fields)

    def _expected_by_text(self, content: bytes, fields: list[bytes | None]) -> ExpectedReject | None:
        for name, field in zip(_NAMES, fields, strict=False):
            if field is None:
                continue
            if b"\0" in field:
                return ExpectedReject(name, _shown(field), frozenset({Reason.NUL}))
            if not _is_text(field):
                return ExpectedReject(name, _shown(field), frozenset({Reason.ENCODING}))
        if not _is_text(content):
            return ExpectedReject(None, _shown(content), frozenset({Reason.ENCODING}))
        return None

    def _expected_by_values(self, fields: list[bytes | None]) -> ExpectedReject | None:
        values = [None if field is None else field.decode() for field in fields]
        query = (
            "SELECT number, (pg_input_error_info(value, type)).sql_error_code FROM"
            " unnest(%s::text[], %s::text[]) WITH ORDINALITY AS field (value, type, number) ORDER BY number"
        )
        answers = self.connection.execute(query, [values, _TYPES[: len(values)]]).fetchall()
        for index, (_, sqlstate) in enumerate(answers):
            value = values[index]
            kind = COLUMNS[index].kind
            if value is None or (sqlstate is None and not is_rejected_on_purpose(kind, value)):
                continue
            reasons = {reason for reason in Reason if reason.name.startswith(kind.name)}
            if kind is Kind.BIGINT:
                reasons.add(Reason.INTEGER_SYNTAX)
            if sqlstate not in RANGE_SQLSTATES:
                reasons -= RANGE_REASONS
            if not value:
                reasons = {Reason.QUOTED_EMPTY}
            return ExpectedReject(_NAMES[index], _shown(value.encode()), frozenset(reasons))
        return None

    def _split(self, content: bytes, column_count: int) -> list[bytes | None] | str:
        """Return the fields that Postgres finds in a record, or the SQLSTATE with which it rejects it.

        Declared as LATIN1, any bytes but NUL are characters, so that it splits records that are not UTF-8, too.
        """
        stand_in = next(byte for byte in range(1, 256) if byte not in content and byte not in b',"\r\n\\')
        columns = ", ".join(f"field_{index}" for index in range(column_count))
        command = f"COPY split ({columns}) FROM STDIN (FORMAT csv, HEADER, ENCODING 'LATIN1')"
        try:
            with self.connection.transaction():
                with self.connection.cursor().copy(command.encode()) as copy:
                    copy.write(b"header\n" + content.replace(b"\0", bytes([stand_in])) + b"\n")
                row = self.connection.execute(f"SELECT {columns} FROM split".encode()).fetchone()
        except psycopg.DataError as error:
            return str(error.sqlstate)
        if row is None:  # an empty line is a record of one field
            raise AssertionError(content)
        return [
            None if field is None else field.encode("latin-1").replace(bytes([stand_in]), b"\0")
            for field in row
        ]


def _is_text(field: bytes) -> bool:
    try:
        field.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(field: bytes) -> str:
    """Return a field as rejects show it: cut, with bytes that are no text as escapes."""
    text = field.decode(errors="backslashreplace").replace("\0", r"\x00")
    return text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "…"
