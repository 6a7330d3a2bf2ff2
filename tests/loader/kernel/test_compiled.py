"""The kernel's machine code outlives the process that compiled it, and then needs no compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loader.cli.sample import write_sample

# Each compiles, some seconds long.
pytestmark = pytest.mark.slow

PROGRAM = """
import hashlib, io, json, sys
from loader.encoding.blocks import cut
from loader.buffers import SEGMENT_BYTES, Buffer, Segment
from loader.encoding.encoder import Encoder
rows = open(sys.argv[1], "rb").read().split(b"\\n", 1)[1]
buffer, end = Buffer(), SEGMENT_BYTES + len(rows)
buffer.view[SEGMENT_BYTES:end] = rows
segment = Segment(buffer, SEGMENT_BYTES, end, 0, len(rows))
digest, encoder = hashlib.sha256(), Encoder(24)
for block in cut([segment], 2, lambda _: None):
    for chunk in encoder.encode(block):
        digest.update(chunk.payload)
print(json.dumps([digest.hexdigest(), encoder.rows_in_python, "numba" in sys.modules]))
"""


@pytest.fixture(scope="module")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sample") / "sample.csv"
    with file.open("wb") as out:
        write_sample(out, rows=20_000, seed=1)
    return file


class Cache:
    """A folder that a process has compiled into, and what the code there makes of the sample."""

    def __init__(self, folder: Path, sample_file: Path) -> None:
        self.folder = folder
        self._sample_file = sample_file
        self.digest, self.was_compiled = self.encode()

    def encode(self) -> tuple[str, bool]:
        """What another process makes of the sample, and whether it took the compiler for that."""
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(self.folder), "NUMBA_DISABLE_JIT": "0"}
        command = [sys.executable, "-c", PROGRAM, str(self._sample_file)]
        printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
        digest, rows_in_python, is_compiled = json.loads(printed)
        assert rows_in_python == 0
        return digest, is_compiled


@pytest.fixture(scope="module")
def cache(sample_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"), sample_file)


def test_what_one_process_has_compiled_the_next_one_loads_without_the_compiler(cache: Cache) -> None:
    assert cache.was_compiled
    assert cache.encode() == (cache.digest, False)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20_000])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1
    file.write_bytes(content)


def give_away(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files to others")
    os.chown(file, 65534, 65534)


@pytest.mark.parametrize("spoil", [truncate, flip_a_bit, give_away])
def test_damaged_and_foreign_code_is_compiled_anew(spoil: Callable[[Path], None], cache: Cache) -> None:
    (file,) = cache.folder.glob("*/*.kernel")
    spoil(file)
    assert cache.encode() == (cache.digest, True)
    assert cache.encode() == (cache.digest, False)


SEALED = """
import ctypes, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit(3)
from loader.kernel.native import load_kernel
from loader.errors import LoaderError
try:
    load_kernel()
except LoaderError as error:
    print(error)
"""


def test_where_memory_can_not_be_made_executable_that_is_said() -> None:
    ended = subprocess.run([sys.executable, "-c", SEALED], capture_output=True, text=True, check=False)
    if ended.returncode == 3:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert ended.returncode == 0, ended.stderr
    assert "memory can't be made executable" in ended.stdout
