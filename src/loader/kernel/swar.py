"""Operations on the eight bytes of a word at once (SWAR: "SIMD within a register").

Flags are a word with 0x80 in each byte that is flagged and 0 in the others.
"""

from __future__ import annotations

from loader.kernel.intrinsics import UInt64, signed, trailing_zeros
from loader.kernel.jit import kernel


def word_of(characters: bytes) -> UInt64:
    """Return eight bytes of memory as a word."""
    return UInt64(int.from_bytes(characters, "little"))


def limits_of(limits: bytes) -> UInt64:
    """Return eight limits, each at most 0x7F, as `bytes_above` takes them."""
    return word_of(bytes(0x7F - limit for limit in limits))


ZEROS = word_of(b"0" * 8)
_DIGIT_LIMITS = limits_of(b"\x09" * 8)
_ABOVE_ZERO = limits_of(b"\x00" * 8)
_ONES = word_of(b"\x01" * 8)
_EVEN_ONES = word_of(b"\x01\x00" * 4)
_FLAGS = word_of(b"\x80" * 8)
_LOW_BITS = ~_FLAGS
_SPACES = word_of(b" " * 8)
_QUOTES = word_of(b'"' * 8)
_EVEN_BYTES = word_of(b"\xff\x00" * 4)
_EVEN_PAIRS = word_of(b"\xff\xff\x00\x00" * 2)
_LOW_HALF = word_of(b"\xff\xff\xff\xff\x00\x00\x00\x00")


@kernel
def first_flag(flags: UInt64) -> int:
    """Return the index of the first flagged byte, 8 if there is none."""
    return trailing_zeros(flags) >> 3


@kernel
def byte_of(word: UInt64, index: int) -> int:
    """Return one byte of a word."""
    return signed((word >> (8 * index)) & UInt64(0xFF))


@kernel
def low_bytes(word: UInt64, count: int) -> UInt64:
    """Return the first `count` bytes of a word, at most 7, and zeros behind them."""
    return word & ((UInt64(1) << (8 * count)) - UInt64(1))


@kernel
def bytes_above(word: UInt64, limits: UInt64) -> UInt64:
    """Flag the bytes that are greater than their limits."""
    return (((word & _LOW_BITS) + limits) | word) & _FLAGS


@kernel
def other_bytes(word: UInt64, repeated: UInt64) -> UInt64:
    """Return 1 in each byte that differs from `repeated`, a word of eight equal bytes, and 0 in the others."""
    return bytes_above(word ^ repeated, _ABOVE_ZERO) >> 7


@kernel
def byte_sum(word: UInt64) -> int:
    """Return the sum of a word's bytes."""
    pairs = (word & _EVEN_BYTES) + ((word >> 8) & _EVEN_BYTES)
    return signed((pairs * _EVEN_ONES) >> 48)


@kernel
def nondigits(digits: UInt64) -> UInt64:
    """Flag the bytes that are not digits, in a word ^ ZEROS."""
    return bytes_above(digits, _DIGIT_LIMITS)


@kernel
def text_ends(word: UInt64, separators: UInt64) -> UInt64:
    """Flag where plain ASCII text ends: at a control, a quote, a separator, or a byte that is not ASCII.

    Only the first flag is reliable: x - 1 borrows from the bytes behind a 0, so these may be flagged, too.
    """
    quotes, ends = word ^ _QUOTES, word ^ separators
    controls = (word - _SPACES) & ~word
    return (word | controls | ((quotes - _ONES) & ~quotes) | ((ends - _ONES) & ~ends)) & _FLAGS


@kernel
def digit_pairs(digits: UInt64) -> UInt64:
    """Return a word each of whose bytes is the number of two digits, that byte and the next; the digits are 0 to 9."""
    return digits * UInt64(10) + (digits >> 8)


@kernel
def eight_digits(digits: UInt64) -> UInt64:
    """Return the number of eight digits, each 0 to 9, the most significant in the first byte."""
    pairs = digit_pairs(digits) & _EVEN_BYTES
    fours = (pairs * UInt64(100) + (pairs >> 16)) & _EVEN_PAIRS
    return (fours * UInt64(10_000) + (fours >> 32)) & _LOW_HALF
