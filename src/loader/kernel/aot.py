"""The kernel to an object file: machine code with a C function for each entry, which runs without Numba."""

from __future__ import annotations

import re
from typing import Any

from llvmlite import binding  # pyright: ignore[reportMissingTypeStubs] - there are none
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage] - documented
    cfunc,
    types,
)

from loader.kernel import encode_rows as row_kernel
from loader.kernel import record_boundaries

_Llvm = Any  # of llvmlite and numba, which have no types
llvm: _Llvm = binding

_BYTES, _LENGTH, _POSITION = types.CPointer(types.uint8), types.int64, types.int64
_RESULT = types.CPointer(types.int64)
# Numba's wrapper calls these when a kernel has raised an exception. No kernel does, so they are replaced by traps.
_UNUSED = ("Py", "_Py", "numba_", "NRT_", "_ZN08NumbaEnv")
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
    """Call the kernel's function, and write its four numbers to `result`."""
    result[0], result[1], result[2], result[3] = row_kernel.encode_rows(
        carray(block, block_bytes),
        position,
        end,
        carray(output, output_bytes),
        written,
        carray(kinds, column_count),
    )


def record_end(block: _Llvm, block_bytes: int, position: int, end: int, result: _Llvm) -> None:
    """Call the kernel's function, and write its number to `result`."""
    result[0] = record_boundaries.record_end(carray(block, block_bytes), position, end)


def find_cut(data: _Llvm, data_bytes: int, result: _Llvm) -> None:
    """Call the kernel's function, and write its three numbers to `result`."""
    result[0], result[1], result[2] = record_boundaries.find_cut(carray(data, data_bytes))


_ENTRIES = (
    (
        encode_rows,
        (_BYTES, _LENGTH, _POSITION, _POSITION, _BYTES, _LENGTH, _POSITION, _BYTES, _LENGTH, _RESULT),
    ),
    (record_end, (_BYTES, _LENGTH, _POSITION, _POSITION, _RESULT)),
    (find_cut, (_BYTES, _LENGTH, _RESULT)),
)


def compile_object(machine: _Llvm) -> bytes:
    """Compile for a target machine of llvmlite, which takes some seconds.

    Raises RuntimeError where the code needs a function that does not exist at run time.
    """
    whole = llvm.parse_assembly("declare void @llvm.trap()")
    for function, parameters in _ENTRIES:
        compiled: _Llvm = cfunc(types.void(*parameters), error_model="numpy")(function)
        module = llvm.parse_assembly(compiled.inspect_llvm())
        module.get_function(compiled.native_name).name = function.__name__
        whole.link_in(module)
    whole.link_in(llvm.parse_assembly("\n".join(["declare void @llvm.trap()", *_stubs(whole)])))
    return machine.emit_object(whole)


def _stubs(module: _Llvm) -> list[str]:
    """Return definitions of all that a module only declares. Raises RuntimeError for those that may be called."""
    functions = [
        each for each in module.functions if each.is_declaration and not each.name.startswith("llvm.")
    ]
    variables = [each for each in module.global_variables if each.is_declaration]
    if needed := [each.name for each in (*functions, *variables) if not each.name.startswith(_UNUSED)]:
        raise RuntimeError(f"The kernel needs functions that don't exist at run time: {', '.join(needed)}.")
    return [
        *(_declaration(each).replace("declare", "define", 1) + _TRAP for each in functions),
        *(_declaration(each).replace("external ", "", 1) + " zeroinitializer" for each in variables),
    ]


def _declaration(value: _Llvm) -> str:
    """Return a value's declaration in LLVM's assembly, without comments, attributes and alignment."""
    return re.sub(r"^;.*\n|#\d+|, align \d+", "", str(value)).strip()
