"""The kernel as its callers see it: machine code from a file, which numba compiles where there is none yet.

Numba takes half a second and 80 MB of a run to be imported and to find what it has compiled. Its work is therefore kept as
an object file, which LLVM alone loads in 10 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import llvmlite  # pyright: ignore[reportMissingTypeStubs] - there are none
from llvmlite import binding  # pyright: ignore[reportMissingTypeStubs] - as above

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.kernel.cache import cache_folder, given_folder, is_trusted

_Llvm = Any  # of llvmlite, which has no types
llvm: _Llvm = binding
_lock = threading.Lock()

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64
_DIGEST_BYTES = hashlib.sha256().digest_size


class Kernel(Protocol):
    """What encode_rows.py and record_boundaries.py define, of memory that may be written to; from any thread."""

    def encode_rows(
        self, block: memoryview, position: int, end: int, output: memoryview, written: int, kinds: memoryview
    ) -> tuple[int, int, int, int]:
        """See encode_rows.py."""
        ...

    def record_end(self, block: memoryview, position: int, end: int) -> int:
        """See record_boundaries.py."""
        ...

    def find_cut(self, data: memoryview) -> tuple[int, int, int]:
        """See record_boundaries.py."""
        ...


def load_kernel() -> Kernel:
    """Return the kernel. Compiles it where it is called for the first time on a machine, for some seconds."""
    with _lock:
        return _load()


@functools.cache
def _load() -> Kernel:
    if os.environ.get("NUMBA_DISABLE_JIT", "") not in ("", "0"):
        from loader.kernel.interpreted import Interpreted

        return Interpreted()
    _refuse_where_code_cannot_run()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = _processor()
    target = llvm.Target.from_default_triple()
    # As Numba has it. Position-independent code, which nobody needs here, takes 3 % longer.
    relocation = "static" if target.name.startswith("x86") else "default"
    machine = target.create_target_machine(cpu=name, features=features, opt=3, reloc=relocation, jit=True)
    made_for = f"{target.triple} {name} {features} {llvmlite.__version__}"
    file_name = f"{hashlib.sha256(made_for.encode()).hexdigest()[:16]}.kernel"
    code = _read(given_folder(), file_name) or _read(cache_folder(), file_name)
    if code is None:
        code = _compile(machine)
        _keep(cache_folder(), file_name, code)
    return _Native(machine, code)


def _refuse_where_code_cannot_run() -> None:
    """Raise where memory can't be made executable: LLVM would not look, and the first call would end the process."""
    try:
        llvm.check_jit_execution()
    except OSError as error:
        raise LoaderError(
            FailureCode.INTERNAL_ERROR,
            "This system does not let the loader run what it has compiled: memory can't be made executable.",
            "Allow it: see systemd's MemoryDenyWriteExecute, or SELinux's execmem.",
        ) from error


def _processor() -> tuple[str, str]:
    """Return what is compiled for, as Numba chooses it.

    https://numba.readthedocs.io/en/stable/reference/envvars.html#envvar-NUMBA_CPU_NAME
    """
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    own = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
    return name, os.environ.get("NUMBA_CPU_FEATURES") or own


def _compile(machine: _Llvm) -> bytes:
    from loader.kernel.aot import compile_object

    return compile_object(machine)


def _read(folder: Path | None, file_name: str) -> bytes | None:
    """Return the code that a file has, None where there is none or it is damaged: LLVM would end the process."""
    if folder is None:
        return None
    try:
        with (folder / file_name).open("rb") as file:
            content = file.read() if is_trusted(os.fstat(file.fileno())) else b""
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(folder: Path | None, file_name: str, code: bytes) -> None:
    """Put the code into a file, whole or not at all."""
    if folder is None:
        return
    unfinished = folder / f"{file_name}.{os.getpid()}"
    with contextlib.suppress(OSError):  # no room: the next run compiles again
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            unfinished.write_bytes(hashlib.sha256(code).digest() + code)
            unfinished.replace(folder / file_name)
        finally:
            unfinished.unlink(missing_ok=True)


class _Native:
    """The machine code."""

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
        found = (_INTEGER * 4)()
        target, column_kinds = (_address(output), len(output)), (_address(kinds), len(kinds))
        self._encode_rows(_address(block), len(block), position, end, *target, written, *column_kinds, found)
        return found[0], found[1], found[2], found[3]

    def record_end(self, block: memoryview, position: int, end: int) -> int:
        """See record_boundaries.py."""
        found = _INTEGER()
        self._record_end(_address(block), len(block), position, end, ctypes.byref(found))
        return found.value

    def find_cut(self, data: memoryview) -> tuple[int, int, int]:
        """See record_boundaries.py."""
        found = (_INTEGER * 3)()
        self._find_cut(_address(data), len(data), found)
        return found[0], found[1], found[2]

    def _function(self, name: str, *parameters: type[Any]) -> Callable[..., None]:
        """Return a function of the code; its last parameter is where its result goes. ctypes lets go of the GIL."""
        return ctypes.CFUNCTYPE(None, *parameters, _POINTER)(self._engine.get_function_address(name))


def _address(memory: memoryview) -> int:
    """Return where a buffer is, which the caller keeps alive."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) if memory else 0
