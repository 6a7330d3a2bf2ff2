"""The head of the file: is it this CSV at all, which layout has it, where do its data begin, do its first rows fit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import msgspec

from loader.contract import FailureCode
from loader.encoding.rows import split_record, without_line_end
from loader.errors import LoaderError, value_text
from loader.rejects import Reason
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What people send instead of a CSV, by its first bytes.
_FOREIGN = {
    b"<": "HTML or XML, perhaps an error page",
    b"{": "JSON",
    b"[": "JSON",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"%PDF": "a PDF file",
}
# Why a first line can't be split into names.
_UNREADABLE = {
    Reason.CARRIAGE_RETURN: "a carriage return is in its first line, and lines must end in LF or CRLF",
    Reason.QUOTE: "a quote is opened in its first line and not closed",
}
# A wrong file may have any number of names; so many differences say enough.
_MAX_DIFFERENCES = 30


class Header(msgspec.Struct, frozen=True):
    """What the first line says."""

    column_count: int
    data_start: int  # bytes, the line's end included
    notes: list[str]


def read_header(head: bytes, *, is_whole: bool) -> Header:
    """Return the layout that the head of a file announces; `is_whole` when there is nothing behind it.

    Position decides a column; names guard against the wrong file. Raises EMPTY_FILE, NOT_CSV, HEADER_MISMATCH.
    """
    line, newline, rest = head.partition(b"\n")
    _refuse_foreign(head, line)
    if not newline and not is_whole:
        raise _not_csv(f"its first {len(head):,} bytes hold no line end", line)
    names = _names(line.removesuffix(b"\r").removeprefix(_BYTE_ORDER_MARK))
    if not rest and is_whole:
        raise LoaderError(
            FailureCode.EMPTY_FILE,
            "The file has a header and no rows." if head.strip() else "The file is empty.",
            "See whether the export that writes it has failed; nothing was imported.",
        )
    notes = _compare(names)
    return Header(len(names), len(line) + len(newline), notes)


def _names(line: bytes) -> list[str]:
    """Return the names in a first line, which is read as a row is. Raises NOT_CSV."""
    fields = split_record(line, len(line))
    if isinstance(fields, Reason):
        raise _not_csv(_UNREADABLE[fields], line)
    try:
        return [(field or b"").decode().strip() for field in fields]
    except UnicodeDecodeError:
        raise _not_csv("its first line is not UTF-8", line) from None


def first_records(head: bytes, header: Header, *, is_whole: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the records of the head, each with its byte offset and without its line end; none that may be cut off."""
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


def _refuse_foreign(head: bytes, line: bytes) -> None:
    for magic, what in _FOREIGN.items():
        if head.lstrip().startswith(magic):
            raise _not_csv(f"it looks like {what}", line)
    if b"\0" in line:
        raise _not_csv("its first line has NUL bytes, as binary files and UTF-16 text have", line)


def _not_csv(reason: str, line: bytes) -> LoaderError:
    return LoaderError(
        FailureCode.NOT_CSV,
        f"This is not the CSV: {reason}.",
        "Open the address in a browser, or look at it with `curl -r 0-500`; CSV in UTF-8 is wanted, plain, gzip or zstd.",
        line=1,
        byte_offset=0,
        value=value_text(line),
    )


def _compare(names: list[str]) -> list[str]:
    """Return notes on names that are accepted though unfamiliar; raises HEADER_MISMATCH."""
    unfamiliar = [
        (position, name, column.header)
        for position, (name, column) in enumerate(zip(names, COLUMNS, strict=False), start=1)
        if name.lower() != column.name
    ]
    if len(names) not in LAYOUT_COLUMN_COUNTS or len(unfamiliar) > 1:
        raise LoaderError(
            FailureCode.HEADER_MISMATCH,
            f"The header has {len(names)} columns, {len(unfamiliar)} of them unfamiliar; a trips file has"
            f" {' or '.join(map(str, LAYOUT_COLUMN_COUNTS))}.\n{_side_by_side(names)}",
            "See whether this is the right file; its columns must be those of the trips table, in that order.",
            line=1,
            byte_offset=0,
            column=unfamiliar[0][2].lower() if unfamiliar else None,
            value=unfamiliar[0][1] if unfamiliar else None,
        )
    return [
        f"Column {position} is called {name!r} in the file and was taken for {expected!r}."
        for position, name, expected in unfamiliar
    ]


def _side_by_side(names: list[str]) -> str:
    """Return the columns that differ, expected and found, one a line, the first _MAX_DIFFERENCES of them."""
    expected = [column.header for column in COLUMNS]
    if len(names) <= LAYOUT_COLUMN_COUNTS[0]:
        expected = expected[: LAYOUT_COLUMN_COUNTS[0]]
    rows = [("", "expected", "found")]
    for position, (wanted, found) in enumerate(zip_longest(expected, names, fillvalue="-"), start=1):
        if wanted.lower() != found.lower():
            rows.append((str(position), wanted, found[:40]))
    more = len(rows) - 1 - _MAX_DIFFERENCES
    lines = [f"  {number:>3}  {wanted:<24} {found}" for number, wanted, found in rows[: 1 + _MAX_DIFFERENCES]]
    return "\n".join(lines + [f"       and {more:,} more"] * (more > 0))
