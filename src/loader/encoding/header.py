"""The head of the file: whether it is this CSV, its layout, where its data start, and whether its first rows fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, zip_longest

import msgspec

from loader.contract import FailureCode
from loader.encoding.foreign_format import foreign_format
from loader.encoding.rows import Fault, encode_row, reject_of, split_record, without_line_end
from loader.encoding.zones import DroppedZone, find_zone
from loader.errors import LoaderError
from loader.rejects import Reason, Reject
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS
from loader.text import value_text

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOOK_AT_IT = (
    "Open the URL in a browser, or look at it with `curl -r 0-500 URL`."
    " The file must be CSV in UTF-8: plain, gzip or zstd."
)
# Why a first line can't be split into names, and what to do.
_UNREADABLE = {
    Reason.CARRIAGE_RETURN: (
        "its first line contains a carriage return; lines must end in LF or CRLF",
        r"If its lines end in a carriage return alone, convert it: `tr '\r' '\n' < FILE > NEW_FILE`.",
    ),
    Reason.QUOTE: ("a quote in its first line is not closed", _LOOK_AT_IT),
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Excel writes and reads this line, which no standard knows.
_EXCEL_SEPARATOR = re.compile(rb'"?sep=([\t ;:,|^~])"?,*', re.IGNORECASE)
# Python is there, as the loader needs it; the values stay as they are.
_CONVERT = (
    "python3 -c 'import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter=\"{}\"))'"
    " < FILE > NEW_FILE"
)
# A wrong file may have any number of columns.
_MAX_SHOWN_DIFFERENCES = 30


class Header(msgspec.Struct, frozen=True):
    """What the first line says."""

    column_count: int
    data_start: int  # byte offset of the first row
    notes: list[str]


class FirstRows(msgspec.Struct, frozen=True):
    """What the first rows of a file show."""

    rejects: list[Reject]  # those that can't be stored
    zone: DroppedZone | None  # the first one of a timestamp in a row that can be stored


def read_header(head: bytes, *, is_whole: bool) -> Header:
    """Return the header in the head of a file; `is_whole`: the head is the whole file.

    A column's position decides what it is; its name guards against the wrong file. Raises EMPTY_FILE, NOT_CSV,
    HEADER_MISMATCH.
    """
    line, newline, rest = head.partition(b"\n")
    _refuse_foreign(head, line)
    if not newline and not is_whole:
        raise _not_csv(f"its first {len(head):,} bytes contain no line end", line)
    names_line = line.removesuffix(b"\r").removeprefix(_BYTE_ORDER_MARK)
    names = _names(names_line)
    if not rest and is_whole:
        raise LoaderError(
            FailureCode.EMPTY_FILE,
            "The file has a header and no rows." if head.strip() else "The file is empty.",
            "Check whether the export that writes it failed. Nothing was imported.",
        )
    notes = _compare(names, names_line)
    return Header(len(names), len(line) + len(newline), notes)


def first_records(head: bytes, header: Header, *, is_whole: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the byte offset and the bytes, without line end, of each record in the head that can't be cut off."""
    start = offset = header.data_start
    quotes = 0
    while (end := head.find(b"\n", offset)) >= 0:
        quotes += head.count(b'"', offset, end)
        offset = end + 1
        if quotes % 2 == 0:
            yield start, head[start:end].removesuffix(b"\r")
            start = offset
    if is_whole and start < len(head):
        yield start, without_line_end(head[start:])


def try_first_rows(head: bytes, header: Header, max_rows: int, *, is_whole: bool) -> FirstRows:
    """Encode the first `max_rows` rows: those that can't be stored fail an import before a table exists."""
    rejects: list[Reject] = []
    zone: DroppedZone | None = None
    line = 2
    for offset, record in islice(first_records(head, header, is_whole=is_whole), max_rows):
        row = encode_row(record, header.column_count)
        if isinstance(row, Fault):
            rejects.append(reject_of(row, record, line, offset))
        elif zone is None:
            zone = find_zone(record, header.column_count, line)
        line += 1 + record.count(b"\n")
    return FirstRows(rejects, zone)


