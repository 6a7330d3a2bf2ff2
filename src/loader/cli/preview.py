"""What `loader check` shows of a file: size, validator, header, first rows typed, an estimate."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from loader.cli.formatting import size_text
from loader.encoding.first_rows import first_rejects, probed_records
from loader.encoding.header import Header, read_header
from loader.encoding.rows import split_record
from loader.errors import value_text
from loader.limits import DEFAULT_LIMITS
from loader.rejects import Reason, Reject
from loader.schema import COLUMNS, POSTGRES_TYPES
from loader.source.open import SourceInfo, open_source
from loader.text import printable

_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 24


def preview_text(location: str) -> str:
    """Return what is at a location, for people, reading no more than its ends. Raises LoaderError."""
    source = open_source(location)
    try:
        info = source.probe()
    finally:
        source.close()
    header = read_header(info.head, is_whole=info.head_is_whole)
    records = [record for _, record in probed_records(info.head, header, is_whole=info.head_is_whole)]
    rejects = list(first_rejects(info.head, header, DEFAULT_LIMITS.probed_rows, is_whole=info.head_is_whole))
    shown = io.StringIO()
    console = Console(file=shown, width=120, highlight=False, markup=False)
    console.print(f"source      {info.location}")
    console.print(f"size        {_size(info)}")
    console.print(f"validator   {info.validator or 'none: a changed file can not be told from this one'}")
    console.print(f"resumable   {'yes' if info.resumable else 'no: a new attempt begins at the beginning'}")
    console.print(f"rows        {_estimate(info, header, len(records))}")
    for note in header.notes:
        console.print(f"note        {note}")
    console.print(_columns(header, records[:_SHOWN_ROWS]))
    console.print(_verdict(rejects, min(len(records), DEFAULT_LIMITS.probed_rows)))
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
        return f"not known; about {bytes_per_row:.0f} bytes each, decompressed"
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
    """Return a field as it is shown; - where the row has none, or is no row at all."""
    if isinstance(row, Reason) or index >= len(row):
        return "-"
    field = row[index]
    return "(null)" if field is None else printable(value_text(field))[:_SHOWN_CHARACTERS]


def _verdict(rejects: list[Reject], tried: int) -> str:
    if not rejects:
        return f"The first {tried:,} rows can be stored."
    first = rejects[0]
    column = "" if first.column is None else f", column {first.column}: {first.value!r}"
    return (
        f"{len(rejects):,} of the first {tried:,} rows can NOT be stored;"
        f" the first at line {first.line:,}{column}: {first.reason}."
    )
