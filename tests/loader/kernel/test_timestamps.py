"""The compiled calendar: every day of a cycle of 400 years, and days that do not exist."""

from __future__ import annotations

import datetime
import struct

from loader.schema import COLUMNS, Kind
from tests.support.encoding import INTERPRETED, encode

CYCLE_DAYS = 146_097
STEP_DAYS = 97 if INTERPRETED else 1
DAY_MICROSECONDS = 86_400_000_000
EPOCH = datetime.date(2000, 1, 1)


def row_of(timestamp: str) -> str:
    return ",".join(timestamp if column.kind is Kind.TIMESTAMP else "" for column in COLUMNS)


def microseconds_of(payload: bytes, rows: int) -> list[int]:
    """Return the first timestamp of each tuple."""
    size = len(payload) // rows
    nulls = [column.kind for column in COLUMNS].index(Kind.TIMESTAMP)
    first = 2 + 4 * nulls + 4  # behind the count, the nulls and the length
    return [struct.unpack_from(">q", payload, start + first)[0] for start in range(0, len(payload), size)]


def test_each_day_of_a_calendar_cycle_is_one_day_after_the_previous() -> None:
    days = range(-CYCLE_DAYS // 2, CYCLE_DAYS // 2, STEP_DAYS)
    dates = [EPOCH + datetime.timedelta(day) for day in days]

    encoded, rows_in_python = encode(
        "\n".join(row_of(f"{date} 00:00:00") for date in dates).encode(), len(COLUMNS)
    )

    assert rows_in_python == 0
    assert microseconds_of(encoded.payload, len(dates)) == [day * DAY_MICROSECONDS for day in days]


def test_days_that_do_not_exist_are_rejected() -> None:
    timestamps = [
        f"{year:04}-{month:02}-{day:02} 00:00:00"
        for year in (0, 1900, 2000, 2023, 2024)
        for month in range(20)
        for day in range(40)
        if not is_date(year, month, day)
    ]

    encoded, _ = encode("\n".join(row_of(timestamp) for timestamp in timestamps).encode(), len(COLUMNS))

    assert encoded.rows == 0
    assert [reject.value for reject in encoded.rejects] == timestamps


def is_date(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True
