"""The kernel as its callers see it: from an object file or, if that fails, compiled by Numba."""

from __future__ import annotations

import functools
import os
import threading
from typing import Protocol

from loader.errors import LoaderError
from loader.kernel.object_file import load_object_kernel, refuse_where_code_cannot_run
from loader.text import printable, warn

_lock = threading.Lock()


class Kernel(Protocol):
    """The functions of encode_rows.py and record_boundaries.py, over writable memory. They may be called in any thread."""

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
    """Return the kernel. The first call on a machine compiles it, which takes some seconds.

    Raises INTERNAL_ERROR where the system forbids memory that is executable.
    """
    with _lock:
        return _load()


@functools.cache
def _load() -> Kernel:
    if os.environ.get("NUMBA_DISABLE_JIT", "") in ("", "0"):
        try:
            refuse_where_code_cannot_run()
            return load_object_kernel()
        except LoaderError:
            raise
        except Exception as error:  # another LLVM or Numba may fail in any way; Numba alone still works
            reason = printable(f"{type(error).__name__}: {error}")
            warn(
                f"the kernel's object file can't be used, so each run compiles the kernel for some seconds. {reason}"
            )
    from loader.kernel.numba_kernel import NumbaKernel

    return NumbaKernel()
