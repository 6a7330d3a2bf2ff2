"""The kernel's source as plain Python, as its callers see it: with NUMBA_DISABLE_JIT=1, for coverage and a debugger."""

from __future__ import annotations

import numpy as np

from loader.kernel import encode_rows, record_boundaries
from loader.kernel.intrinsics import Bytes


class Interpreted:
    """See compiled.Kernel."""

    def encode_rows(
        self, block: memoryview, position: int, end: int, output: memoryview, written: int, kinds: memoryview
    ) -> tuple[int, int, int, int]:
        """See encode_rows.py."""
        return encode_rows.encode_rows(_array(block), position, end, _array(output), written, _array(kinds))

    def record_end(self, block: memoryview, position: int, end: int) -> int:
        """See record_boundaries.py."""
        return record_boundaries.record_end(_array(block), position, end)

    def find_cut(self, data: memoryview) -> tuple[int, int, int]:
        """See record_boundaries.py."""
        return record_boundaries.find_cut(_array(data))


def _array(memory: memoryview) -> Bytes:
    return np.frombuffer(memory, np.uint8)
