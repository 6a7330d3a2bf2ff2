"""Generated trips: a file of the shape of fhvhv_tripdata_2024-01.csv, of any size, for demo, tests and benchmarks.

Each row follows from the seed, its number and the number of rows by integer arithmetic: the bytes are the same on every
machine. Shares, means and medians are those of the file of January 2024.

A block of rows is a matrix of 64-bit words. Each word is up to eight characters of a field, padded with NUL, from a table;
the text is the matrix without its NULs.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS

Integers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint32]
Words = npt.NDArray[np.uint64]

COLUMN_COUNT = LAYOUT_COLUMN_COUNTS[0]
HOURS = 31 * 24
# About a megabyte of words: more takes no less time a row.
ROWS_PER_WRITE = 4096
RANDOM_NUMBERS_PER_ROW = 31


def _share(percent: float) -> int:
    """Return the limit that the random numbers of `percent` of all rows are below."""
    return round(percent / 100 * 2**32)


def _spread(sigma: float) -> int:
    """Return a log-normal's sigma, as a power of two in units of 2^-32, for each unit of `_deviation`."""
    return round(sigma / math.log(2) / (65536 * math.sqrt(6 / 12)) * 2**32)


UBER_SHARE = _share(73.4)
LATE_REQUEST_SHARE = _share(0.95)

MEDIAN_SECONDS = 912
SECONDS_SPREAD = _spread(0.627)
MAX_SECONDS = 52_060
MEDIAN_MILES_1000 = 2830
MILES_SPREAD = _spread(0.64)
MAX_MILES_1000 = 417_620

FARE_SPREAD = _spread(0.3)
REFUND_SHARE = _share(0.001)
TOLLS_SHARE = _share(12.3)
CONGESTION_SHARE = _share(39.9)
AIRPORT_SHARE = _share(7.7)
TIPS_SHARE = _share(19)
# Of shared_request, shared_match, access_a_ride, wav_request and wav_match.
FLAG_SHARES = (_share(2), _share(0.6), _share(0), _share(0.2), _share(7))

_POWERS_OF_TWO = np.array([round(2 ** (i / 1024) * 65536) for i in range(1024)], np.int64)


def _word_table(texts: Iterable[str], word_count: int) -> list[Words]:
    """Return the first, the second … word of each text."""
    table = np.array([text.encode() for text in texts], f"S{8 * word_count}")
    return list(table.view(np.uint64).reshape(-1, word_count).T.copy())


# Rows of Uber have both bases and the time on the scene, rows of Lyft have neither.
_LYFT_AND_UBER = _word_table(["HV0005,B03406,,", "HV0003,B03404,B03404,"], 3)
# Seconds are counted from here: the first trips were requested the evening before January.
_FIRST_HOUR = datetime.datetime(2023, 12, 31)
_HOURS = _word_table(
    (f"{_FIRST_HOUR + datetime.timedelta(hours=hour):%Y-%m-%d %H:}" for hour in range(34 * 24)), 2
)
(_SECONDS,) = _word_table((f"{second // 60:02}:{second % 60:02}," for second in range(3600)), 1)
# No number is larger than the longest trip has seconds.
(_INTEGERS,) = _word_table((f"{number}," for number in range(MAX_SECONDS + 1)), 1)
(_WHOLE_PARTS,) = _word_table((f"{number}" for number in range(MAX_SECONDS + 1)), 1)
(_THOUSANDTHS,) = _word_table((f".{number:03}".rstrip("0") + "," for number in range(1000)), 1)
_THOUSANDTHS[0] = int.from_bytes(b".0,", "little")
_COMMA, _MINUS = (np.uint64(ord(character)) for character in ",-")
_FLAGS = _word_table(
    (",".join("NY"[flags >> index & 1] for index in range(5)) + "\n" for flags in range(32)), 2
)


