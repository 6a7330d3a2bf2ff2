"""The kernel to an object file: machine code, with a C function for each of its entries, that runs without numba."""

from __future__ import annotations

import re
from typing import Any

from llvmlite import binding  # pyright: ignore[reportMissingTypeStubs] - there are none
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage] - its documentation has it so
    cfunc,
    types,
)

from loader import kernel, record_ends

_Llvm = Any  # of llvmlite and numba, which have no types
llvm: _Llvm = binding

_BYTES, _LENGTH, _POSITION = types.CPointer(types.uint8), types.int64, types.int64
_RESULT = types.CPointer(types.int64)
# What numba's wrapper would call if a kernel raised an exception. None does: so these need not be there.
_TRAP = "{ call void @llvm.trap() unreachable }"


def encode_rows(
    block: _Llvm,
    block_bytes: int,
    position: int,
    end: int,
    output: _Llvm,
    output_bytes: int,
    written: int,
    kinds: _Llvm,
    column_count: int,
    result: _Llvm,
) -> None:
    """Do what the kernel's function does, and put its four numbers into the result."""
    result[0], result[1], result[2], result[3] = kernel.encode_rows(
        carray(block, block_bytes),
        position,
        end,
        carray(output, output_bytes),
        written,
        carray(kinds, column_count),
    )


def record_end(block: _Llvm, block_bytes: int, position: int, end: int, result: _Llvm) -> None:
    """Do what the kernel's function does, and put its number into the result."""
    result[0] = record_ends.record_end(carray(block, block_bytes), position, end)


def find_cut(data: _Llvm, data_bytes: int, result: _Llvm) -> None:
    """Do what the kernel's function does, and put its two numbers into the result."""
    result[0], result[1] = record_ends.find_cut(carray(data, data_bytes))


_ENTRIES = (
    (
        encode_rows,
        (_BYTES, _LENGTH, _POSITION, _POSITION, _BYTES, _LENGTH, _POSITION, _BYTES, _LENGTH, _RESULT),
    ),
    (record_end, (_BYTES, _LENGTH, _POSITION, _POSITION, _RESULT)),
    (find_cut, (_BYTES, _LENGTH, _RESULT)),
)


def compile_object(machine: _Llvm) -> bytes:
    """Compile for a target machine of llvmlite. Takes some seconds."""
    whole = llvm.parse_assembly("declare void @llvm.trap()")
    for function, parameters in _ENTRIES:
        compiled: _Llvm = cfunc(types.void(*parameters), error_model="numpy")(function)
        module = llvm.parse_assembly(compiled.inspect_llvm())
        module.get_function(compiled.native_name).name = function.__name__
        whole.link_in(module)
    whole.link_in(llvm.parse_assembly("\n".join(["declare void @llvm.trap()", *_stubs(whole)])))
    return machine.emit_object(whole)


def _stubs(module: _Llvm) -> list[str]:
    """Return definitions of all that a module has of elsewhere."""
    declared = [
        re.sub(r"^;.*\n|#\d+", "", str(function)) for function in module.functions if function.is_declaration
    ]
    functions = [text.strip() for text in declared if "@llvm." not in text]
    variables = [str(variable).strip() for variable in module.global_variables if variable.is_declaration]
    return [
        *(text.replace("declare", "define", 1) + _TRAP for text in functions),
        *(f"{text.replace(' external', '', 1)} zeroinitializer" for text in variables),
    ]
