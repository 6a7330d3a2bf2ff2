"""The kernel as machine code in a file, which LLVM loads in 10 ms and ctypes calls.

Without it each run takes half a second and 80 MB to import Numba, and some seconds to compile.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from typing import Any

import llvmlite  # pyright: ignore[reportMissingTypeStubs] - there are none
from llvmlite import binding  # pyright: ignore[reportMissingTypeStubs] - as above

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.kernel import cache
from loader.text import printable, warn

_Llvm = Any  # of llvmlite, which has no types
llvm: _Llvm = binding

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64


class ObjectKernel:
    """The functions of an object file that aot.py has emitted."""

    def __init__(self, machine: _Llvm, code: bytes) -> None:
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)  # owns the code
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        encoding = (_POINTER, _INTEGER, _INTEGER, _INTEGER, _POINTER, _INTEGER, _INTEGER, _POINTER, _INTEGER)
        self._encode_rows = self._function("encode_rows", *encoding)
        self._record_end = self._function("record_end", _POINTER, _INTEGER, _INTEGER, _INTEGER)
        self._find_cut = self._function("find_cut", _POINTER, _INTEGER)

    def encode_rows(
        self, block: memoryview, position: int, end: int, output: memoryview, written: int, kinds: memoryview
    ) -> tuple[int, int, int, int]:
        """See encode_rows.py."""
        result = (_INTEGER * 4)()
        target, column_kinds = (_address(output), len(output)), (_address(kinds), len(kinds))
        self._encode_rows(_address(block), len(block), position, end, *target, written, *column_kinds, result)
        return result[0], result[1], result[2], result[3]

    def record_end(self, block: memoryview, position: int, end: int) -> int:
        """See record_boundaries.py."""
        result = _INTEGER()
        self._record_end(_address(block), len(block), position, end, ctypes.byref(result))
        return result.value

    def find_cut(self, data: memoryview) -> tuple[int, int, int]:
        """See record_boundaries.py."""
        result = (_INTEGER * 3)()
        self._find_cut(_address(data), len(data), result)
        return result[0], result[1], result[2]

    def _function(self, name: str, *parameters: type[Any]) -> Callable[..., None]:
        """Return a function of the code, whose last parameter is its result's address. ctypes calls it without the GIL."""
        address = self._engine.get_function_address(name)
        if not address:
            raise RuntimeError(f"The object file has no function {name}.")
        return ctypes.CFUNCTYPE(None, *parameters, _POINTER)(address)


def _address(memory: memoryview) -> int:
    """Return the address of a buffer, which the caller keeps alive."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) if memory else 0


def refuse_where_code_cannot_run() -> None:
    """Raise INTERNAL_ERROR where memory can't be made executable: LLVM does not check that, and the first call crashes."""
    try:
        llvm.check_jit_execution()
    except OSError as error:
        raise LoaderError(
            FailureCode.INTERNAL_ERROR,
            "The system does not let the loader run compiled code: memory can't be made executable.",
            "Allow it: see systemd's MemoryDenyWriteExecute, or SELinux's execmem.",
        ) from error


def load_object_kernel() -> ObjectKernel:
    """Return the kernel from its object file, which is compiled and kept where the cache has none.

    Raises what llvmlite and Numba raise where they can't emit or load it.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = _processor()
    target = llvm.Target.from_default_triple()
    # As Numba chooses it: position-independent code, which is not needed here, takes 3 % longer.
    relocation = "static" if target.name.startswith("x86") else "default"
    machine = target.create_target_machine(cpu=name, features=features, opt=3, reloc=relocation, jit=True)
    made_for = f"{target.triple} {name} {features} {llvmlite.__version__}"
    file_name = f"{hashlib.sha256(made_for.encode()).hexdigest()[:16]}.kernel"
    if (code := cache.read(file_name)) is not None:
        return ObjectKernel(machine, code)
    from loader.kernel.aot import compile_object

    code = compile_object(machine)
    kernel = ObjectKernel(machine, code)  # before it is kept: what can't be loaded is not
    try:
        cache.write(file_name, code)
    except OSError as error:
        warn(
            f"the compiled kernel can't be kept, so each run compiles it for some seconds. {printable(str(error))}\n"
            "  next: set NUMBA_CACHE_DIR to a folder that can be written to."
        )
    return kernel


def _processor() -> tuple[str, str]:
    """Return the CPU and its features to compile for, as Numba chooses them.

    https://numba.readthedocs.io/en/stable/reference/envvars.html#envvar-NUMBA_CPU_NAME
    """
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    own = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
    return name, os.environ.get("NUMBA_CPU_FEATURES") or own
