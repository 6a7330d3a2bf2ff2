"""Compiled: decimal numerals to int32, int64 and binary64.

Up to seven characters are read as one word. Longer numbers and those with a sign or an exponent are read byte by byte.
"""

from __future__ import annotations

from loader.kernel.constants import DECLINED
from loader.kernel.eisel_lemire import NO_DOUBLE, double_bits
from loader.kernel.intrinsics import Bytes, UInt64, byte_at, put_int32, put_int64, signed, word_at
from loader.kernel.jit import inlined, kernel
from loader.kernel.swar import ZEROS, eight_digits, first_flag, low_bytes, nondigits

_PLUS, _MINUS, _POINT, _ZERO, _E = b"+-.0e"
_CASE_BIT = 0x20
_SIGN = UInt64(1 << 63)
# A word that holds a number below this has room for one more digit. Larger numbers become _TOO_LARGE.
_ONE_DIGIT_LEFT = UInt64(10**18)
_TOO_LARGE = ~UInt64(0)
_LARGEST_EXPONENT = UInt64(9999)


@inlined
def encode_integer(source: Bytes, position: int, target: Bytes, written: int, size: int) -> int:
    """Write length and value, 4 + `size` bytes of 4 or 8; return the position behind the digits."""
    digits = word_at(source, position) ^ ZEROS
    count = first_flag(nondigits(digits))
    if count < 1 or count > 7:
        return _encode_long_integer(source, position, target, written, size)
    _put_integer(target, written, eight_digits(digits << (8 * (8 - count))), size)
    return position + count


@kernel
def _encode_long_integer(source: Bytes, position: int, target: Bytes, written: int, size: int) -> int:
    sign = byte_at(source, position)
    start = position + (sign in (_MINUS, _PLUS))
    position, value = _append_digits(source, start, UInt64(0))
    if position == start or value >> (8 * size - 1) != UInt64(0):
        return DECLINED
    _put_integer(target, written, UInt64(0) - value if sign == _MINUS else value, size)
    return position


@inlined
def _put_integer(target: Bytes, written: int, value: UInt64, size: int) -> None:
    put_int32(target, written, UInt64(size))
    if size == 4:
        put_int32(target, written + 4, value)
    else:
        put_int64(target, written + 4, value)


@inlined
def encode_double(source: Bytes, position: int, target: Bytes, written: int) -> int:
    """Write length and value, 12 bytes; return the position behind the number."""
    digits = word_at(source, position) ^ ZEROS
    flags = nondigits(digits)
    whole = end = first_flag(flags)
    count = whole
    if whole < 8 and byte_at(source, position + whole) == _POINT:
        end = first_flag(flags & (flags - UInt64(1)))
        count = end - 1
        digits = low_bytes(digits, whole) | ((digits >> 8) & ~low_bytes(~UInt64(0), whole))
    if end > 7 or count < 1 or byte_at(source, position + end) | _CASE_BIT == _E:
        return _encode_long_double(source, position, target, written)
    bits = double_bits(eight_digits(digits << (8 * (8 - count))), whole - count)
    put_int32(target, written, UInt64(8))
    put_int64(target, written + 4, bits)
    return position + end


@kernel
def _encode_long_double(source: Bytes, position: int, target: Bytes, written: int) -> int:
    sign = byte_at(source, position)
    start = position + (sign in (_MINUS, _PLUS))
    position, mantissa = _append_digits(source, start, UInt64(0))
    count, exponent = position - start, 0
    if byte_at(source, position) == _POINT:
        start = position + 1
        position, mantissa = _append_digits(source, start, mantissa)
        count, exponent = count + position - start, start - position
    if count < 1 or mantissa == _TOO_LARGE:
        return DECLINED
    if byte_at(source, position) | _CASE_BIT == _E:
        exponent_sign = byte_at(source, position + 1)
        start = position + 1 + (exponent_sign in (_MINUS, _PLUS))
        position, shift = _append_digits(source, start, UInt64(0))
        if position == start or shift > _LARGEST_EXPONENT:
            return DECLINED
        exponent += -signed(shift) if exponent_sign == _MINUS else signed(shift)
    bits = double_bits(mantissa, exponent)
    if bits == NO_DOUBLE:
        return DECLINED
    put_int32(target, written, UInt64(8))
    put_int64(target, written + 4, bits | (_SIGN if sign == _MINUS else UInt64(0)))
    return position


@kernel
def _append_digits(source: Bytes, position: int, value: UInt64) -> tuple[int, UInt64]:
    """Return the position behind the digits, and `value` with the digits appended."""
    digit = byte_at(source, position) - _ZERO
    while 0 <= digit <= 9:
        value = value * UInt64(10) + UInt64(digit) if value < _ONE_DIGIT_LEFT else _TOO_LARGE
        position += 1
        digit = byte_at(source, position) - _ZERO
    return position, value
