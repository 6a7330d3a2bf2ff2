"""The wheel in an environment without the sources: both commands work, with the package's data and the compiled kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# An environment, a compiled kernel and an embedded server.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of an installed wheel. The dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", str(wheel))
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Read for its packages only: the editable installation of the sources is a .pth file there, which is then not read.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_what_is_imported(commands: Path, tmp_path: Path) -> None:
    program = "import importer, loader; print(importer.__file__, loader.__file__)"
    for path in run(str(commands / "python"), "-c", program, cwd=tmp_path).split():
        assert Path(path).is_relative_to(commands.parent)


def test_the_loader_of_the_wheel_imports_a_file_into_the_embedded_database(
    commands: Path, tmp_path: Path
) -> None:
    loader = str(commands / "loader")
    assert run(loader, "--version", cwd=tmp_path).startswith("version ")
    run(loader, "sample", "--rows", "1000", "trips.csv", cwd=tmp_path)
    receipt = run(
        loader,
        "run",
        "trips.csv",
        cwd=tmp_path,
        IMPORTER_DATA_DIR=str(tmp_path / "data"),
        NUMBA_CACHE_DIR=str(tmp_path / "kernels"),
        DATABASE_URL="",
    )
    assert "1,000 published" in receipt
    assert list((tmp_path / "kernels").rglob("*.kernel"))


def test_the_importer_of_the_wheel_makes_its_control_db(commands: Path, tmp_path: Path) -> None:
    importer = str(commands / "importer")
    assert "serve" in run(importer, "--help", cwd=tmp_path)
    program = """if True:
        import asyncio, pathlib
        from importer.store.store import Store

        async def main():
            await (await Store.open(pathlib.Path("control.db"))).close()

        asyncio.run(main())
    """
    run(str(commands / "python"), "-c", program, cwd=tmp_path)
    assert (tmp_path / "control.db").stat().st_size > 0
