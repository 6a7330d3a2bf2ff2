"""Each fault of a row, through the whole loader: a defined result, with line, byte offset, column and value.

Where no reject is allowed the row is named and nothing is published. Where it is, the row is set aside, all others are
stored, and PostgreSQL's own COPY, asked about every record, says the same.
"""

from __future__ import annotations

import gzip
import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import pytest

from loader.cli.sample import COLUMN_COUNT
from loader.contract import Failure, FailureCode, Job, Published
from loader.schema import COLUMNS
from tests.support.http_server import Fault, HttpServer, Request
from tests.support.loader_process import Loaders, assert_nothing_is_left, fresh_database, query, wait_for
from tests.support.mid_load import backends, holding, wait_for_lock
from tests.support.mutation import HEADER, ROWS
from tests.support.oracle import records_behind_header
from tests.support.whole_import import WholeImport
from tests.support.whole_loader import WholeLoader, whole_loader

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

# Segments of 4 KiB: the row at fault is in the third, far behind what the probe tries.
SIZES = (4_096, 4_096)
ROW = ROWS[0].removesuffix(b"\n")
BEFORE, AFTER = b"".join(ROWS[1:61]), b"".join(ROWS[61:101])
LINE = 62
BYTE_OFFSET = len(HEADER) + len(BEFORE)
NAMES = [column.name for column in COLUMNS]


