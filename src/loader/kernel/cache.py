"""The folder where compiled code is kept between runs: another for other sources, none where none can be written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def _candidate_folders() -> Iterator[Path]:
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given)
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        yield Path(cache_home) / "large-file-importer" / "kernels"
    if home := os.environ.get("HOME"):
        yield Path(home) / ".cache" / "large-file-importer" / "kernels"
    with contextlib.suppress(FileNotFoundError):  # there is none
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


@functools.cache
def sources_digest() -> str:
    """What the cache must change with. Numba looks at a kernel's own file, not at those of the kernels that it calls."""
    package = Path(__file__).parents[1]
    sources = b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))
    return hashlib.sha256(sources).hexdigest()[:16]


@functools.cache
def given_folder() -> Path | None:
    """Return where NUMBA_CACHE_DIR has code compiled from these very sources, such as when an image was built."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(given or "") / sources_digest()
    try:
        return folder if given and folder.is_dir() and is_trusted(folder.stat()) else None
    except PermissionError:
        return None


def is_trusted(status: os.stat_result) -> bool:
    """Whether compiled code of this owner may be run: root's and our own."""
    return status.st_uid in (0, os.getuid())


def _bring(compiled: Path, folder: Path) -> None:
    """Copy what Numba compiled when an image was built, whole or not at all; files only, whose modes are then ours."""
    if folder.exists():
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


@functools.cache
def cache_folder() -> Path | None:
    """Return where code compiled from these very sources is kept, with what a read-only NUMBA_CACHE_DIR has of it."""
    parent = _first_writable_folder()
    if parent is None:
        return None
    folder = parent / sources_digest()
    if (given := given_folder()) is not None:
        _bring(given, folder)
    return folder
