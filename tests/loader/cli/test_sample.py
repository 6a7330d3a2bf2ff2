"""The sample: what its bytes depend on, how they are spelled, and that it resembles the file of January 2024."""

from __future__ import annotations

import hashlib
import io
import re
import statistics

import pytest

from loader.cli.sample import COLUMN_COUNT, ROWS_PER_WRITE, write_sample
from loader.schema import COLUMNS, Kind

ROWS = 20_000
TIME = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
DECIMAL = r"(-?\d+\.\d{1,3})"
ROW = re.compile(
    rf"(?:HV0003,B03404,B03404,{TIME},{TIME}|HV0005,B03406,,{TIME},),{TIME},{TIME},"
    rf"\d{{1,3}},\d{{1,3}},{DECIMAL},\d+," + f"{DECIMAL}," * 8 + "[NY],[NY],N,[NY],[NY]"
)


def sample(rows: int, seed: int) -> str:
    out = io.BytesIO()
    write_sample(out, rows, seed)
    return out.getvalue().decode("ascii")


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    return [line.split(",") for line in sample(ROWS, seed=1).splitlines()[1:]]


def column(rows: list[list[str]], name: str) -> list[str]:
    index = [column.name for column in COLUMNS].index(name)
    return [row[index] for row in rows]


def test_a_row_is_the_same_on_every_machine() -> None:
    assert sample(3, seed=1).splitlines()[3] == (
        "HV0003,B03404,B03404,2024-01-21 16:28:59,2024-01-21 16:38:45,2024-01-21 16:41:32,2024-01-21 16:51:30,"
        "195,44,1.53,598,14.65,0.0,0.4,1.3,0.0,0.0,0.0,10.95,N,N,N,N,Y"
    )


def test_no_version_of_the_generator_changes_the_rows_of_a_seed() -> None:
    text = sample(12_000, seed=7)
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "bd51155312a795f961af94c8b0c1e1aecd515e45d6c932a1f6d6e7beb10fbc6d"
    )


def test_another_seed_gives_other_rows() -> None:
    assert sample(1, seed=1) != sample(1, seed=2)


def test_a_file_without_rows_has_a_header() -> None:
    assert sample(0, seed=1) == ",".join(column.header for column in COLUMNS[:COLUMN_COUNT]) + "\n"


@pytest.mark.parametrize("count", [1, ROWS_PER_WRITE, ROWS_PER_WRITE + 1])
def test_the_file_has_the_requested_number_of_rows(count: int) -> None:
    assert sample(count, seed=3).count("\n") == count + 1


def test_rows_are_spelled_as_in_the_file(rows: list[list[str]]) -> None:
    for row in rows:
        assert ROW.fullmatch(",".join(row)), row
        decimals = [field for field, of in zip(row, COLUMNS, strict=False) if of.kind is Kind.DOUBLE]
        assert decimals == [repr(float(field)) for field in decimals]


def test_rows_are_as_long_as_in_the_file(rows: list[list[str]]) -> None:
    for company, bytes_a_row in [("HV0003", 165), ("HV0005", 141)]:
        lengths = [len(",".join(row)) + 1 for row in rows if row[0] == company]
        assert statistics.fmean(lengths) == pytest.approx(bytes_a_row, rel=0.01)


def test_rows_are_clustered_by_pickup_hour_and_not_sorted_within_it(rows: list[list[str]]) -> None:
    pickups = column(rows, "pickup_datetime")
    hours = [pickup[:13] for pickup in pickups]
    assert hours == sorted(hours)
    assert (hours[0], hours[-1]) == ("2024-01-01 00", "2024-01-31 23")
    assert pickups != sorted(pickups)


def test_companies_and_late_requests_have_their_shares(rows: list[list[str]]) -> None:
    assert column(rows, "hvfhs_license_num").count("HV0003") / ROWS == pytest.approx(0.734, abs=0.015)
    times = zip(column(rows, "request_datetime"), column(rows, "pickup_datetime"), strict=True)
    assert sum(request > pickup for request, pickup in times) / ROWS == pytest.approx(0.0095, abs=0.003)


@pytest.mark.parametrize(
    ("name", "mean", "median"),
    [
        ("trip_miles", 4.84, 2.83),
        ("trip_time", 1110, 912),
        ("base_passenger_fare", 23.96, 18.0),
        ("driver_pay", 18.27, 13.57),
    ],
)
def test_means_and_medians_are_those_of_the_file(
    rows: list[list[str]], name: str, mean: float, median: float
) -> None:
    values = [float(field) for field in column(rows, name)]
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.05)
    assert statistics.median(values) == pytest.approx(median, rel=0.05)


@pytest.mark.parametrize(
    ("name", "share"),
    [("tolls", 0.877), ("congestion_surcharge", 0.601), ("airport_fee", 0.923), ("tips", 0.81)],
)
def test_nothing_is_charged_as_often_as_in_the_file(rows: list[list[str]], name: str, share: float) -> None:
    assert column(rows, name).count("0.0") / ROWS == pytest.approx(share, abs=0.015)


def test_fund_and_tax_follow_from_fare_and_tolls(rows: list[list[str]]) -> None:
    names = ("base_passenger_fare", "tolls", "bcf", "sales_tax")
    for fare, tolls, fund, tax in zip(*(map(float, column(rows, name)) for name in names), strict=True):
        charged = fare + tolls if fare > 0 else 0.0  # else it is a refund
        assert fund == pytest.approx(charged * 0.0275, abs=0.0051)
        assert tax == pytest.approx(charged * 0.08875, abs=0.0051)
