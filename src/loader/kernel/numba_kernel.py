"""The kernel without its object file: compiled by Numba in this process or, with NUMBA_DISABLE_JIT=1, plain Python."""

from __future__ import annotations

import numpy as np

from loader.kernel import encode_rows, record_boundaries
from loader.kernel.intrinsics import Bytes


class NumbaKernel:
    """The functions of encode_rows.py and record_boundaries.py, which Numba compiles at their first call."""

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