@pytest.fixture(scope="module")
def loader(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[WholeLoader]:
    with fresh_database(postgres) as url:
        with whole_loader(tmp_path_factory.mktemp("rows"), url, *SIZES) as loader:
            yield loader
        assert_nothing_is_left(url)


def with_field(column: str, field: bytes) -> bytes:
    """A real row with another field."""
    fields = ROW.split(b",")
    fields[NAMES.index(column)] = field
    return b",".join(fields)


def file_with(record: bytes) -> bytes:
    return HEADER + BEFORE + record + b"\n" + AFTER


def published(loader: WholeLoader, csv: bytes, max_rejects: str) -> int:
    """Load a file, see that Postgres would have stored the same; return the number of rejects."""
    last = loader.run(loader.on_disk(csv), max_rejects, workers=2)
    assert isinstance(last, Published), last
    return len(loader.check_published(last.receipt, records_behind_header(csv), COLUMN_COUNT))


def refused(loader: WholeLoader, csv: bytes, code: FailureCode) -> Failure:
    """Load a file without allowing a reject; return its failure, which leaves nothing behind."""
    return loader.check_refused(loader.run(loader.on_disk(csv), "0", workers=2), {code})


FIELD_FAULTS = {
    "NUL byte in a text": ("dispatching_base_num", b"B\x0003404", r"B\x0003404"),
    "NUL byte in a number": ("trip_miles", b"2.8\x00", r"2.8\x00"),
    "invalid UTF-8": ("originating_base_num", b"caf\xe9", r"caf\xe9"),
    "overlong UTF-8": ("wav_match_flag", b"\xc0\x80", r"\xc0\x80"),
    "an integer too large": ("pulocationid", b"2147483648", "2147483648"),
    "a bigint too small": ("trip_time", b"-9223372036854775809", "-9223372036854775809"),
    "an integer that is none": ("dolocationid", b"1.0", "1.0"),
    "1e400": ("driver_pay", b"1e400", "1e400"),
    "1e-400": ("tips", b"1e-400", "1e-400"),
    "400 digits": ("tolls", b"9" * 400, "9" * 200 + "…"),
    "a number that is none": ("bcf", b"N/A", "N/A"),
    "Feb 30": ("request_datetime", b"2024-02-30 00:00:00", "2024-02-30 00:00:00"),
    "Feb 29 of no leap year": ("request_datetime", b"2023-02-29 12:00:00", "2023-02-29 12:00:00"),
    "year 0": ("on_scene_datetime", b"0000-01-01 00:00:00", "0000-01-01 00:00:00"),
    "year 294277": ("pickup_datetime", b"294277-01-01 00:00:00", "294277-01-01 00:00:00"),
    "a second past 24:00:00": ("dropoff_datetime", b"2024-01-01 24:00:01", "2024-01-01 24:00:01"),
    "a second past a leap second": ("dropoff_datetime", b"2024-01-01 23:59:61", "2024-01-01 23:59:61"),
    "a space within a number": ("sales_tax", b"1 .5", "1 .5"),
    "a quoted empty number": ("airport_fee", b'""', ""),
    "\\. in a number": ("trip_miles", b"\\.", "\\."),
    # Postgres takes these; what they mean depends on the day or the server, or is no decimal number.
    "now": ("request_datetime", b"now", "now"),
    "a date that is not ISO 8601": ("request_datetime", b"01/02/2024 10:00:00", "01/02/2024 10:00:00"),
    "a hexadecimal integer": ("trip_time", b"0x1F", "0x1F"),
    "an integer with underscores": ("pulocationid", b"1_0", "1_0"),
}


@pytest.mark.parametrize(("column", "field", "value"), FIELD_FAULTS.values(), ids=FIELD_FAULTS)
def test_a_field_that_can_not_be_stored_is_named(
    loader: WholeLoader, column: str, field: bytes, value: str
) -> None:
    csv = file_with(with_field(column, field))

    failure = refused(loader, csv, FailureCode.BAD_ROW)

    assert (failure.line, failure.byte_offset, failure.column) == (LINE, BYTE_OFFSET, column)
    assert failure.value == value
    assert published(loader, csv, "1") == 1


ROW_FAULTS = {
    "a field too few": ROW.rpartition(b",")[0],
    "a field too many": ROW + b",N",
    "a row of the layout with 25 columns": ROW + b",1.5",
    "a blank line": b"",
    "a line of spaces": b"   ",
    "a line of \\.": b"\\.",
    "a carriage return within": ROW.replace(b",", b",\r", 1),
    "two carriage returns at the end": ROW + b"\r\r",
    "a quoted row": b'"' + ROW + b'"',
    "a character with a quote between its bytes": with_field("wav_match_flag", b'\xc3"\xa9"'),
}


@pytest.mark.parametrize("record", ROW_FAULTS.values(), ids=ROW_FAULTS)
def test_a_row_that_is_broken_as_a_whole_is_shown(loader: WholeLoader, record: bytes) -> None:
    csv = file_with(record)

    failure = refused(loader, csv, FailureCode.BAD_ROW)

    assert (failure.line, failure.byte_offset, failure.column) == (LINE, BYTE_OFFSET, None)
    shown = record.removesuffix(b"\r").decode(errors="backslashreplace")
    assert failure.value == (shown if len(shown) <= 200 else shown[:200] + "…")
    assert published(loader, csv, "1") == 1


STORED = {
    "NaN": with_field("tips", b"NaN"),
    "an infinity": with_field("tips", b"-Infinity"),
    "a time without end": with_field("on_scene_datetime", b"infinity"),
    "300 digits": with_field("tolls", b"3" * 300),
    "a fraction of 300 digits": with_field("tolls", b"0." + b"3" * 300),
    "24:00:00": with_field("dropoff_datetime", b"2024-02-29 24:00:00"),
    "a leap second": with_field("dropoff_datetime", b"2016-12-31 23:59:60"),
    "the last day": with_field("pickup_datetime", b"294276-12-31 23:59:59.999999"),
    "spaces around numbers": with_field("trip_miles", b"  2.5 ").replace(b",161,", b", 161\t,"),
    "a newline within quotes": with_field("wav_match_flag", b'"N\n"'),
    "quotes, commas and CRLF within quotes": with_field("wav_match_flag", b'"say ""N"",\r\n"'),
    "\\. in a text": with_field("wav_match_flag", b"\\."),
    "CRLF among LF": ROW + b"\r\n" + ROW,
    "a byte order mark in a text": with_field("hvfhs_license_num", b"\xef\xbb\xbfHV0003"),
}


@pytest.mark.parametrize("record", STORED.values(), ids=STORED)
def test_what_is_odd_but_has_a_meaning_is_stored_as_postgres_stores_it(
    loader: WholeLoader, record: bytes
) -> None:
    assert published(loader, file_with(record), "0") == 0


def test_a_time_zone_that_is_not_stored_is_in_the_receipt_with_its_first_line(loader: WholeLoader) -> None:
    with_zone = with_field("pickup_datetime", b"2024-01-01 00:21:47+02:00")
    for csv, line in (
        (file_with(with_zone) + with_zone + b"\n", LINE),
        (HEADER + with_zone + b"\n" + AFTER, 2),
    ):
        last = loader.run(loader.on_disk(csv), "0", workers=2)
        assert isinstance(last, Published), last
        (note,) = [note for note in last.receipt.notes if "zone" in note]
        assert f"line {line}, column pickup_datetime, has '2024-01-01 00:21:47+02:00'" in note
    last = loader.run(loader.on_disk(file_with(ROW)), "0", workers=2)
    assert isinstance(last, Published), last
    assert "zone" not in str(last.receipt.notes)


def test_a_quote_that_is_never_closed_is_named_when_the_file_ends(loader: WholeLoader) -> None:
    csv = file_with(with_field("wav_match_flag", b'"N'))[
        : BYTE_OFFSET + 2_000
    ]  # what follows is within quotes
    assert not csv.endswith(b"\n")

    failure = refused(loader, csv + b"\n", FailureCode.BAD_ROW)
    cut_off = refused(loader, csv, FailureCode.SOURCE_TRUNCATED)

    for each in (failure, cut_off):
        assert (each.line, each.byte_offset, each.column) == (LINE, BYTE_OFFSET, None)
        assert each.value == csv[BYTE_OFFSET:][:200].decode() + "…"
    assert published(loader, csv + b"\n", "1") == 1


def test_rows_in_utf_16_are_rejects_and_not_the_end_of_the_file(loader: WholeLoader) -> None:
    csv = file_with(ROW.decode().encode("utf-16-le"))

    failure = refused(loader, csv, FailureCode.BAD_ROW)

    assert (failure.line, failure.byte_offset) == (LINE, BYTE_OFFSET)
    assert (failure.column, failure.value) == ("hvfhs_license_num", r"H\x00V\x000\x000\x000\x003\x00")
    assert published(loader, csv, "1") == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_refused_at_its_first_line(loader: WholeLoader, encoding: str) -> None:
    csv = file_with(ROW).decode().encode(encoding)

    failure = refused(loader, csv, FailureCode.NOT_CSV)

    assert (failure.line, failure.byte_offset) == (1, 0)
    assert "UTF-16" in failure.message
    assert failure.value is not None


def test_of_bad_rows_in_many_blocks_the_first_is_named_by_several_workers(loader: WholeLoader) -> None:
    rows = [*ROWS[1:61], *(with_field("tips", b"x%d" % number) + b"\n" for number in range(300))]

    failure = refused(loader, HEADER + b"".join(rows), FailureCode.BAD_ROW)

    assert (failure.line, failure.byte_offset, failure.value) == (LINE, BYTE_OFFSET, "x0")


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b",\n", b'""\n', b'"\n"\n'], ids=repr)
def test_a_file_of_nothing_but_bad_rows_is_published_where_all_may_be_rejected(
    loader: WholeLoader, line: bytes
) -> None:
    csv = HEADER + line * 2_000

    assert published(loader, csv, "100%") == 2_000
    failure = refused(loader, csv, FailureCode.BAD_ROW)
    assert (failure.line, failure.byte_offset) == (2, len(HEADER))


