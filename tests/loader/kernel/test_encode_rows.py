"""The kernel's branches: one for each kind of column, and no kind without one."""

from __future__ import annotations

import pytest

from loader.encoding.fields import encode_field
from loader.kernel.constants import DECLINED, ENDED
from loader.kernel.load import load_kernel
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS, Kind
from tests.support.boundary_values import USUAL_FIELDS


def encode(record: bytes, kinds: bytes) -> tuple[bytes, int]:
    """Return what the kernel encodes of one record, and the status."""
    slack = bytes(64)
    output = bytearray(4_000)
    _, written, _, status = load_kernel().encode_rows(
        memoryview(bytearray(record + b"\n" + slack)),
        0,
        len(record) + 1,
        memoryview(output),
        0,
        memoryview(bytearray(kinds)),
    )
    return bytes(output[:written]), status


def tuple_of(fields: list[tuple[Kind, bytes]]) -> bytes:
    data = [encode_field(kind, field) for kind, field in fields]
    assert all(isinstance(each, bytes) for each in data)
    return len(data).to_bytes(2, "big") + b"".join(
        len(each).to_bytes(4, "big") + each for each in data if isinstance(each, bytes)
    )


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("quote", [b"", b'"'], ids=["bare", "quoted"])
def test_the_kernel_encodes_a_usual_field_of_each_kind(kind: Kind, quote: bytes) -> None:
    field = USUAL_FIELDS[kind]
    expected = tuple_of([(kind, field)])

    assert encode(quote + field + quote, bytes([kind])) == (expected, ENDED)


@pytest.mark.parametrize("column_count", LAYOUT_COLUMN_COUNTS)
def test_the_kernel_encodes_a_usual_row_of_each_layout(column_count: int) -> None:
    kinds = [column.kind for column in COLUMNS[:column_count]]
    record = b",".join(USUAL_FIELDS[kind] for kind in kinds)
    expected = tuple_of([(kind, USUAL_FIELDS[kind]) for kind in kinds])

    assert encode(record, bytes(kinds)) == (expected, ENDED)


@pytest.mark.parametrize("field", USUAL_FIELDS.values(), ids=[kind.name for kind in USUAL_FIELDS])
def test_the_kernel_declines_a_kind_without_a_branch(field: bytes) -> None:
    unknown = max(Kind) + 1

    assert encode(field, bytes([unknown])) == (b"", DECLINED)


def test_layouts_grow_up_to_all_columns() -> None:
    assert list(LAYOUT_COLUMN_COUNTS) == sorted(set(LAYOUT_COLUMN_COUNTS))
    assert LAYOUT_COLUMN_COUNTS[-1] == len(COLUMNS)
