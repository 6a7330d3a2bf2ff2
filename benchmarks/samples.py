"""The files that are loaded: samples of any size and dialect, made once and kept."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Enough that Python's share of the work is small, little enough to stay in the processor's caches.
LINES_BYTES = 1 << 20
# Of the sample, header aside.
BYTES_A_ROW = 159


def make_sample(folder: Path, rows: int) -> Path:
    """Return the sample of so many rows, made where it is not there yet."""

    def write(unfinished: Path) -> None:
        command = [sys.executable, "-m", "loader", "sample", "--rows", str(rows), str(unfinished)]
        subprocess.run(command, check=True)

    return made_once(folder / f"sample-{rows}.csv", write)


def rows_of(file_bytes: float) -> int:
    """Return how many rows a sample of about that size has."""
    return round(file_bytes / BYTES_A_ROW)


def in_dialect(sample: Path, dialect: str) -> Path:
    """Return the sample's rows in one of the DIALECTS, written where they are not there yet."""

    def write(unfinished: Path) -> None:
        with sample.open("rb") as lines, unfinished.open("wb") as out:
            while chunk := lines.readlines(LINES_BYTES):
                out.write(DIALECTS[dialect](b"".join(chunk)))

    return made_once(sample.with_stem(f"{sample.stem}-{re.sub('[^a-z0-9]+', '-', dialect.lower())}"), write)


def warm(path: Path) -> None:
    """Read a file once, so that the first contender does not read it from disk for all the others."""
    with path.open("rb") as file:
        while file.read(LINES_BYTES):
            pass


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Return the path, written where it is not there yet; under another name until it is whole."""
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        write(unfinished)
        unfinished.rename(path)
    return path


def _quoted(lines: bytes) -> bytes:
    """Quote every field but nulls, as COPY ... (FORCE_QUOTE *) writes them. No field of the sample has a quote."""
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
