"""The text of `loader check`: size, validator, estimated rows, columns and first rows of a file."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from loader.cli.formatting import size_text
from loader.encoding.header import Header, first_records, read_header, try_first_rows
from loader.encoding.rows import split_record
from loader.limits import DEFAULT_LIMITS, Limits
from loader.rejects import Reason, Reject
from loader.schema import COLUMNS, POSTGRES_TYPES
from loader.source.open import SourceInfo, open_source
from loader.text import printable, value_text

_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 24


def preview_text(
    location: str, database: str, limits: Limits = DEFAULT_LIMITS, *, ignore_etag: bool = False
) -> str:
    """Return a description of the file at a location, of which only the ends are read. Raises LoaderError.

    `database`: the one that a run would load into.
    """
    source = open_source(location, limits, ignore_etag=ignore_etag)
    try:
        info = source.probe()
    finally:
        source.close()
    header = read_header(info.head, is_whole=info.head_is_whole)
    records = [record for _, record in first_records(info.head, header, is_whole=info.head_is_whole)]
    rows = try_first_rows(info.head, header, DEFAULT_LIMITS.probed_rows, is_whole=info.head_is_whole)
    shown = io.StringIO()
    console = Console(file=shown, width=120, highlight=False, markup=False)
    console.print(f"source      {info.location}")
    console.print(f"size        {_size(info)}")
    console.print(f"validator   {info.validator or 'none: a change of the file can not be detected'}")
    console.print(f"resumable   {'yes' if info.resumable else 'no: a new attempt starts over'}")
    console.print(f"rows        {_estimate(info, header, len(records))}")
    console.print(f"database    {printable(database)}")
    for note in header.notes if rows.zone is None else [*header.notes, rows.zone.note()]:
        console.print(f"note        {note}", soft_wrap=True)
    console.print(_columns(header, records[:_SHOWN_ROWS]))
    console.print(_first_rows(rows.rejects, min(len(records), DEFAULT_LIMITS.probed_rows)))
    return shown.getvalue().rstrip()


def _size(info: SourceInfo) -> str:
    size = "not announced"
    if info.size_bytes is not None:
        size = f"{info.size_bytes:,} bytes ({size_text(info.size_bytes)})"
    return size + (f", {info.compression}" if info.compression else "")


def _estimate(info: SourceInfo, header: Header, count: int) -> str:
    if info.head_is_whole:
        return f"{count:,}"
    bytes_per_row = (len(info.head) - header.data_start) / max(count, 1)
    if info.size_bytes is None or info.compression is not None:
        return f"unknown; about {bytes_per_row:.0f} bytes each, decompressed"
    return f"about {info.size_bytes / bytes_per_row:,.0f}, {bytes_per_row:.0f} bytes each"


def _columns(header: Header, records: list[bytes]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("COLUMN", "TYPE", *(f"ROW {number}" for number in range(1, len(records) + 1))):
        table.add_column(title, no_wrap=True)
    rows = [split_record(record, header.column_count) for record in records]
    for index, column in enumerate(COLUMNS[: header.column_count]):
        table.add_row(column.name, POSTGRES_TYPES[column.kind], *(_cell(row, index) for row in rows))
    return table


def _cell(row: list[bytes | None] | Reason, index: int) -> str:
    """Return the text of a field; - if the row lacks it or can't be split."""
    if isinstance(row, Reason) or index >= len(row):
        return "-"
    field = row[index]
    return "(null)" if field is None else printable(value_text(field))[:_SHOWN_CHARACTERS]


def _first_rows(rejects: list[Reject], tried: int) -> str:
    if not rejects:
        return f"The first {tried:,} rows can be stored."
    first = rejects[0]
    column = "" if first.column is None else f", column {first.column}: {first.value!r}"
    return (
        f"{len(rejects):,} of the first {tried:,} rows can NOT be stored;"
        f" the first at line {first.line:,}{column}: {first.reason}."
    )
