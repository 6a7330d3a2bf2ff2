"""Sample files of any size and dialect, generated once and kept."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Large enough that Python's overhead is small, small enough for the processor's caches.
CHUNK_BYTES = 1 << 20
# Of the sample, without its header.
BYTES_PER_ROW = 159


def make_sample(folder: Path, rows: int) -> Path:
    """Return the sample with that many rows; generate it if it does not exist."""

    def write(unfinished: Path) -> None:
        command = [sys.executable, "-m", "loader", "sample", "--rows", str(rows), str(unfinished)]
        subprocess.run(command, check=True)

    return made_once(folder / f"sample-{rows}.csv", write)


def rows_of(file_bytes: float) -> int:
    """Return the number of rows of a sample of about that size."""
    return round(file_bytes / BYTES_PER_ROW)


def in_dialect(sample: Path, dialect: str) -> Path:
    """Return the sample's rows in one of the DIALECTS; write the file if it does not exist."""

    def write(unfinished: Path) -> None:
        with sample.open("rb") as lines, unfinished.open("wb") as out:
            while chunk := lines.readlines(CHUNK_BYTES):
                out.write(DIALECTS[dialect](b"".join(chunk)))

    return made_once(sample.with_stem(f"{sample.stem}-{re.sub('[^a-z0-9]+', '-', dialect.lower())}"), write)


def warm(path: Path) -> None:
    """Read a file into the page cache, so that the first contender has no disadvantage."""
    with path.open("rb") as file:
        while file.read(CHUNK_BYTES):
            pass


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Return the path; if it does not exist, write it under another name and rename it when complete."""
    if not path.exists():
        print(f"creating {path}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        write(unfinished)
        unfinished.rename(path)
    return path


def _quoted(lines: bytes) -> bytes:
    """Quote every field but nulls, as COPY ... (FORCE_QUOTE *) does. No field of the sample has a quote."""
    quoted = b'"' + lines.replace(b",", b'","').replace(b"\n", b'"\n"')[:-1]
    return quoted.replace(b'""', b"")


def _microseconds(lines: bytes) -> bytes:
    return re.sub(rb"(\d\d:\d\d:\d\d)", rb"\1.000000", lines)


def _crlf(lines: bytes) -> bytes:
    return lines.replace(b"\n", b"\r\n")


DIALECTS: dict[str, Callable[[bytes], bytes]] = {
    "all quoted": _quoted,
    ".000000": _microseconds,
    "CRLF": _crlf,
    "all three": lambda lines: _crlf(_quoted(_microseconds(lines))),
}
