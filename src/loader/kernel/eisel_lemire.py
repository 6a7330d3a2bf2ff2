"""Decimal to binary64, exactly rounded: Clinger's fast path, then the algorithm of Eisel and Lemire.

Sources: W. D. Clinger, "How to read floating point numbers accurately" (1990); D. Lemire, "Number parsing at a gigabyte per
second" (2021), https://arxiv.org/abs/2101.11408; N. Mushtak and D. Lemire, "Fast number parsing without fallback" (2023),
https://arxiv.org/abs/2212.06644, which proves that for 64-bit mantissas the first two words of the power always decide.
"""

from __future__ import annotations

import numpy as np

from loader.kernel.intrinsics import UInt64, bits_of, high_product, leading_zeros, signed
from loader.kernel.jit import kernel

# Returned for values that this module does not round: subnormal, too small or too large ones. No number is this NaN.
NO_DOUBLE = ~UInt64(0)

# A double holds integers up to 2**53 and powers of ten up to 10**22 exactly. Their product or quotient is rounded once.
_EXACT_MANTISSA = UInt64(1 << 53)
_EXACT_EXPONENT = 22
_EXACT_POWERS = 10.0 ** np.arange(_EXACT_EXPONENT + 1)

# With other powers of ten, no mantissa of up to 19 digits is a normal double.
_SMALLEST_EXPONENT = -342
_LARGEST_EXPONENT = 308


def _power_of_five(exponent: int) -> int:
    """Return the 128 most significant bits of 5**exponent; as in the paper, reciprocals down to -27 are rounded up."""
    if exponent >= 0:
        power = 5**exponent
        return (power << 128) >> power.bit_length()
    power = 5**-exponent
    return (1 << (power.bit_length() + 127)) // power + (exponent >= -27)


_POWERS = [_power_of_five(exponent) for exponent in range(_SMALLEST_EXPONENT, _LARGEST_EXPONENT + 1)]
_HIGH_POWERS = np.array([power >> 64 for power in _POWERS], np.uint64)
_LOW_POWERS = np.array([power & (1 << 64) - 1 for power in _POWERS], np.uint64)

# binary64: 52 bits of significand below the hidden one, and an exponent with this bias, whose largest value is infinity.
_SIGNIFICAND_BITS = 52
_BIAS = 1023
_INFINITY = UInt64(0x7FF << _SIGNIFICAND_BITS)
# The bits of a product below the significand, the rounding bit and the bit that normalisation may shift out.
_BITS_BELOW = UInt64((1 << 64) - 1) >> _SIGNIFICAND_BITS + 3


@kernel
def double_bits(mantissa: UInt64, exponent: int) -> UInt64:
    """Return the binary64 nearest to mantissa * 10**exponent, or NO_DOUBLE."""
    if mantissa <= _EXACT_MANTISSA and -_EXACT_EXPONENT <= exponent <= _EXACT_EXPONENT:
        if exponent < 0:
            return bits_of(float(mantissa) / _EXACT_POWERS[-exponent])
        return bits_of(float(mantissa) * _EXACT_POWERS[exponent])
    if mantissa == UInt64(0):
        return UInt64(0)
    if exponent < _SMALLEST_EXPONENT or exponent > _LARGEST_EXPONENT:
        return NO_DOUBLE
    return _eisel_lemire(mantissa, exponent)


@kernel
def _eisel_lemire(mantissa: UInt64, exponent: int) -> UInt64:
    zeros = leading_zeros(mantissa)
    high, low = _product(mantissa << zeros, exponent - _SMALLEST_EXPONENT)
    top = signed(high >> 63)
    shift = top + 64 - _SIGNIFICAND_BITS - 3
    significand = high >> shift
    # floor(log2(5**exponent)) + exponent, by multiplication with log2(10) in 16 bits
    binary_exponent = ((217_706 * exponent) >> 16) + 63 + top - zeros + _BIAS
    if binary_exponent <= 0:
        return NO_DOUBLE
    halfway = low <= UInt64(1) and -4 <= exponent <= 23 and significand << shift == high
    if halfway and significand & UInt64(3) == UInt64(1):
        significand -= UInt64(1)  # to the even neighbour, which is the lower one
    significand = (significand + UInt64(1)) >> 1
    # The hidden bit adds 1 to the exponent, and so does a significand that is rounded up to 2**53.
    bits = (UInt64(binary_exponent - 1) << _SIGNIFICAND_BITS) + significand
    return bits if bits < _INFINITY else NO_DOUBLE


@kernel
def _product(mantissa: UInt64, index: int) -> tuple[UInt64, UInt64]:
    """Return the high and the low 64 bits of a mantissa's product with a power, as exact as the significand needs."""
    power = UInt64(_HIGH_POWERS[index])
    high, low = high_product(mantissa, power), mantissa * power
    if high & _BITS_BELOW == _BITS_BELOW:
        rest = high_product(mantissa, UInt64(_LOW_POWERS[index]))
        low += rest
        if low < rest:
            high += UInt64(1)
    return high, low