def stall_beyond(first: int) -> Callable[[Request], Fault | None]:
    """Answer no request for what begins behind this byte."""
    return lambda request: Fault(before="stall") if (request.first or 0) > first else None


def test_the_first_bad_row_is_named_though_its_worker_comes_last(loaders: Loaders, sample: bytes) -> None:
    lines = sample.splitlines(keepends=True)
    lines[380:380] = [b"the first\n"]  # in the first block of 64 KiB
    lines[500:500] = [b"the second\n"]
    with HttpServer(b"".join(lines)) as server:
        server.rule = stall_beyond(0)
        loader = loaders.start("run", server.url, "--workers", "2")
        wait_for("two workers", lambda: len(backends(loaders, "worker %")) == 2)
        with holding(loaders, "LOCK TABLE loader.part IN EXCLUSIVE MODE"):
            server.rule = stall_beyond(10_000)  # all but the first block
            server.drop_connections()
            wait_for_lock(loaders, "worker %")
            slow = waiting_backend(loaders)
            os.kill(slow, signal.SIGSTOP)
        try:
            server.rule = stall_beyond(len(sample))
            server.drop_connections()
            wait_for("the other worker's end", lambda: backends(loaders, "worker %") == [slow])
            # Longer than the loader waits for aborted threads.
            until = time.monotonic() + 3
            wait_for("a while", lambda: loader.process.poll() is not None or time.monotonic() > until)
        finally:
            os.kill(slow, signal.SIGCONT)
        failure = loader.failure().failure
    assert (failure.code, failure.value) == (FailureCode.BAD_ROW, "the first")
    assert_nothing_is_left(loaders.database_url)


def waiting_backend(loaders: Loaders) -> int:
    """Return the process id of the one backend that waits for a lock."""
    statement = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    ((pid,),) = query(loaders.database_url, statement)
    return int(str(pid))


def test_a_percentage_of_rejects_does_not_store_a_wrong_compressed_file(
    database_url: str, tmp_path: Path
) -> None:
    whole = WholeImport(database_url, HEADER)
    whole.limits = msgspec.structs.replace(whole.limits, excess_reject_bytes=100_000)
    path = tmp_path / "trips.csv.gz"
    path.write_bytes(gzip.compress(HEADER + b"%d,another file\n" * 50_000 % tuple(range(50_000))))
    job = Job(str(path), max_rejects="50%")
    failure = whole.fails(job, FailureCode.TOO_MANY_REJECTS)
    rejects = int(failure.message.split()[0].replace(",", ""))
    # Of rows of about 20 bytes the grace has 5,000, with as many that the percentage allows; then what workers hold.
    assert 5_000 < rejects < 30_000