def _names(line: bytes) -> list[str]:
    """Return the names in a first line, which is read as a row is. Raises NOT_CSV."""
    fields = split_record(line, len(line))
    if isinstance(fields, Reason):
        reason, hint = _UNREADABLE[fields]
        raise _not_csv(reason, line, hint)
    try:
        return [(field or b"").decode().strip() for field in fields]
    except UnicodeDecodeError:
        hint = "Convert it; if it is from Excel on Windows: `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE`."
        raise _not_csv("its first line is not UTF-8", line, hint) from None


def _refuse_foreign(head: bytes, line: bytes) -> None:
    if (found := foreign_format(head)) is not None:
        raise _not_csv(f"it looks like {found.name}", line, found.hint)
    if b"\0" in line:
        raise _not_csv("its first line contains NUL bytes, as binary files do", line)


def _not_csv(reason: str, line: bytes, hint: str = _LOOK_AT_IT) -> LoaderError:
    return LoaderError(
        FailureCode.NOT_CSV,
        f"This is not the CSV: {reason}.",
        hint,
        line=1,
        byte_offset=0,
        value=value_text(line),
    )


def _refuse_separator(line: bytes) -> None:
    """Raise HEADER_MISMATCH for a first line of another separator than the comma, or that names one for Excel."""
    excel = _EXCEL_SEPARATOR.fullmatch(line)
    separator = excel[1].decode() if excel else max(_SEPARATORS, key=lambda each: line.count(each.encode()))
    if not excel and line.count(separator.encode()) <= line.count(b","):
        return
    message, hint = "", ""
    if excel:
        message = f"Its first line is {line.decode()!r}, which only Excel reads."
        hint = "Remove that line: `tail -n +2 FILE > NEW_FILE`."
    if separator != ",":
        name = _SEPARATORS.get(separator, repr(separator))
        escaped = separator.encode("unicode_escape").decode()
        message += f" Its fields are separated by {name}, not by commas."
        hint += f" Export the file with commas, or convert it: `{_CONVERT.format(escaped)}`."
        if separator == ";":
            hint += " Numbers must have a decimal point, not a comma."
    raise LoaderError(
        FailureCode.HEADER_MISMATCH,
        f"The file can't be read as it is. {message.strip()}",
        hint.strip(),
        line=1,
        byte_offset=0,
        value=value_text(line),
    )


def _compare(names: list[str], line: bytes) -> list[str]:
    """Return notes on unexpected names that are accepted. Raises HEADER_MISMATCH."""
    unexpected = [
        (position, name, column.header)
        for position, (name, column) in enumerate(zip(names, COLUMNS, strict=False), start=1)
        if name.lower() != column.name
    ]
    if len(names) not in LAYOUT_COLUMN_COUNTS or len(unexpected) > 1:
        _refuse_separator(line)
        raise LoaderError(
            FailureCode.HEADER_MISMATCH,
            f"The header has {len(names)} columns, {len(unexpected)} of them with an unexpected name; a trips file has"
            f" {' or '.join(map(str, LAYOUT_COLUMN_COUNTS))}.\n{_side_by_side(names)}",
            "Check whether this is the right file. It must have the columns of the trips table, in that order.",
            line=1,
            byte_offset=0,
            column=unexpected[0][2].lower() if unexpected else None,
            value=unexpected[0][1] if unexpected else None,
        )
    return [
        f"Column {position} is called {name!r} in the file and was read as {expected!r}."
        for position, name, expected in unexpected
    ]


def _side_by_side(names: list[str]) -> str:
    """Return the columns that differ, expected and found, one a line, at most _MAX_SHOWN_DIFFERENCES of them."""
    headers = [column.header for column in COLUMNS]
    if len(names) <= LAYOUT_COLUMN_COUNTS[0]:
        headers = headers[: LAYOUT_COLUMN_COUNTS[0]]
    rows = [("", "expected", "found")]
    for position, (expected, found) in enumerate(zip_longest(headers, names, fillvalue="-"), start=1):
        if expected.lower() != found.lower():
            rows.append((str(position), expected, found[:40]))
    more = len(rows) - 1 - _MAX_SHOWN_DIFFERENCES
    shown = rows[: 1 + _MAX_SHOWN_DIFFERENCES]
    lines = [f"  {number:>3}  {expected:<24} {found}" for number, expected, found in shown]
    return "\n".join(lines + [f"       and {more:,} more"] * (more > 0))