def write_sample(out: BinaryIO, rows: int, seed: int) -> None:
    """Write header and rows, about 159 bytes each, to a binary file."""
    out.write((",".join(column.header for column in COLUMNS[:COLUMN_COUNT]) + "\n").encode())
    for first in range(0, rows, ROWS_PER_WRITE):
        numbers = np.arange(first, min(first + ROWS_PER_WRITE, rows))
        words = _rows(_random_numbers(numbers, seed), numbers * HOURS // rows)
        out.write(np.array(words).T.tobytes().translate(None, b"\0"))


def _random_numbers(row_numbers: Integers, seed: int) -> Integers:
    """Return RANDOM_NUMBERS_PER_ROW arrays of 32-bit numbers."""
    seeds = np.uint32(seed & 0xFFFF_FFFF) ^ (row_numbers >> 32).astype(np.uint32)
    keys = _mixed(_mixed(seeds) ^ row_numbers.astype(np.uint32))
    steps = np.arange(RANDOM_NUMBERS_PER_ROW, dtype=np.uint32) * np.uint32(0x9E37_79B9)
    return _mixed(keys + steps[:, np.newaxis]).astype(np.int64)


def _mixed(bits: Bits) -> Bits:
    """Permute the numbers of 32 bits."""
    bits = (bits ^ bits >> np.uint32(16)) * np.uint32(0x7FEB_352D)
    bits = (bits ^ bits >> np.uint32(15)) * np.uint32(0x3184_8BAB)
    return bits ^ bits >> np.uint32(16)


def _rows(random: Integers, hour: Integers) -> list[Words]:
    """Return the words of rows, column by column; `hour` is that of the pickup."""
    is_uber = random[0] < UBER_SHARE
    pickup = 86_400 + hour * 3600 + (random[1] * 3600 >> 32)
    scene = pickup - 5 - (random[2] * 180 >> 32)
    usual_request = scene - 60 - (random[4] * 840 >> 32)
    late_request = pickup + 1 + (random[4] * 900 >> 32)
    request = cast("Integers", np.where(random[3] < LATE_REQUEST_SHARE, late_request, usual_request))
    length = _deviation(random[5:8]) * SECONDS_SPREAD
    seconds = np.minimum(_scaled(MEDIAN_SECONDS, length), MAX_SECONDS)
    # Long trips are fast ones: miles grow with the power 1.3 of the time.
    miles_1000 = _scaled(MEDIAN_MILES_1000, length * 13 // 10 + _deviation(random[10:13]) * MILES_SPREAD)
    miles_1000 = np.minimum(miles_1000, MAX_MILES_1000)

    company = is_uber.astype(np.intp)
    scene_words = zip(_timestamp(scene), (_COMMA, 0, 0), strict=True)
    flags = sum((random[26 + index] < share) << index for index, share in enumerate(FLAG_SHARES))
    return [
        *(word[company] for word in _LYFT_AND_UBER),
        *_timestamp(request),
        *(np.where(is_uber, word, missing) for word, missing in scene_words),
        *_timestamp(pickup),
        *_timestamp(pickup + seconds),
        _INTEGERS[1 + (random[8] * 265 >> 32)],
        _INTEGERS[1 + (random[9] * 265 >> 32)],
        *_decimal(np.where(is_uber, miles_1000 // 10 * 10, miles_1000)),
        _INTEGERS[seconds],
        *_money(random[13:26], miles_1000, seconds),
        *(word[flags] for word in _FLAGS),
    ]


def _money(random: Integers, miles_1000: Integers, seconds: Integers) -> list[Words]:
    """Return fare, tolls, black car fund, sales tax, congestion surcharge, airport fee, tips and driver's pay."""
    metered = 390 + miles_1000 * 19 // 100 + seconds * 88 // 100
    fare = _scaled(metered, _deviation(random[0:3]) * FARE_SPREAD)
    tolls = np.where(random[3] < TOLLS_SHARE, 50 + (random[4] * 1400 >> 32), 0)
    is_refund = random[8] < REFUND_SHARE
    taxed = np.where(is_refund, 0, fare + tolls)
    cents = [
        np.where(is_refund, fare % 4309, fare),
        tolls,
        (taxed * 275 + 5000) // 10_000,
        (taxed * 8875 + 50_000) // 100_000,
        np.where(random[9] < CONGESTION_SHARE, 275, 0),
        np.where(random[10] < AIRPORT_SHARE, 250, 0),
        np.where(random[5] < TIPS_SHARE, fare * (10 + (random[6] * 16 >> 32)) // 100, 0),
        fare * (605 + (random[7] * 315 >> 32)) // 1000,
    ]
    return [np.where(is_refund, _MINUS, 0), *(word for amount in cents for word in _decimal(amount * 10))]


def _deviation(random: Integers) -> Integers:
    """Return the sum of six numbers of 16 bits less its mean: normal but for the tails, which end at 4.2 sigma."""
    return ((random & 0xFFFF) + (random >> 16)).sum(axis=0) - 6 * 65535 // 2


def _scaled(median: int | Integers, exponent: Integers) -> Integers:
    """Return median * 2^(exponent / 2^32)."""
    return (median * _POWERS_OF_TWO[(exponent >> 22) & 1023]) >> (16 - (exponent >> 32))


def _timestamp(seconds: Integers) -> list[Words]:
    """Return the words of a timestamp, counted from _FIRST_HOUR."""
    hours = seconds // 3600
    return [*(word[hours] for word in _HOURS), _SECONDS[seconds - hours * 3600]]


def _decimal(thousandths: Integers) -> list[Words]:
    """Return the words of a number in its shortest form, which always has a digit behind the point."""
    whole = thousandths // 1000
    return [_WHOLE_PARTS[whole], _THOUSANDTHS[thousandths - whole * 1000]]
