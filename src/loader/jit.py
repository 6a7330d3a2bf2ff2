"""How kernels are compiled: the one decorator, and the folder where compiled code is kept between runs.

A kernel is plain Python over numpy arrays and machine integers. Numba compiles it once for this CPU; with
NUMBA_DISABLE_JIT=1 the same source runs as Python, so that coverage and a debugger see it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba
from numba.core import config

P = ParamSpec("P")
R = TypeVar("R")


def _candidate_folders() -> Iterator[Path]:
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given)
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        yield Path(cache_home) / "large-file-importer" / "kernels"
    if home := os.environ.get("HOME"):
        yield Path(home) / ".cache" / "large-file-importer" / "kernels"
    yield Path(tempfile.gettempdir()) / f"large-file-importer-{os.getuid()}" / "kernels"


def _first_writable_folder() -> Path | None:
    for folder in _candidate_folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            continue
        if folder.stat().st_uid == os.getuid():  # compiled code of somebody else's is not run
            return folder
    return None


def sources_digest() -> str:
    """What the cache must change with. Numba looks at a kernel's own file, not at those of the kernels that it calls."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()[:16]


def _bring(compiled: Path, folder: Path) -> None:
    """Copy what was compiled when an image was built, whole or not at all; files only, whose modes are then ours."""
    if folder.exists() or not compiled.is_dir() or compiled.stat().st_uid not in (0, os.getuid()):
        return
    with (
        contextlib.suppress(OSError),  # no room, or another process was first
        tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as new,
    ):
        for file in compiled.glob("*/*.nb[ic]"):
            copy = Path(new) / file.relative_to(compiled)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        Path(new).rename(folder)


def _cache_folder() -> Path | None:
    """Return where code compiled from these very sources is kept, with what a read-only NUMBA_CACHE_DIR has of it."""
    parent = _first_writable_folder()
    if parent is None:
        return None
    folder = parent / sources_digest()
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        _bring(Path(given) / folder.name, folder)
    return folder


# Numba raises at import where cache=True and no folder can be written (a read-only image): then every run compiles.
_CACHE_FOLDER = _cache_folder()
if _CACHE_FOLDER is not None:
    # numba.core.config makes its attributes from the environment at import
    config.CACHE_DIR = str(_CACHE_FOLDER)  # pyright: ignore[reportAttributeAccessIssue]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, to run without the GIL, with C's arithmetic (no check for division by 0)."""
    compiled = numba.njit(nogil=True, cache=_CACHE_FOLDER is not None, error_model="numpy")(function)
    return cast(
        "Callable[P, R]", compiled
    )  # numba has no types; a compiled function is called as its source is


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a part of a kernel into each place that calls it. What LLVM leaves as calls costs 190 ns a row."""
    compiled = numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)
    return cast("Callable[P, R]", compiled)  # as above
