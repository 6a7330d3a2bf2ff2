r"""What a field means: one field's bytes to the binary value of its column's kind, or the reason why not.

A field is read as PostgreSQL 18's own input functions read it (https://www.postgresql.org/docs/18/datatype.html):
white space around it is skipped, values are rounded and bounded in the same way. Refused, though Postgres takes them, are

- integers in hexadecimal, octal or binary (`0x1F`), and with underscores (`1_000`)
- doubles in hexadecimal (`0x1p3`), and NaN with a payload (`nan(1)`)
- timestamps in any other spelling than `YYYY-MM-DD[ HH:MM[:SS[.fraction]][zone]]` and `[+-]infinity`, where the year
  has 4 to 6 digits, the others 1 or 2 and the fraction at most 100; `T` may stand for the white space before the time; the
  zone is `Z`, `UTC`, `+HH`, `+HHMM` or `+HH:MM`, white space before it or not. So no `now`, `BC`, `1/5/2024`, `20240105`.
  A zone changes nothing, as ever for a timestamp without time zone.
"""

from __future__ import annotations

import datetime
import math
import re
import struct
from collections.abc import Callable

from loader.rejects import Reason
from loader.schema import Kind

_INTEGER = re.compile(rb"([+-]?)([0-9]+)")
_INT64_DIGITS = 19

_DOUBLE = re.compile(rb"[+-]?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_DOUBLE_WORD = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_BINARY64 = struct.Struct(">d")

# Postgres copies the parts of a timestamp into 153 bytes and refuses longer ones; what matches here needs at most 131.
_TIMESTAMP = re.compile(
    rb"""([0-9]{4,6})-([0-9]{1,2})-([0-9]{1,2})
    (?:
        (?:\s+|T) ([0-9]{1,2}):([0-9]{1,2}) (?: :([0-9]{1,2}) (?:\.([0-9]{0,100}))? )?
        (?: \s* (?:Z|UTC|[+-]([0-9]{2})(?: :?([0-9]{2}) )?) )?
    )?""",
    re.IGNORECASE | re.VERBOSE,
)
_TIMESTAMP_WORDS = {b"infinity": (1 << 63) - 1, b"+infinity": (1 << 63) - 1, b"-infinity": -(1 << 63)}
_EPOCH_ORDINAL = datetime.date(2000, 1, 1).toordinal()
_CALENDAR_CYCLE_YEARS, _CALENDAR_CYCLE_DAYS = 400, 146_097
_DAY_MICROSECONDS = 86_400_000_000
# 294277-01-01 00:00:00, the first that Postgres can't hold (its END_TIMESTAMP), in microseconds since 2000-01-01.
_TIMESTAMP_END = 9_223_371_331_200_000_000


def encode_field(kind: Kind, value: bytes) -> bytes | Reason:
    """Return the binary value of a field that is not null: the format of Postgres' typsend functions, big-endian.

    `value` is without quotes, valid UTF-8 and without NUL bytes.
    """
    return _ENCODERS[kind](value)


def _encode_text(value: bytes) -> bytes:
    return value


def _encode_integer(value: bytes) -> bytes | Reason:
    return _encode_signed(value, 4)


def _encode_bigint(value: bytes) -> bytes | Reason:
    return _encode_signed(value, 8)


def _encode_signed(value: bytes, width_bytes: int) -> bytes | Reason:
    match = _INTEGER.fullmatch(value.strip())
    if match is None:
        return Reason.INTEGER_SYNTAX
    digits = match[2].lstrip(b"0")
    if len(digits) > _INT64_DIGITS:  # int() raises from 4,300 digits on
        return Reason.INTEGER_RANGE
    try:
        return int(match[1] + (digits or b"0")).to_bytes(width_bytes, "big", signed=True)
    except OverflowError:
        return Reason.INTEGER_RANGE


def _encode_double(value: bytes) -> bytes | Reason:
    text = value.strip()
    match = _DOUBLE.fullmatch(text)
    if match is None:
        is_word = _DOUBLE_WORD.fullmatch(text)
        return _BINARY64.pack(float(text)) if is_word else Reason.DOUBLE_SYNTAX
    number = float(text)
    underflown = number == 0 and match[1].strip(b"0.") != b""
    if math.isinf(number) or underflown:
        return Reason.DOUBLE_RANGE
    return _BINARY64.pack(number)


def _encode_timestamp(value: bytes) -> bytes | Reason:
    text = value.strip()
    microseconds = _TIMESTAMP_WORDS.get(text.lower())
    if microseconds is None:
        match = _TIMESTAMP.fullmatch(text)
        if match is None:
            return Reason.TIMESTAMP_SYNTAX
        microseconds = _microseconds_since_2000(match)
        if microseconds is None:
            return Reason.TIMESTAMP_RANGE
    return microseconds.to_bytes(8, "big", signed=True)


def _microseconds_since_2000(match: re.Match[bytes]) -> int | None:
    """None where a part is out of its range, as Feb 30 is."""
    *whole, fraction, zone_hour, zone_minute = match.groups(default=b"0")
    year, month, day, hour, minute, second = map(int, whole)
    # To the nearest even microsecond of the double, as Postgres does it.
    time = ((hour * 60 + minute) * 60 + second) * 1_000_000 + round(float(b"0." + fraction) * 1_000_000)
    # A leap second is the next minute's first; 24:00:00 is the next day's.
    if minute > 59 or second > 60 or time > _DAY_MICROSECONDS or int(zone_hour) > 15 or int(zone_minute) > 59:
        return None
    days = _days_since_2000(year, month, day)
    if days is None:
        return None
    microseconds = days * _DAY_MICROSECONDS + time
    return microseconds if microseconds < _TIMESTAMP_END else None


def _days_since_2000(year: int, month: int, day: int) -> int | None:
    """None where there is no such day. Python's dates end with 9999; the calendar repeats itself."""
    cycle, year_of_cycle = divmod(year - 1, _CALENDAR_CYCLE_YEARS)
    if cycle < 0:
        return None
    try:
        ordinal = datetime.date(year_of_cycle + 1, month, day).toordinal()
    except ValueError:
        return None
    return cycle * _CALENDAR_CYCLE_DAYS + ordinal - _EPOCH_ORDINAL


_ENCODERS: dict[Kind, Callable[[bytes], bytes | Reason]] = {
    Kind.TEXT: _encode_text,
    Kind.TIMESTAMP: _encode_timestamp,
    Kind.INTEGER: _encode_integer,
    Kind.BIGINT: _encode_bigint,
    Kind.DOUBLE: _encode_double,
}
