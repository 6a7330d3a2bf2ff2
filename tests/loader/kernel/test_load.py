"""How a process gets the kernel: from an object file that another process has compiled, or, if that fails, from Numba."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loader.cli.sample import COLUMN_COUNT, write_sample

# Each compiles, some seconds long.
pytestmark = pytest.mark.slow

PROGRAM = f"""
import hashlib, io, json, sys
from loader.encoding.blocks import cut
from loader.buffers import SEGMENT_BYTES, Buffer, Segment
from loader.encoding.encoder import Encoder
rows = open(sys.argv[1], "rb").read().split(b"\\n", 1)[1]
buffer, end = Buffer(), SEGMENT_BYTES + len(rows)
buffer.view[SEGMENT_BYTES:end] = rows
segment = Segment(buffer, SEGMENT_BYTES, end, 0, len(rows))
digest, encoder = hashlib.sha256(), Encoder({COLUMN_COUNT})
for block in cut([segment], 2, lambda _: None):
    for chunk in encoder.encode(block):
        digest.update(chunk.payload)
print(json.dumps([digest.hexdigest(), encoder.rows_in_python, "numba" in sys.modules]))
"""


# Calls the function that Numba compiles fastest.
SHORT_PROGRAM = """
from loader.kernel.load import load_kernel
print(load_kernel().record_end(memoryview(bytearray(b"a\\nb")), 0, 3))
"""


class Encoded(msgspec.Struct):
    """What a process has encoded."""

    digest: str
    used_numba: bool
    stderr: str


@pytest.fixture(scope="module")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sample") / "sample.csv"
    with file.open("wb") as out:
        write_sample(out, rows=20_000, seed=1)
    return file


def run(program: str, folder: Path, *arguments: Path) -> tuple[str, str]:
    """Run a program whose cache is a folder; return its stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), "NUMBA_DISABLE_JIT": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    return ended.stdout, ended.stderr


class Cache:
    """A folder that a process has compiled into, and the digest of what it encoded."""

    def __init__(self, folder: Path, sample_file: Path) -> None:
        self.folder = folder
        self._sample_file = sample_file
        first = self.encode()
        assert (first.used_numba, first.stderr) == (True, "")
        self.digest = first.digest

    def encode(self, preparation: str = "", folder: Path | None = None) -> Encoded:
        """Encode the sample in another process, which runs some statements before that."""
        stdout, stderr = run(preparation + PROGRAM, folder or self.folder, self._sample_file)
        digest, rows_in_python, used_numba = json.loads(stdout)
        assert rows_in_python == 0
        return Encoded(digest, used_numba, stderr)


@pytest.fixture(scope="module")
def cache(sample_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"), sample_file)


def kernel_files(folder: Path) -> list[Path]:
    return list(folder.glob("*/*.kernel"))


def test_the_second_process_loads_the_object_file_without_numba(cache: Cache) -> None:
    assert cache.encode() == Encoded(cache.digest, used_numba=False, stderr="")


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1
    file.write_bytes(content)


def give_away(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files to others")
    os.chown(file, 65534, 65534)


@pytest.mark.parametrize("spoil", [Path.unlink, damage, give_away])
def test_a_missing_damaged_or_foreign_object_file_is_compiled_again(
    spoil: Callable[[Path], None], cache: Cache
) -> None:
    (file,) = kernel_files(cache.folder)
    spoil(file)
    assert cache.encode() == Encoded(cache.digest, used_numba=True, stderr="")
    assert cache.encode() == Encoded(cache.digest, used_numba=False, stderr="")


FALLBACK_WARNING = "warning: the kernel's object file can't be used"


def test_where_the_emitter_fails_numba_compiles_the_same_kernel(cache: Cache, tmp_path: Path) -> None:
    broken_emitter = "from loader.kernel import aot\naot.compile_object = None\n"

    encoded = cache.encode(broken_emitter, tmp_path)

    assert (encoded.digest, encoded.used_numba) == (cache.digest, True)
    assert encoded.stderr.startswith(FALLBACK_WARNING)
    assert kernel_files(tmp_path) == []


def test_an_object_file_that_lacks_a_function_is_neither_used_nor_kept(tmp_path: Path) -> None:
    incomplete_emitter = "from loader.kernel import aot\naot._ENTRIES = aot._ENTRIES[1:]\n"

    stdout, stderr = run(incomplete_emitter + SHORT_PROGRAM, tmp_path)

    assert stdout == "2\n"
    assert stderr.startswith(FALLBACK_WARNING)
    assert "no function encode_rows" in stderr
    assert kernel_files(tmp_path) == []


def test_where_llvm_refuses_the_object_file_numba_compiles(cache: Cache) -> None:
    other_llvm = "from llvmlite import binding\nbinding.ObjectFileRef = None\n"

    stdout, stderr = run(other_llvm + SHORT_PROGRAM, cache.folder)

    assert stdout == "2\n"
    assert stderr.startswith(FALLBACK_WARNING)


def test_where_the_object_file_can_not_be_written_a_warning_says_so(cache: Cache, tmp_path: Path) -> None:
    (file,) = kernel_files(cache.folder)
    digest_bytes = 32
    no_room = f"""
import resource
from loader.kernel import aot
code = open({str(file)!r}, "rb").read()[{digest_bytes}:]
aot.compile_object = lambda machine: code
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""

    stdout, stderr = run(no_room + SHORT_PROGRAM, tmp_path)

    assert stdout == "2\n"
    assert stderr.startswith("warning: the compiled kernel can't be kept")
    assert "NUMBA_CACHE_DIR" in stderr
    assert kernel_files(tmp_path) == []


WITHOUT_EXECUTABLE_MEMORY = """
import ctypes, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit(3)
from loader.kernel.load import load_kernel
from loader.errors import LoaderError
try:
    load_kernel()
except LoaderError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_where_memory_can_not_be_made_executable_the_error_says_so() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXECUTABLE_MEMORY], capture_output=True, text=True, check=False
    )
    if ended.returncode == 3:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert ended.returncode == 0, ended.stderr
    assert "memory can't be made executable" in ended.stdout
