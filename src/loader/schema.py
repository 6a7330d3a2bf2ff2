"""The columns of a trip in the file's order, their kinds and Postgres types, and the layouts of files.

Source: NYC TLC, data dictionary of the High Volume For-Hire Vehicle trip records.
"""

from __future__ import annotations

import enum
from typing import LiteralString

import msgspec


class Kind(enum.IntEnum):
    """How a column's field is read and encoded. The kernel branches on it: its values are part of compiled code."""

    TEXT = 0
    TIMESTAMP = 1  # microseconds since 2000-01-01, int64
    INTEGER = 2  # int32
    BIGINT = 3  # int64
    DOUBLE = 4  # IEEE 754 binary64


POSTGRES_TYPES: dict[Kind, LiteralString] = {
    Kind.TEXT: "text",
    Kind.TIMESTAMP: "timestamp without time zone",
    Kind.INTEGER: "integer",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double precision",
}


class Column(msgspec.Struct, frozen=True):
    """One column of the file and of `trips`."""

    header: str  # the name as the file spells it
    kind: Kind

    @property
    def name(self) -> str:
        """The column's name in Postgres: the header in lower case."""
        return self.header.lower()


COLUMNS: tuple[Column, ...] = (
    Column("hvfhs_license_num", Kind.TEXT),
    Column("dispatching_base_num", Kind.TEXT),
    Column("originating_base_num", Kind.TEXT),
    Column("request_datetime", Kind.TIMESTAMP),
    Column("on_scene_datetime", Kind.TIMESTAMP),
    Column("pickup_datetime", Kind.TIMESTAMP),
    Column("dropoff_datetime", Kind.TIMESTAMP),
    Column("PULocationID", Kind.INTEGER),
    Column("DOLocationID", Kind.INTEGER),
    Column("trip_miles", Kind.DOUBLE),
    Column("trip_time", Kind.BIGINT),
    Column("base_passenger_fare", Kind.DOUBLE),
    Column("tolls", Kind.DOUBLE),
    Column("bcf", Kind.DOUBLE),
    Column("sales_tax", Kind.DOUBLE),
    Column("congestion_surcharge", Kind.DOUBLE),
    Column("airport_fee", Kind.DOUBLE),
    Column("tips", Kind.DOUBLE),
    Column("driver_pay", Kind.DOUBLE),
    Column("shared_request_flag", Kind.TEXT),
    Column("shared_match_flag", Kind.TEXT),
    Column("access_a_ride_flag", Kind.TEXT),
    Column("wav_request_flag", Kind.TEXT),
    Column("wav_match_flag", Kind.TEXT),
    Column("cbd_congestion_fee", Kind.DOUBLE),
)

# Files until 2024-12 have the first 24 columns, later ones 25. `trips` has all: a column that a file lacks is null.
LAYOUT_COLUMN_COUNTS = (24, 25)
