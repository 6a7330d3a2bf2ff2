"""The decorators that compile the kernel.

A kernel is plain Python over numpy arrays and machine integers. Numba compiles it for this CPU. With NUMBA_DISABLE_JIT=1 the
same source runs as Python, so that coverage and a debugger see it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")

_njit: Any = numba.njit  # numba has no types


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, to run without the GIL and with C's arithmetic: no check for division by 0."""
    return _compiled(function)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a part of a kernel into each place that calls it. As calls these parts cost 190 ns a row."""
    return _compiled(function, forceinline=True)


def _compiled(function: Callable[P, R], **options: bool) -> Callable[P, R]:
    # a compiled function is called as its source is
    return cast("Callable[P, R]", _njit(nogil=True, error_model="numpy", **options)(function))
