"""The scripts for shells: bash completes commands, options, values and files; zsh and fish accept theirs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loader.cli.completion import SHELLS

# Completes the words that follow the script, of which the last is incomplete.
BASH = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "_shtab_$1"; printf "%s\\n" "${COMPREPLY[@]}"'


def script(program: str, shell: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", program, "--print-completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loader", "r"], {"run", "rejects"}),
        (["loader", "run", "--require"], {"--require-verified-length"}),
        (["loader", "run", "--progress", "j"], {"json"}),
        (["loader", "run", "tri"], {"trips.csv"}),
        (["importer", "re"], {"rejects", "remove", "retry"}),
        (["importer", "submit", "--idem"], {"--idempotency-key"}),
    ],
)
def test_bash_completes(tmp_path: Path, words: list[str], expected: set[str]) -> None:
    path = tmp_path / "completion"
    path.write_text(script(words[0], "bash"))
    (tmp_path / "trips.csv").touch()
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(path), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", ["loader", "importer"])
def test_a_shell_accepts_its_script(tmp_path: Path, program: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "completion"
    path.write_text(script(program, shell))
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
