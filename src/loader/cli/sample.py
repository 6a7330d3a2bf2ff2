"""Trips that never were: a file of the shape of fhvhv_tripdata_2024-01.csv, of any size, for demo, tests and benchmarks.

Every row follows from the seed, its number and the number of rows, in whole numbers: the same bytes on any machine.
The shares, means and medians are those of the file of January 2024.
"""

from __future__ import annotations

import datetime
import math
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from loader.kernel.jit import kept_kernel, kernel
from loader.schema import COLUMNS

Text = npt.NDArray[np.uint8]
Draws = npt.NDArray[np.int64]

COLUMN_COUNT = 24
HOURS = 31 * 24
# About a megabyte a write. The longest row possible has less than 200 bytes.
ROWS_PER_WRITE = 4096
ROW_LIMIT_BYTES = 256
# Random numbers of 32 bits that a row has.
DRAWS = 31


def _text(characters: str) -> Text:
    return np.frombuffer(characters.encode(), np.uint8)


def _share(percent: float) -> int:
    """Return the number that a draw is below in so many of a hundred rows."""
    return round(percent / 100 * 2**32)


def _spread(sigma: float) -> int:
    """Return a log-normal's sigma, as a power of two in units of 2^-32, for each unit of `_deviation`."""
    return round(sigma / math.log(2) / (65536 * math.sqrt(6 / 12)) * 2**32)


# Uber's rows have both bases and the time on the scene, Lyft's have neither.
UBER_SHARE = _share(73.4)
UBER = _text("HV0003,B03404,B03404,")
LYFT = _text("HV0005,B03406,,")
# Time is counted in seconds from the beginning of 2023-12-31: the first trips were requested the evening before.
DAYS = _text("".join(f"{datetime.date(2023, 12, 31) + datetime.timedelta(day)} " for day in range(34)))
DAY_BYTES = 11
LATE_REQUEST_SHARE = _share(0.95)

MEDIAN_SECONDS = 912
SECONDS_SPREAD = _spread(0.627)
MAX_SECONDS = 52_060
MEDIAN_MILES_1000 = 2830
MILES_SPREAD = _spread(0.64)
MOST_MILES_1000 = 417_620

FARE_SPREAD = _spread(0.3)
REFUND_SHARE = _share(0.001)
TOLLS_SHARE = _share(12.3)
CONGESTION_SHARE = _share(39.9)
AIRPORT_SHARE = _share(7.7)
TIPS_SHARE = _share(19)
# Of shared_request, shared_match, access_a_ride, wav_request and wav_match.
FLAG_SHARES = (_share(2), _share(0.6), _share(0), _share(0.2), _share(7))

_COMMA, _POINT, _MINUS, _COLON, _NEWLINE, _ZERO, _NO, _YES = b",.-:\n0NY"
_MASK = 0xFFFF_FFFF
_POWERS_OF_TWO = np.array([round(2 ** (i / 1024) * 65536) for i in range(1024)], np.int64)


def write_sample(out: BinaryIO, rows: int, seed: int) -> None:
    """Write header and rows, about 159 bytes each, to a binary file."""
    out.write((",".join(column.header for column in COLUMNS[:COLUMN_COUNT]) + "\n").encode())
    buffer = np.empty(ROWS_PER_WRITE * ROW_LIMIT_BYTES, np.uint8)
    draws = np.empty(DRAWS, np.int64)
    for first in range(0, rows, ROWS_PER_WRITE):
        end = min(first + ROWS_PER_WRITE, rows)
        out.write(buffer[: _put_rows(buffer, draws, first, end, rows, seed & _MASK)].data)


