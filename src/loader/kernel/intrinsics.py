"""Machine instructions that Numba lacks: the 64-bit word, its loads and stores at any address, and bit counts.

Each is a Python function, which runs with NUMBA_DISABLE_JIT=1. Below them are the LLVM instructions that replace them in
compiled code.

The first byte of memory is a word's lowest, as in x86-64 and AArch64.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # pyright: ignore[reportMissingTypeStubs] - there are none
from numba import types
from numba.extending import (
    lower_builtin,  # pyright: ignore[reportUnknownVariableType] - numba has no types
    overload,
    type_callable,
    typeof_impl,
)

Bytes = npt.NDArray[np.uint8]
_64_BITS = (1 << 64) - 1


class UInt64(int):
    """An unsigned 64-bit integer that wraps around.

    In compiled code it is uint64. Both operands must be words, except for the count of a shift: in Numba uint64 and int64
    make float64.
    """

    def __new__(cls, value: int) -> UInt64:
        """Take the low 64 bits."""
        return super().__new__(cls, value & _64_BITS)

    def __add__(self, other: int) -> UInt64:
        return UInt64(super().__add__(other))

    def __sub__(self, other: int) -> UInt64:
        return UInt64(super().__sub__(other))

    def __mul__(self, other: int) -> UInt64:
        return UInt64(super().__mul__(other))

    def __floordiv__(self, other: int) -> UInt64:
        return UInt64(super().__floordiv__(other))

    def __and__(self, other: int) -> UInt64:
        return UInt64(super().__and__(other))

    def __or__(self, other: int) -> UInt64:
        return UInt64(super().__or__(other))

    def __xor__(self, other: int) -> UInt64:
        return UInt64(super().__xor__(other))

    def __lshift__(self, other: int) -> UInt64:
        return UInt64(super().__lshift__(other))

    def __rshift__(self, other: int) -> UInt64:
        return UInt64(super().__rshift__(other))

    def __invert__(self) -> UInt64:
        return UInt64(super().__invert__())


def memory_of(array: Bytes) -> Bytes:
    """Return an array's bytes in the form that kernels pass to each other.

    In compiled code it is a pointer: Numba counts references to an array at every call, 513 ns a row instead of 224.
    """
    return array


def byte_at(memory: Bytes, position: int) -> int:
    """Return one byte."""
    return int(memory[position])


def word_at(memory: Bytes, position: int) -> UInt64:
    """Return the eight bytes from `position`."""
    return UInt64(memory[position : position + 8].view("<u8")[0])


def put_word(memory: Bytes, position: int, word: UInt64) -> None:
    """Write the eight bytes of a word in the order of `word_at`."""
    memory[position : position + 8].view("<u8")[0] = word


def put_int64(memory: Bytes, position: int, word: UInt64) -> None:
    """Write a word as a number of eight bytes in network byte order."""
    memory[position : position + 8].view(">u8")[0] = word


def put_int32(memory: Bytes, position: int, word: UInt64) -> None:
    """Write the low half of a word as a number of four bytes in network byte order."""
    memory[position : position + 4].view(">u4")[0] = word & 0xFFFF_FFFF


def signed(word: UInt64) -> int:
    """Return a word below 2**63 as an ordinary integer."""
    return int(word)


def trailing_zeros(word: UInt64) -> int:
    """Return the number of zero bits below the lowest one, 64 for zero."""
    return (int(word) & -int(word)).bit_length() - 1 if word else 64


def leading_zeros(word: UInt64) -> int:
    """Return the number of zero bits above the highest one, 64 for zero."""
    return 64 - word.bit_length()


def high_product(one: UInt64, other: UInt64) -> UInt64:
    """Return the high 64 bits of the product."""
    return UInt64(int(one) * int(other) >> 64)


def bits_of(value: float) -> UInt64:
    """Return the binary64 representation of a number."""
    return UInt64.from_bytes(struct.pack("<d", value), "little")


_Llvm = Any  # of llvmlite and numba, which have no types: builders, contexts, the values of compiled code
_MEMORY = types.CPointer(types.uint8)
_ARRAY_DATA = 4  # index in numba.core.datamodel.models.ArrayModel: meminfo, parent, nitems, itemsize, data
_I32, _I64, _I128 = ir.IntType(32), ir.IntType(64), ir.IntType(128)


@typeof_impl.register(UInt64)
def _type_of_word(_word: UInt64, _context: object) -> types.Integer:
    return types.uint64


@overload(UInt64)
def _make_word(value: int) -> Callable[[int], np.uint64]:  # noqa: ARG001 - Numba reads its name
    def make_word(value: int) -> np.uint64:
        return np.uint64(value)

    return make_word


def _instruction(
    function: Callable[..., object], result: types.Type, *parameters: types.Type | type[types.Type]
) -> Callable[[Callable[..., _Llvm]], Callable[..., _Llvm]]:
    """In compiled code, replace `function` with the instructions that the decorated function emits."""

    def register(emit: Callable[..., _Llvm]) -> Callable[..., _Llvm]:
        def lower(context: _Llvm, builder: _Llvm, _signature: object, arguments: list[_Llvm]) -> _Llvm:
            value = emit(builder, *arguments)
            return context.get_dummy_value() if result == types.void else value

        typer = functools.wraps(function)(lambda *_: result)  # wraps: Numba binds arguments by its signature
        type_callable(function)(lambda _context: typer)
        lower_builtin(function, *parameters)(lower)
        return emit

    return register


@_instruction(memory_of, _MEMORY, types.Array)
def _data(builder: _Llvm, array: _Llvm) -> _Llvm:
    return builder.extract_value(array, _ARRAY_DATA)


@_instruction(byte_at, types.int64, _MEMORY, types.intp)
def _load_byte(builder: _Llvm, memory: _Llvm, position: _Llvm) -> _Llvm:
    return builder.zext(builder.load(builder.gep(memory, [position])), _I64)


@_instruction(word_at, types.uint64, _MEMORY, types.intp)
def _load_word(builder: _Llvm, memory: _Llvm, position: _Llvm) -> _Llvm:
    address = builder.bitcast(builder.gep(memory, [position]), _I64.as_pointer())
    return builder.load(address, align=1)


@_instruction(put_word, types.void, _MEMORY, types.intp, types.uint64)
def _store(builder: _Llvm, memory: _Llvm, position: _Llvm, value: _Llvm) -> _Llvm:
    address = builder.bitcast(builder.gep(memory, [position]), value.type.as_pointer())
    return builder.store(value, address, align=1)


@_instruction(put_int64, types.void, _MEMORY, types.intp, types.uint64)
def _store_int64(builder: _Llvm, memory: _Llvm, position: _Llvm, word: _Llvm) -> _Llvm:
    return _store(builder, memory, position, builder.bswap(word))


@_instruction(put_int32, types.void, _MEMORY, types.intp, types.uint64)
def _store_int32(builder: _Llvm, memory: _Llvm, position: _Llvm, word: _Llvm) -> _Llvm:
    return _store(builder, memory, position, builder.bswap(builder.trunc(word, _I32)))


@_instruction(signed, types.int64, types.uint64)
def _same_bits(_builder: _Llvm, word: _Llvm) -> _Llvm:
    return word


@_instruction(trailing_zeros, types.int64, types.uint64)
def _count_trailing_zeros(builder: _Llvm, word: _Llvm) -> _Llvm:
    return builder.cttz(word, ir.Constant(ir.IntType(1), 0))


@_instruction(leading_zeros, types.int64, types.uint64)
def _count_leading_zeros(builder: _Llvm, word: _Llvm) -> _Llvm:
    return builder.ctlz(word, ir.Constant(ir.IntType(1), 0))


@_instruction(high_product, types.uint64, types.uint64, types.uint64)
def _multiply_high(builder: _Llvm, one: _Llvm, other: _Llvm) -> _Llvm:
    product = builder.mul(builder.zext(one, _I128), builder.zext(other, _I128))
    return builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)


@_instruction(bits_of, types.uint64, types.float64)
def _bitcast(builder: _Llvm, value: _Llvm) -> _Llvm:
    return builder.bitcast(value, _I64)
