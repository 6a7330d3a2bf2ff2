"""Operations on eight bytes at once, each against the same operation byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loader.kernel.intrinsics import UInt64
from loader.kernel.swar import (
    ZEROS,
    byte_of,
    bytes_above,
    eight_digits,
    first_flag,
    limits_of,
    low_bytes,
    nondigits,
    text_ends,
    word_of,
)

eight_bytes = st.binary(min_size=8, max_size=8) | st.lists(
    st.sampled_from(b'09:/,"\n\r\0\x1f \x7f\x80\xffY'), min_size=8, max_size=8
).map(bytes)
COMMAS = word_of(b"," * 8)


def first(flagged: list[bool]) -> int:
    return [*flagged, True].index(True)


@given(eight_bytes)
def test_plain_text_ends_at_the_first_control_separator_or_byte_that_is_not_ascii(
    characters: bytes,
) -> None:
    ends = [byte < 0x20 or byte > 0x7F or byte in b'",' for byte in characters]

    assert first_flag(UInt64(text_ends(word_of(characters), COMMAS))) == first(ends)


@given(eight_bytes)
def test_every_byte_that_is_no_digit_is_flagged(characters: bytes) -> None:
    flags = nondigits(word_of(characters) ^ ZEROS)

    assert int(flags) == int(word_of(bytes(0 if byte in b"0123456789" else 0x80 for byte in characters)))


@given(
    eight_bytes, st.binary(min_size=8, max_size=8).map(lambda limits: bytes(byte & 0x7F for byte in limits))
)
def test_every_byte_above_its_limit_is_flagged(characters: bytes, limits: bytes) -> None:
    flags = bytes_above(word_of(characters), limits_of(limits))

    above = [byte > limit for byte, limit in zip(characters, limits, strict=True)]
    assert int(flags) == int(word_of(bytes(0x80 * flag for flag in above)))


@given(st.integers(0, 99_999_999))
def test_eight_digits_are_a_number(number: int) -> None:
    assert eight_digits(word_of(f"{number:08}".encode()) ^ ZEROS) == number


@given(eight_bytes, st.integers(0, 7))
def test_the_first_byte_of_memory_is_the_first_of_a_word(characters: bytes, index: int) -> None:
    word = word_of(characters)

    assert byte_of(word, index) == characters[index]
    assert int(low_bytes(word, index)) == int(word_of(characters[:index]))
