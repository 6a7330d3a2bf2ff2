"""Compiled: a timestamp to microseconds since 2000-01-01, an int64.

`YYYY-MM-DD HH:MM:SS`, also with `T` for the space and with a fraction of up to six digits.
"""

from __future__ import annotations

import numpy as np

from loader.kernel.constants import DECLINED
from loader.kernel.intrinsics import Bytes, UInt64, byte_at, put_int32, put_int64, word_at
from loader.kernel.jit import inlined, kernel
from loader.kernel.swar import (
    ZEROS,
    byte_of,
    bytes_above,
    digit_pairs,
    eight_digits,
    first_flag,
    limits_of,
    low_bytes,
    nondigits,
    word_of,
)

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
# From 0000-03-01, the first day of the calculation, to 2000-01-01.
_EPOCH_DAYS = 730_425
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])

_POINT, _T = b".T"
# The three words of a timestamp: ^ leaves digits and zeros, which must be within these limits.
_YEAR_MONTH = word_of(b"0000-00-")
_YEAR_MONTH_LIMITS = limits_of(b"\x09\x09\x09\x09\x00\x01\x09\x00")
_DAY_SPACE, _DAY_T = word_of(b"00 "), word_of(b"00T")
_DAY_LIMITS = limits_of(b"\x03\x09\x00\x00\x00\x00\x00\x00")
_TIME = word_of(b"00:00:00")
_TIME_LIMITS = limits_of(b"\x02\x09\x00\x05\x09\x00\x05\x09")
_TIME_OFFSET_BYTES, _LENGTH_BYTES = 11, 19

# The last date that was read: its first 8 bytes, its last 2 with the separator, and the microsecond at which it starts.
DateCache = tuple[UInt64, UInt64, UInt64]
_NO_DAY = UInt64(1 << 63)
EMPTY_DATE_CACHE: DateCache = (UInt64(0), UInt64(0), _NO_DAY)


@inlined
def encode_timestamp(
    source: Bytes, position: int, target: Bytes, written: int, date_cache: DateCache
) -> tuple[int, DateCache]:
    """Write length and value, 12 bytes; return the position behind the field, and the updated cache.

    Most timestamps have the date of the one before them, which is then not computed again.
    """
    year_month = word_at(source, position)
    day = low_bytes(word_at(source, position + 8), 3)
    if year_month != date_cache[0] or day != date_cache[1]:
        date_cache = (year_month, day, _midnight(year_month, day))
    time = word_at(source, position + _TIME_OFFSET_BYTES) ^ _TIME
    pairs = digit_pairs(time)
    hour, minute, second = byte_of(pairs, 0), byte_of(pairs, 3), byte_of(pairs, 6)
    if date_cache[2] == _NO_DAY or hour > 23 or bytes_above(time, _TIME_LIMITS) != UInt64(0):
        return DECLINED, date_cache
    microseconds = date_cache[2] + UInt64(((hour * 60 + minute) * 60 + second) * _SECOND)
    position += _LENGTH_BYTES
    if byte_at(source, position) == _POINT:
        digits = word_at(source, position + 1) ^ ZEROS
        count = first_flag(nondigits(digits))
        if count > 6:
            return DECLINED, date_cache
        microseconds += eight_digits(low_bytes(digits, count)) // UInt64(100)  # zeros follow the digits
        position += 1 + count
    put_int32(target, written, UInt64(8))
    put_int64(target, written + 4, microseconds)
    return position, date_cache


@kernel
def _midnight(year_month: UInt64, day: UInt64) -> UInt64:
    """Return the microseconds from 2000-01-01 to a date, _NO_DAY if there is no such date."""
    months = year_month ^ _YEAR_MONTH
    days = day ^ (_DAY_T if byte_of(day, 2) == _T else _DAY_SPACE)
    if bytes_above(months, _YEAR_MONTH_LIMITS) | bytes_above(days, _DAY_LIMITS) != UInt64(0):
        return _NO_DAY
    pairs = digit_pairs(months)
    year, month = byte_of(pairs, 0) * 100 + byte_of(pairs, 2), byte_of(pairs, 5)
    day_of_month = byte_of(digit_pairs(days), 0)
    if year < 1 or month < 1 or month > 12 or day_of_month < 1:
        return _NO_DAY
    leap_day = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if day_of_month > _MONTH_DAYS[month] + leap_day:
        return _NO_DAY
    # Years run from March to February: the leap day is the last one, and five months from March on have 153 days.
    year -= month < 3
    year_days = (153 * ((month + 9) % 12) + 2) // 5 + day_of_month - 1
    era_days = year * 365 + year // 4 - year // 100 + year // 400
    return UInt64((era_days + year_days - _EPOCH_DAYS) * _DAY)
