"""No row, however long or odd, and no number of them makes the loader's memory grow beyond one bound."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pytest

from loader.contract import FailureCode
from tests.support.loader_process import LoaderProcess, assert_nothing_is_left, row_count, wait_for
from tests.support.mutation import HEADER, ROWS

# Real processes, some seconds each.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is in Linux's /proc"),
]

MB = 1_000_000
# Of resident memory, with two workers. An interpreter with the compiler's libraries and the buffers of ordinary rows take
# 240 MB; of a record as long as a segment, 8 MiB, each worker has some copies.
MAX_BYTES = 512 * MB
GOOD_ROWS = b"".join(ROWS[:100])
LINE = 102
BYTE_OFFSET = len(HEADER) + len(GOOD_ROWS)
FIRST, SECOND = "hvfhs_license_num", "dispatching_base_num"


def start(folder: Path, database_url: str, *options: str) -> LoaderProcess:
    """Start a loader that imports its stdin."""
    return LoaderProcess(
        folder, "run", "-", "--workers=2", *options, database_url=database_url, stdin=subprocess.PIPE
    )


def _feed(stdin: IO[bytes], pieces: Iterable[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError), stdin:
        for piece in pieces:
            stdin.write(piece)


def peak_while_fed(loader: LoaderProcess, pieces: Iterable[bytes]) -> int:
    """Send a file to a loader until that has ended; return the peak of its resident memory, in bytes."""

    assert loader.process.stdin is not None
    feeder = threading.Thread(target=_feed, args=(loader.process.stdin, pieces))
    feeder.start()
    peaks: list[int] = []

    def has_ended() -> bool:
        status = Path(f"/proc/{loader.process.pid}/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):  # a process that has ended has none
            peaks.append(int(found[1]) * 1024)
        return loader.process.poll() is not None

    wait_for("the end of the loader", has_ended)
    feeder.join()
    return max(peaks)


def endless(piece: bytes) -> Iterable[bytes]:
    """A piece again and again, a megabyte at a time."""
    return itertools.repeat(piece * (MB // len(piece)))


TOO_LONG = {
    "20 MB in quotes": ([b'"', b"x" * 20 * MB, b'",', *ROWS], FIRST, '"' + "x" * 199),
    "20 MB in the second field": ([b"HV0003,", b"x" * 20 * MB, b",\n", *ROWS], SECOND, "x" * 200),
    "commas without end": (endless(b","), None, "," * 200),
    "quotes without end": (endless(b'"'), FIRST, '"' * 200),
}
TOO_LONG_BY_FAR = {
    "a quote that is never closed": ([b'HV0003,"B03404,', *[b"".join(ROWS)] * 6_000], SECOND, '"B03404,'),
    "text without end": (endless("né".encode()), FIRST, "né" * 100),
    "NUL bytes without end": (endless(b"\0"), FIRST, r"\x00" * 50),
    "lines within quotes, without end": (itertools.chain([b'"'], endless(b"\n")), FIRST, '"' + "\n" * 199),
}


def check_too_long(
    folder: Path, database_url: str, pieces: Iterable[bytes], column: str | None, value: str
) -> None:
    loader = start(folder, database_url, "--max-rejects=100%")

    peak_bytes = peak_while_fed(loader, itertools.chain([HEADER, GOOD_ROWS], pieces))

    failed = loader.failure()
    failure = failed.failure
    assert (failure.code, failed.staging) == (FailureCode.RECORD_TOO_LONG, "none")
    assert (failure.line, failure.byte_offset, failure.column) == (LINE, BYTE_OFFSET, column)
    assert failure.value is not None
    assert failure.value.startswith(value)
    assert len(failure.value) <= 201
    assert peak_bytes < MAX_BYTES
    assert row_count(database_url) == 0
    assert_nothing_is_left(database_url)


@pytest.mark.parametrize(("pieces", "column", "value"), TOO_LONG.values(), ids=TOO_LONG)
def test_a_record_that_does_not_fit_is_named_in_bounded_memory(
    tmp_path: Path, database_url: str, pieces: Iterable[bytes], column: str | None, value: str
) -> None:
    check_too_long(tmp_path, database_url, pieces, column, value)


@pytest.mark.long
@pytest.mark.parametrize(("pieces", "column", "value"), TOO_LONG_BY_FAR.values(), ids=TOO_LONG_BY_FAR)
def test_a_record_without_end_is_named_in_bounded_memory(
    tmp_path: Path, database_url: str, pieces: Iterable[bytes], column: str | None, value: str
) -> None:
    check_too_long(tmp_path, database_url, pieces, column, value)


REJECTED = {
    "empty lines": (b"\n", 200_000),
    "records of 8 MB that are no text": (b"a," + b"\xff" * 7_900_000 + b"\n", 24),
    "records of 8 MB of commas": (b"," * 7_900_000 + b"\n", 24),
    "records of 8 MB of quotes": (b'"' * 7_900_000 + b"\n", 24),
    "records of 8 MB of quoted fields": (b'"ab",' * 1_500_000 + b"\n", 24),
    "records of 8 MB of newlines in quotes": (b'"' + b"\n" * 7_900_000 + b'"\n', 24),
}


@pytest.mark.long
@pytest.mark.parametrize(("record", "count"), REJECTED.values(), ids=REJECTED)
def test_rejects_are_stored_in_bounded_memory(
    tmp_path: Path, database_url: str, record: bytes, count: int
) -> None:
    loader = start(tmp_path, database_url, "--max-rejects=100%")

    peak_bytes = peak_while_fed(loader, [HEADER, GOOD_ROWS, *[record] * count, GOOD_ROWS])

    receipt = loader.receipt()
    assert (receipt.rows_rejected, receipt.rows_published) == (count, 200)
    assert peak_bytes < MAX_BYTES


@pytest.mark.long
def test_rows_of_8_mb_are_stored_in_bounded_memory(tmp_path: Path, database_url: str) -> None:
    loader = start(tmp_path, database_url)
    row = ROWS[0].removesuffix(b"\n") + "né".encode() * 2_600_000 + b"\n"

    peak_bytes = peak_while_fed(loader, [HEADER, GOOD_ROWS, *[row] * 24])

    assert loader.receipt().rows_published == 124
    assert peak_bytes < MAX_BYTES