@kept_kernel
def _put_rows(out: Text, draws: Draws, first: int, end: int, rows: int, seed: int) -> int:
    at = 0
    for row in range(first, end):
        key = _mixed(_mixed(seed ^ (row >> 32)) ^ (row & _MASK))
        for i in range(DRAWS):
            draws[i] = _mixed((key + i * 0x9E37_79B9) & _MASK)
        at += _put_row(out[at:], draws, row * HOURS // rows)
    return at


@kernel
def _put_row(out: Text, draws: Draws, hour: int) -> int:
    uber = draws[0] < UBER_SHARE
    pickup = 86_400 + hour * 3600 + (draws[1] * 3600 >> 32)
    scene = pickup - 5 - (draws[2] * 180 >> 32)
    late = draws[3] < LATE_REQUEST_SHARE
    request = pickup + 1 + (draws[4] * 900 >> 32) if late else scene - 60 - (draws[4] * 840 >> 32)
    length = _deviation(draws[5:8]) * SECONDS_SPREAD
    seconds = min(_scaled(MEDIAN_SECONDS, length), MAX_SECONDS)

    at = _put_text(out, UBER if uber else LYFT)
    at = _put_timestamp(out, at, request)
    if uber:
        at = _put_timestamp(out, at, scene)
    else:
        out[at] = _COMMA
        at += 1
    at = _put_timestamp(out, at, pickup)
    at = _put_timestamp(out, at, pickup + seconds)
    at = _put_integer(out, at, 1 + (draws[8] * 265 >> 32))
    at = _put_integer(out, at, 1 + (draws[9] * 265 >> 32))

    # Long trips are fast ones: miles grow with the power 1.3 of the time.
    miles = _scaled(MEDIAN_MILES_1000, length * 13 // 10 + _deviation(draws[10:13]) * MILES_SPREAD)
    miles = min(miles, MOST_MILES_1000)
    at = _put_decimal(out, at, miles // 10 if uber else miles, 100 if uber else 1000)
    at = _put_integer(out, at, seconds)
    at = _put_money(out, at, draws[13:26], miles, seconds)

    for flag in range(5):
        out[at] = _YES if draws[26 + flag] < FLAG_SHARES[flag] else _NO
        out[at + 1] = _COMMA
        at += 2
    out[at - 1] = _NEWLINE
    return at


@kernel
def _put_money(out: Text, at: int, draws: Draws, miles: int, seconds: int) -> int:
    """Put fare, tolls, black car fund, sales tax, congestion surcharge, airport fee, tips, driver's pay, in cents."""
    metered = 390 + miles * 19 // 100 + seconds * 88 // 100
    fare = _scaled(metered, _deviation(draws[0:3]) * FARE_SPREAD)
    tolls = 50 + (draws[4] * 1400 >> 32) if draws[3] < TOLLS_SHARE else 0
    taxed = fare + tolls
    tips = fare * (10 + (draws[6] * 16 >> 32)) // 100 if draws[5] < TIPS_SHARE else 0
    pay = fare * (605 + (draws[7] * 315 >> 32)) // 1000
    if draws[8] < REFUND_SHARE:
        out[at] = _MINUS
        at += 1
        fare %= 4309
        taxed = 0
    at = _put_decimal(out, at, fare, 100)
    at = _put_decimal(out, at, tolls, 100)
    at = _put_decimal(out, at, (taxed * 275 + 5000) // 10_000, 100)
    at = _put_decimal(out, at, (taxed * 8875 + 50_000) // 100_000, 100)
    at = _put_decimal(out, at, 275 if draws[9] < CONGESTION_SHARE else 0, 100)
    at = _put_decimal(out, at, 250 if draws[10] < AIRPORT_SHARE else 0, 100)
    at = _put_decimal(out, at, tips, 100)
    return _put_decimal(out, at, pay, 100)


@kernel
def _mixed(bits: int) -> int:
    """Permute the numbers of 32 bits. The factors have 31, so that a product fits into a machine integer."""
    bits = ((bits ^ (bits >> 16)) * 0x7FEB_352D) & _MASK
    bits = ((bits ^ (bits >> 15)) * 0x3184_8BAB) & _MASK
    return bits ^ (bits >> 16)


@kernel
def _deviation(draws: Draws) -> int:
    """Return the sum of six numbers of 16 bits less its mean: normal but for the tails, which end at 4.2 sigma."""
    total = -6 * 65535 // 2
    for draw in draws:
        total += (draw & 0xFFFF) + (draw >> 16)
    return total


@kernel
def _scaled(median: int, exponent: int) -> int:
    """Return median * 2^(exponent / 2^32)."""
    return (median * _POWERS_OF_TWO[(exponent >> 22) & 1023]) >> (16 - (exponent >> 32))


@kernel
def _put_text(out: Text, text: Text) -> int:
    for i in range(len(text)):
        out[i] = text[i]
    return len(text)


@kernel
def _put_timestamp(out: Text, at: int, seconds: int) -> int:
    day = seconds // 86_400 * DAY_BYTES
    for i in range(DAY_BYTES):
        out[at + i] = DAYS[day + i]
    at += DAY_BYTES
    for part in (seconds // 3600 % 24, seconds // 60 % 60, seconds % 60):
        out[at] = _ZERO + part // 10
        out[at + 1] = _ZERO + part % 10
        out[at + 2] = _COLON
        at += 3
    out[at - 1] = _COMMA
    return at


@kernel
def _put_integer(out: Text, at: int, value: int) -> int:
    unit = 1
    while unit * 10 <= value:
        unit *= 10
    while unit > 0:
        out[at] = _ZERO + value // unit % 10
        unit //= 10
        at += 1
    out[at] = _COMMA
    return at + 1


@kernel
def _put_decimal(out: Text, at: int, value: int, scale: int) -> int:
    """Put value / scale in its shortest form, which always has a point."""
    at = _put_integer(out, at, value // scale)
    out[at - 1] = _POINT
    rest = value % scale
    while True:
        scale //= 10
        out[at] = _ZERO + rest // scale
        rest %= scale
        at += 1
        if rest == 0:
            break
    out[at] = _COMMA
    return at + 1
