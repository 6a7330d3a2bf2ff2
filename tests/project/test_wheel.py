"""The wheel in an environment without the sources: both commands work, with the package's data and the compiled kernel."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.commands import output_of
from tests.support.paths import ROOT

# An environment, a compiled kernel and an embedded server.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of an installed wheel. The dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    hatchling = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    output_of(hatchling, folder=ROOT)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    output_of([sys.executable, "-m", "venv", "--without-pip", environment])
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", python]
    output_of([*pip, "install", "--no-deps", "--no-index", wheel])
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Read for its packages only: the editable installation of the sources is a .pth file there, which is then not read.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def test_the_wheel_is_what_is_imported(commands: Path, tmp_path: Path) -> None:
    program = "import importer, loader; print(importer.__file__, loader.__file__)"
    for path in output_of([commands / "python", "-c", program], folder=tmp_path).split():
        assert Path(path).is_relative_to(commands.parent)


def test_the_loader_of_the_wheel_imports_a_file_into_the_embedded_database(
    commands: Path, tmp_path: Path
) -> None:
    loader = str(commands / "loader")
    assert output_of([loader, "--version"], folder=tmp_path).startswith("version ")
    output_of([loader, "sample", "--rows", "1000", "trips.csv"], folder=tmp_path)
    environment = {
        "IMPORTER_DATA_DIR": str(tmp_path / "data"),
        "NUMBA_CACHE_DIR": str(tmp_path / "kernels"),
        "DATABASE_URL": "",
    }
    receipt = output_of([loader, "run", "trips.csv"], folder=tmp_path, environment=environment)
    assert "1,000 published" in receipt
    assert list((tmp_path / "kernels").rglob("*.kernel"))


def test_the_importer_of_the_wheel_makes_its_control_db(commands: Path, tmp_path: Path) -> None:
    importer = str(commands / "importer")
    assert "serve" in output_of([importer, "--help"], folder=tmp_path)
    program = """if True:
        import asyncio, pathlib
        from importer.store.store import Store

        async def main():
            await (await Store.open(pathlib.Path("control.db"))).close()

        asyncio.run(main())
    """
    output_of([commands / "python", "-c", program], folder=tmp_path)
    assert (tmp_path / "control.db").stat().st_size > 0
