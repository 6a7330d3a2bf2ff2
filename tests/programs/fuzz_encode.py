"""Coverage-guided fuzzing of blocks and encoder, by `make fuzz`: any bytes, cut anywhere, give the results of rows.py.

The kernel runs as plain Python (NUMBA_DISABLE_JIT=1), so that atheris sees its branches. The first inputs are those of
fuzz_corpus.txt. An input that fails is printed in base64; as a line of that file it becomes a test.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast


class _Atheris(Protocol):
    """The part of atheris (https://github.com/google/atheris) that is used; only `make fuzz` installs it."""

    def instrument_imports(self, include: list[str]) -> AbstractContextManager[None]: ...
    def Setup(self, arguments: list[str], test: Callable[[bytes], None]) -> None: ...  # noqa: N802 - its name
    def Fuzz(self) -> None: ...  # noqa: N802 - its name


atheris = cast("_Atheris", importlib.import_module("atheris"))  # pyright does not find it

with atheris.instrument_imports(include=["loader"]):
    from tests.support.fuzz_input import check_input, corpus

# Three rows: longer inputs are slower and reach no other branch.
MAX_BYTES = 600
TOKENS = [
    b'"', b'""', b",", b"\n", b"\r\n", b"\\.", b"NaN", b"infinity", b"2024-02-29 23:59:59", b"T", b".5", b"e-3", b"24:00:00",
    b"\xc3\xa9", b"\xf0\x9f\x9a\x95", b"18446744073709551615", b"1.7976931348623157e308", b"4.9e-324",
]  # fmt: skip


def main(folder: Path, seconds: int) -> None:
    """Fuzz for some seconds. The folder keeps inputs that took new branches, from which the next call continues."""
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(corpus()):
        (found / f"corpus-{number:04}").write_bytes(data)
    tokens = folder / "tokens"
    tokens.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in TOKENS))
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-dict={tokens}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(found)], check_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
