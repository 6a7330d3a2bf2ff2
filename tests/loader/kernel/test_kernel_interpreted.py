"""The kernel's source as plain Python: what NUMBA_DISABLE_JIT=1 runs, which coverage and a debugger see."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.encoding import INTERPRETED
from tests.support.paths import ROOT

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

TESTS = [
    "tests/loader/encoding/test_encode.py",
    "tests/loader/kernel/test_record_ends.py",
    "tests/loader/kernel/test_doubles.py",
    "tests/loader/kernel/test_timestamps.py",
    "tests/loader/kernel/test_words.py",
    "tests/loader/encoding/test_fuzz_corpus.py",
]


@pytest.mark.skipif(INTERPRETED, reason="this process runs them so already")
def test_the_kernel_is_the_same_without_its_compiler() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
