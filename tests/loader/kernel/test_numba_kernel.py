"""The kernel as plain Python, by NUMBA_DISABLE_JIT=1, which coverage and a debugger see."""

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
    "tests/loader/encoding/test_encoder.py",
    "tests/loader/kernel/test_eisel_lemire.py",
    "tests/loader/kernel/test_encode_rows.py",
    "tests/loader/kernel/test_record_boundaries.py",
    "tests/loader/kernel/test_swar.py",
    "tests/loader/kernel/test_timestamps.py",
    "tests/loader/encoding/test_fuzz_corpus.py",
]


@pytest.mark.skipif(INTERPRETED, reason="this process runs the kernel as plain Python")
def test_the_kernel_passes_its_tests_as_plain_python() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
