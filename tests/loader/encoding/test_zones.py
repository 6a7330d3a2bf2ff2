"""The first zone of a timestamp that is not stored is found in the head of a file, and by the encoder of a block."""

from __future__ import annotations

import pytest

from loader.cli.sample import COLUMN_COUNT
from loader.encoding.encoder import Encoder
from loader.encoding.header import read_header, try_first_rows
from loader.encoding.zones import DroppedZone, find_zone, first_zone
from loader.schema import COLUMNS
from tests.support.encoding import FIRST_LINE, block_of, sample_rows

HEADER = ",".join(column.header for column in COLUMNS[:COLUMN_COUNT]).encode() + b"\n"
REQUEST, DROPOFF = (
    [column.name for column in COLUMNS].index(name) for name in ("request_datetime", "dropoff_datetime")
)


def row_with(value: bytes, index: int = REQUEST) -> bytes:
    """Return a row of the sample with this field."""
    fields = sample_rows(1)[0].split(b",")
    fields[index] = value
    return b",".join(fields)


@pytest.mark.parametrize(
    "value",
    [
        b"2024-01-01 00:21:47+02:00",
        b"2024-01-01T00:21:47Z",
        b"2024-01-01 00:21:47 utc",
        b"2024-01-01 00:21-0530",
        b'"2024-01-01 00:21:47.5+02 "',
    ],
)
def test_a_zone_is_found_with_its_line_column_and_value(value: bytes) -> None:
    shown = value.decode().strip('"')
    assert find_zone(row_with(value), COLUMN_COUNT, 7) == DroppedZone(7, "request_datetime", shown)
    assert find_zone(row_with(value, DROPOFF), COLUMN_COUNT, 7) == DroppedZone(7, "dropoff_datetime", shown)


@pytest.mark.parametrize(
    "value", [b"2024-01-01 00:21:47", b"2024-01-01", b"infinity", b"", b"2024-01-01  00:21:47.123456 "]
)
def test_a_timestamp_without_a_zone_has_none(value: bytes) -> None:
    assert find_zone(row_with(value), COLUMN_COUNT, 7) is None


def test_the_encoder_keeps_the_first_zone_of_a_row_that_is_stored() -> None:
    rejected = row_with(b"2024-01-01 00:00:00Z").rpartition(b",")[0]
    rows = [
        *sample_rows(2),
        rejected,
        row_with(b"2024-01-01 00:00:00+01", DROPOFF),
        row_with(b"2024-01-01 00:00Z"),
    ]
    encoder = Encoder(COLUMN_COUNT)
    for chunk in encoder.encode(block_of(b"\n".join(rows))):
        assert chunk.rows == 4
    assert encoder.zone == DroppedZone(FIRST_LINE + 3, "dropoff_datetime", "2024-01-01 00:00:00+01")


def test_the_head_is_searched_for_a_zone_as_far_as_its_rows_are_tried() -> None:
    head = HEADER + b"\n".join([b"bad", *sample_rows(3), row_with(b"2024-01-01 00:00:00Z"), b""])
    header = read_header(head, is_whole=True)
    assert try_first_rows(head, header, 4, is_whole=True).zone is None
    found = try_first_rows(head, header, 5, is_whole=True).zone
    assert found == DroppedZone(6, "request_datetime", "2024-01-01 00:00:00Z")
    assert found is not None
    note = found.note()
    assert "line 6, column request_datetime" in note
    assert first_zone([None, DroppedZone(9, "a", "b"), found, None]) == found
    assert first_zone([None]) is None
