"""A file in every dialect that exports of the same table have."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable

import zstandard

from loader.cli.sample import COLUMN_COUNT
from loader.schema import COLUMNS

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TEXT = re.compile(rb"(?<![^,\n])([A-Za-z][\w ]*)(?=[,\n])")
_TIMESTAMP = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)")
_WHOLE = re.compile(rb"(?<=,)(\d+)\.0(?=[,\n])")


def clean(csv: bytes) -> bytes:
    return csv


def quoted_texts(csv: bytes) -> bytes:
    return _TEXT.sub(rb'"\1"', csv)


def all_quoted(csv: bytes) -> bytes:
    """Quote every field that is not null, header included."""
    return re.sub(rb"[^,\n]+", lambda match: b'"' + match[0] + b'"', csv)


def fractional_seconds(csv: bytes) -> bytes:
    return _TIMESTAMP.sub(rb"\1 \2.000000", csv)


def iso_timestamps(csv: bytes) -> bytes:
    return _TIMESTAMP.sub(rb"\1T\2.25", csv)


def whole_floats_as_integers(csv: bytes) -> bytes:
    return _WHOLE.sub(rb"\1", csv)


def crlf(csv: bytes) -> bytes:
    return csv.replace(b"\n", b"\r\n")


def byte_order_mark(csv: bytes) -> bytes:
    return BYTE_ORDER_MARK + csv


def no_final_newline(csv: bytes) -> bytes:
    return csv.removesuffix(b"\n")


def newest_layout(csv: bytes) -> bytes:
    """Add the columns that the sample lacks; each has a null in every fourth row."""
    header, *rows = csv.splitlines()
    added = [column.header.encode() for column in COLUMNS[COLUMN_COUNT:]]
    fields = (b"0.0", b"1.5", b"", b"3.0")
    lines = [b",".join([header, *added])]
    lines += [b",".join([row, *[fields[number % 4]] * len(added)]) for number, row in enumerate(rows)]
    return b"\n".join(lines) + b"\n"


def flag_of_one_space(csv: bytes) -> bytes:
    """Make access_a_ride_flag a space, as it was until 2022-06."""
    return re.sub(rb"(,[YN],[YN]),[YN],([YN],[YN]\n)", rb"\1, ,\2", csv)


def everything_at_once(csv: bytes) -> bytes:
    return BYTE_ORDER_MARK + crlf(all_quoted(fractional_seconds(newest_layout(csv)))).removesuffix(b"\r\n")


DIALECTS: list[Callable[[bytes], bytes]] = [
    clean,
    quoted_texts,
    all_quoted,
    fractional_seconds,
    iso_timestamps,
    whole_floats_as_integers,
    crlf,
    byte_order_mark,
    no_final_newline,
    newest_layout,
    flag_of_one_space,
    everything_at_once,
]


def gzipped(csv: bytes) -> bytes:
    return gzip.compress(csv, 1)


def gzip_members(csv: bytes) -> bytes:
    middle = len(csv) // 2
    return gzip.compress(csv[:middle], 1) + gzip.compress(csv[middle:], 1)


def zstd_frames(csv: bytes) -> bytes:
    middle = len(csv) // 3
    compressor = zstandard.ZstdCompressor()
    return compressor.compress(csv[:middle]) + compressor.compress(csv[middle:])


COMPRESSIONS: list[Callable[[bytes], bytes]] = [gzipped, gzip_members, zstd_frames]
