"""The encoder against rows.py: the same tuples and rejects, whatever the bytes; usual dialects need the kernel alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.cli.sample import COLUMN_COUNT
from loader.encoding.encoder import OUTPUT_BYTES, REJECTS_PER_CHUNK, Encoder
from loader.rejects import Reason
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, Kind
from tests.support.boundary_values import BOUNDARY_VALUES
from tests.support.encoding import (
    BYTE_OFFSET,
    FIRST_LINE,
    INTERPRETED,
    block_of,
    encode,
    encode_row_by_row,
    sample_rows,
)

DIALECT_ROWS = 6 if INTERPRETED else 500
many_examples = settings(max_examples=60 if INTERPRETED else 500, deadline=None)

STRUCTURE = st.sampled_from(
    [b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"0", b".", b"-", b"Y", b" "]
)


@st.composite
def plain_field(draw: st.DrawFn, kind: Kind) -> bytes:
    """Draw a field in the usual form, with any value."""
    match kind:
        case Kind.TEXT:
            return draw(st.text(max_size=20)).encode()
        case Kind.TIMESTAMP:
            return str(draw(st.datetimes())).encode()
        case Kind.INTEGER:
            return b"%d" % draw(st.integers(-(2**31), 2**31 - 1))
        case Kind.BIGINT:
            return b"%d" % draw(st.integers(-(2**63), 2**63 - 1))
        case Kind.DOUBLE:
            return repr(draw(st.floats(allow_nan=False, allow_infinity=False))).encode()


@st.composite
def row(draw: st.DrawFn, column_count: int) -> bytes:
    """Draw a row with a few other fields, quoted or not, perhaps damaged, and a line end."""
    fields = list(draw(st.sampled_from(REAL_ROWS[column_count])))
    for index in draw(st.lists(st.integers(0, column_count - 1), max_size=4)):
        kind = COLUMNS[index].kind
        fields[index] = draw(st.sampled_from(BOUNDARY_VALUES[kind]) | plain_field(kind))
    quoted = draw(st.sampled_from([0, 0, 2**column_count - 1]) | st.integers(0, 2**column_count - 1))
    fields = [b'"%b"' % field if quoted >> index & 1 else field for index, field in enumerate(fields)]
    record = b",".join(fields)
    if draw(st.integers(0, 3)) == 0:
        start = draw(st.integers(0, len(record)))
        end = draw(st.integers(start, min(start + 30, len(record))))
        record = record[:start] + draw(STRUCTURE) + record[end:]
    return record + draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b""]))


REAL_ROWS = {count: [row.split(b",") for row in sample_rows(40, count)] for count in LAYOUT_COLUMN_COUNTS}
odd_bytes = st.lists(STRUCTURE | st.binary(max_size=3), max_size=60).map(b"".join)


@given(st.data(), st.sampled_from(LAYOUT_COLUMN_COUNTS), st.sampled_from([1, 330, 500, 2000, OUTPUT_BYTES]))
@many_examples
def test_a_block_is_encoded_as_row_by_row(data: st.DataObject, column_count: int, output_bytes: int) -> None:
    block = b"".join(data.draw(st.lists(row(column_count) | odd_bytes, max_size=8)))
    behind = data.draw(st.sampled_from([b"", b"\n", b"\0" * 64, b",".join(REAL_ROWS[column_count][0])]))

    encoded, _ = encode(block, column_count, output_bytes, behind)

    assert encoded == encode_row_by_row(block, column_count)


# The first column of each kind, and the last ones of the layouts.
_KINDS = [column.kind for column in COLUMNS]
BOUNDARY_COLUMNS = sorted({*map(_KINDS.index, Kind), *(count - 1 for count in LAYOUT_COLUMN_COUNTS)})


@pytest.mark.parametrize("quote", [b"", b'"'], ids=["bare", "quoted"])
@pytest.mark.parametrize("index", BOUNDARY_COLUMNS, ids=[COLUMNS[index].name for index in BOUNDARY_COLUMNS])
def test_a_boundary_value_is_encoded_as_row_by_row(index: int, quote: bytes) -> None:
    column_count = next(count for count in LAYOUT_COLUMN_COUNTS if index < count)
    rows: list[bytes] = []
    for number, field in enumerate(BOUNDARY_VALUES[COLUMNS[index].kind]):
        fields = list(REAL_ROWS[column_count][0])
        fields[index] = quote + field + quote
        rows.append(b",".join(fields) + (b"\n" if number % 2 else b"\r\n"))

    for row in [*rows, b"".join(rows)]:
        assert encode(row, column_count)[0] == encode_row_by_row(row, column_count)


def quoted(fields: list[bytes]) -> list[bytes]:
    return [b'"%b"' % field if field else b"" for field in fields]


def quoted_texts(fields: list[bytes]) -> list[bytes]:
    return [
        b'"%b"' % field if column.kind is Kind.TEXT and field else field
        for column, field in zip(COLUMNS, fields, strict=False)
    ]


def of_kind(kind: Kind, change: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    return lambda fields: [
        change(field) if column.kind is kind and field else field
        for column, field in zip(COLUMNS, fields, strict=False)
    ]


DIALECTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "plain": lambda fields: fields,
    "all_quoted": quoted,
    "texts_quoted": quoted_texts,
    "microseconds": of_kind(Kind.TIMESTAMP, lambda field: field + b".000000"),
    "milliseconds_quoted": lambda fields: quoted(
        of_kind(Kind.TIMESTAMP, lambda field: field + b".125")(fields)
    ),
    "t": of_kind(Kind.TIMESTAMP, lambda field: field.replace(b" ", b"T")),
    "whole_doubles": of_kind(Kind.DOUBLE, lambda field: field.removesuffix(b".0")),
    "six_decimals": of_kind(Kind.DOUBLE, lambda field: b"%.6f" % float(field)),
    "seventeen_digits": of_kind(Kind.DOUBLE, lambda field: repr(float(field) / 7).encode()),
    "short_exponents": of_kind(Kind.DOUBLE, lambda field: b"%.1e" % float(field)),
    "exponents": of_kind(Kind.DOUBLE, lambda field: b"%.17E" % (float(field) / 7)),
    "negative_doubles": of_kind(Kind.DOUBLE, lambda field: b"-" + field),
    "signed_integers": of_kind(Kind.INTEGER, lambda field: b"+" + field),
    "long_integers": of_kind(Kind.BIGINT, lambda field: b"-%b0000000000" % field),
    "spaces": of_kind(Kind.TEXT, lambda _: b" "),
    "long_texts": of_kind(Kind.TEXT, lambda field: field * 30),
    "characters": of_kind(Kind.TEXT, lambda field: field + "é€𝄞".encode()),
    "commas_in_texts": lambda fields: quoted(of_kind(Kind.TEXT, lambda field: field + b",")(fields)),
}


@pytest.mark.parametrize("line_ends", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("column_count", LAYOUT_COLUMN_COUNTS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_dialect_of_a_whole_file_needs_python(dialect: str, column_count: int, line_ends: bytes) -> None:
    rows = [b",".join(DIALECTS[dialect](row.split(b","))) for row in sample_rows(DIALECT_ROWS, column_count)]
    block = line_ends.join(rows)  # the last line is not ended

    encoded, rows_in_python = encode(block, column_count)

    assert rows_in_python == 0
    assert encoded.rows == DIALECT_ROWS
    assert encoded == encode_row_by_row(block, column_count)


def test_line_ends_may_be_mixed() -> None:
    rows = sample_rows(DIALECT_ROWS)
    block = b"".join(row + (b"\r\n" if number % 3 else b"\n") for number, row in enumerate(rows))

    encoded, rows_in_python = encode(block, COLUMN_COUNT)

    assert (encoded.rows, rows_in_python) == (DIALECT_ROWS, 0)


def test_python_encodes_only_the_row_that_needs_it() -> None:
    rows = sample_rows(DIALECT_ROWS)
    rows[3] = rows[3].replace(b"HV", b'H"V"', 1)

    encoded, rows_in_python = encode(b"\n".join(rows), COLUMN_COUNT)

    assert (encoded.rows, rows_in_python) == (DIALECT_ROWS, 1)


def test_rows_that_all_need_python_fill_chunks_too() -> None:
    block = b"\n".join(b'x"x"' * 150 + row for row in sample_rows(20))

    encoded, rows_in_python = encode(block, COLUMN_COUNT, output_bytes=1_000)

    assert rows_in_python == 20
    assert encoded == encode_row_by_row(block, COLUMN_COUNT)


def test_a_carriage_return_at_the_end_of_the_file_is_no_line_end() -> None:
    encoded, _ = encode(b"\n".join(sample_rows(3)) + b"\r", COLUMN_COUNT)

    assert encoded.rows == 2
    assert [reject.kind for reject in encoded.rejects] == [Reason.CARRIAGE_RETURN]


def test_the_lines_and_offsets_of_rejects_count_newlines_within_quotes() -> None:
    good = sample_rows(1)[0]
    two_lines = good.replace(b"HV", b'"H\nV"', 1)
    bad = good.replace(b"HV", b'"H\n\nV",', 1)
    block = b"\n".join([good, two_lines, bad, good, b"", good])

    encoded, _ = encode(block, COLUMN_COUNT)

    assert encoded.rows == 4
    assert [(reject.line, reject.byte_offset, reject.original) for reject in encoded.rejects] == [
        (FIRST_LINE + 3, BYTE_OFFSET + block.index(bad), bad),
        (FIRST_LINE + 7, BYTE_OFFSET + block.index(b"\n\nHV") + 1, b""),
    ]


def test_a_row_may_be_as_large_as_the_output_or_larger() -> None:
    rows = sample_rows(3)
    for size in [*range(380, 740, 3), 5_000]:
        block = b"\n".join([rows[0], b"x" * size + rows[1], rows[2] + b"y" * size, rows[0]])

        encoded, _ = encode(block, COLUMN_COUNT, output_bytes=1_000)

        assert encoded == encode_row_by_row(block, COLUMN_COUNT)


def test_a_block_comes_in_chunks_no_larger_than_the_output() -> None:
    output_bytes = 5_000
    chunks = Encoder(COLUMN_COUNT, output_bytes).encode(block_of(b"\n".join(sample_rows(100))))

    sizes = [len(chunk.payload) for chunk in chunks]

    assert max(sizes) <= output_bytes
    assert min(sizes[:-1]) > output_bytes / 2


def test_the_rejects_of_a_block_come_in_chunks() -> None:
    count = 2 * REJECTS_PER_CHUNK + 1

    chunks = list(Encoder(COLUMN_COUNT).encode(block_of(b"\n" * count)))

    assert [len(chunk.rejects) for chunk in chunks] == [REJECTS_PER_CHUNK, REJECTS_PER_CHUNK, 1]


def test_an_encoder_that_left_a_block_unfinished_starts_the_next_one_clean() -> None:
    rows = sample_rows(30)
    encoder = Encoder(COLUMN_COUNT, output_bytes=1_000)
    next(encoder.encode(block_of(b"bad\n" + b"\n".join(rows))))

    chunks = list(encoder.encode(block_of(rows[0])))

    assert [(chunk.rows, chunk.rejects) for chunk in chunks] == [(1, [])]


def test_a_block_of_no_bytes_has_no_chunks() -> None:
    assert list(Encoder(COLUMN_COUNT).encode(block_of(b""))) == []
