r"""What a field means: its bytes to the binary value of its column's kind, or to the reason why it has none.

A field is read as PostgreSQL 18's input functions read it (https://www.postgresql.org/docs/18/datatype.html): white space
around it is skipped, values are rounded and bounded in the same way. Rejected, though Postgres accepts them, are

- integers in hexadecimal, octal or binary (`0x1F`), and with underscores (`1_000`)
- doubles in hexadecimal (`0x1p3`), and NaN with a payload (`nan(1)`)
- timestamps in any other spelling than `YYYY-MM-DD[ HH:MM[:SS[.fraction]][zone]]` and `[+-]infinity`, where the year
  has 4 to 6 digits, the others 1 or 2 and the fraction at most 100; `T` may replace the white space before the time; the
  zone is `Z`, `UTC`, `+HH`, `+HHMM` or `+HH:MM`, with or without white space before it. `now`, `BC`, `1/5/2024` and
  `20240105` are rejected. A zone is ignored, as Postgres does for a timestamp without time zone.
"""

from __future__ import annotations

import datetime
import math
import re
import struct

from loader.rejects import Reason
from loader.schema import Kind

_INTEGER = re.compile(rb"([+-]?)([0-9]+)")
_INT64_DIGITS = 19

_DOUBLE = re.compile(rb"[+-]?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_DOUBLE_WORD = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_BINARY64 = struct.Struct(">d")

# Postgres rejects timestamps whose parts take more than 153 bytes. Those that match here take at most 131.
_TIMESTAMP = re.compile(
    rb"""([0-9]{4,6})-([0-9]{1,2})-([0-9]{1,2})
    (?:
        (?:\s+|T) ([0-9]{1,2}):([0-9]{1,2}) (?: :([0-9]{1,2}) (?:\.([0-9]{0,100}))? )?
        (?: \s* (?P<zone> Z|UTC|[+-]([0-9]{2})(?: :?([0-9]{2}) )?) )?
    )?""",
    re.IGNORECASE | re.VERBOSE,
)
_TIMESTAMP_WORDS = {b"infinity": (1 << 63) - 1, b"+infinity": (1 << 63) - 1, b"-infinity": -(1 << 63)}
_EPOCH_ORDINAL = datetime.date(2000, 1, 1).toordinal()
_CALENDAR_CYCLE_YEARS, _CALENDAR_CYCLE_DAYS = 400, 146_097
_DAY_MICROSECONDS = 86_400_000_000
# Postgres' END_TIMESTAMP, 294277-01-01 00:00:00, in microseconds since 2000-01-01: the first that it can't hold.
_TIMESTAMP_END = 9_223_371_331_200_000_000


def encode_field(kind: Kind, value: bytes) -> bytes | Reason:
    """Return the binary value of a field that is not null, in the format of Postgres' typsend functions: big-endian.

    `value` is without quotes, valid UTF-8 and without NUL bytes. It is empty only if the field was quoted.
    """
    if not value and kind is not Kind.TEXT:
        return Reason.QUOTED_EMPTY
    match kind:
        case Kind.TEXT:
            return value
        case Kind.TIMESTAMP:
            return _encode_timestamp(value)
        case Kind.INTEGER:
            return _encode_signed(value, 4, Reason.INTEGER_RANGE)
        case Kind.BIGINT:
            return _encode_signed(value, 8, Reason.BIGINT_RANGE)
        case Kind.DOUBLE:
            return _encode_double(value)


def has_zone(value: bytes) -> bool:
    """Whether a timestamp, as `encode_field` takes it, has a zone, which is ignored."""
    match = _TIMESTAMP.fullmatch(value.strip())
    return match is not None and match["zone"] is not None


def _encode_signed(value: bytes, width_bytes: int, beyond: Reason) -> bytes | Reason:
    match = _INTEGER.fullmatch(value.strip())
    if match is None:
        return Reason.INTEGER_SYNTAX
    digits = match[2].lstrip(b"0")
    if len(digits) > _INT64_DIGITS:  # int() raises from 4,300 digits on
        return beyond
    try:
        return int(match[1] + (digits or b"0")).to_bytes(width_bytes, "big", signed=True)
    except OverflowError:
        return beyond


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
            return Reason.TIMESTAMP_VALUE
        if microseconds >= _TIMESTAMP_END:
            return Reason.TIMESTAMP_RANGE
    return microseconds.to_bytes(8, "big", signed=True)


def _microseconds_since_2000(match: re.Match[bytes]) -> int | None:
    """Return None where a part is out of its range, as Feb 30 is."""
    *whole, fraction, _zone, zone_hour, zone_minute = match.groups(default=b"0")
    year, month, day, hour, minute, second = map(int, whole)
    # The fraction is a double and is rounded half to even, as Postgres does it.
    time = ((hour * 60 + minute) * 60 + second) * 1_000_000 + round(float(b"0." + fraction) * 1_000_000)
    # A leap second is the next minute's first; 24:00:00 is the next day's.
    if minute > 59 or second > 60 or time > _DAY_MICROSECONDS or int(zone_hour) > 15 or int(zone_minute) > 59:
        return None
    days = _days_since_2000(year, month, day)
    if days is None:
        return None
    return days * _DAY_MICROSECONDS + time


def _days_since_2000(year: int, month: int, day: int) -> int | None:
    """Return None where there is no such day. Python's dates end with 9999, so the calendar's cycles are counted apart."""
    cycle, year_of_cycle = divmod(year - 1, _CALENDAR_CYCLE_YEARS)
    if cycle < 0:
        return None
    try:
        ordinal = datetime.date(year_of_cycle + 1, month, day).toordinal()
    except ValueError:
        return None
    return cycle * _CALENDAR_CYCLE_DAYS + ordinal - _EPOCH_ORDINAL
