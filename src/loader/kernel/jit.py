"""How kernels are compiled: the decorators.

A kernel is plain Python over numpy arrays and machine integers. Numba compiles it once for this CPU; with
NUMBA_DISABLE_JIT=1 the same source runs as Python, so that coverage and a debugger see it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core import config

from loader.kernel.cache import cache_folder

P = ParamSpec("P")
R = TypeVar("R")

_njit: Any = numba.njit  # numba has no types

# Numba raises at import where cache=True and no folder can be written: then every run compiles.
_CACHE_FOLDER = cache_folder()
if _CACHE_FOLDER is not None:
    # numba.core.config makes its attributes from the environment at import
    config.CACHE_DIR = str(_CACHE_FOLDER)  # pyright: ignore[reportAttributeAccessIssue]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, to run without the GIL, with C's arithmetic (no check for division by 0)."""
    return _compiled(function)


def kept_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function likewise, and keep it and what it calls for other processes."""
    return _compiled(function, cache=_CACHE_FOLDER is not None)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a part of a kernel into each place that calls it. What LLVM leaves as calls costs 190 ns a row."""
    return _compiled(function, forceinline=True)


def _compiled(function: Callable[P, R], **options: bool) -> Callable[P, R]:
    # a compiled function is called as its source is
    return cast("Callable[P, R]", _njit(nogil=True, error_model="numpy", **options)(function))
