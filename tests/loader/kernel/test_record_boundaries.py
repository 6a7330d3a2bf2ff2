"""Where records end: the kernel's counts and cuts against those of a plain reader, for few and many bytes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.kernel.load import load_kernel
from tests.support.encoding import records_of

PIECES = [b"\n", b'"', b",", b"a", b"\xff", b"\x00", b"\x80", b"\x0b", b"\x23", b"12345678"]


def assert_cut_as_read(data: bytes) -> None:
    """Assert that the cut is behind the last newline with an even number of quotes before it."""
    records = [
        record for record in records_of(data) if record.endswith(b"\n") and record.count(b'"') % 2 == 0
    ]
    whole = b"".join(records)
    found = load_kernel().find_cut(memoryview(bytearray(data)))
    assert found == (len(whole), whole.count(b"\n"), len(records))


@given(data=st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_the_cut_is_behind_the_last_newline_outside_quotes(data: bytes) -> None:
    assert_cut_as_read(data)


@pytest.mark.parametrize("length", [2039, 2040, 2041, 4080, 6125])
@pytest.mark.parametrize("filling", PIECES)
def test_more_bytes_than_are_counted_at_once_are_all_counted(length: int, filling: bytes) -> None:
    chance = random.Random(length)
    data = bytearray((filling * length)[:length])
    assert_cut_as_read(bytes(data))
    for _ in range(9):
        data[chance.randrange(length)] = chance.choice(b'\n"')
        assert_cut_as_read(bytes(data))


@given(data=st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_a_record_ends_where_the_next_one_starts(data: bytes) -> None:
    kernel, memory = load_kernel(), memoryview(bytearray(data))
    position = 0
    for record in records_of(data):
        end = kernel.record_end(memory, position, len(data))
        assert data[position:end] == record
        position = end
