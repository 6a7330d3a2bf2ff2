"""Fixtures of most tests: a PostgreSQL per test process, with a fresh database per test."""

from __future__ import annotations

import io
import signal
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psycopg
import pytest
import trustme
from hypothesis import settings

from loader.cli.sample import write_sample
from loader.embedded.server import embedded_server
from tests.support.crashing_postgres import CrashingPostgres
from tests.support.http_server import HttpServer
from tests.support.loader_process import STARTED, Loaders, fresh_database
from tests.support.supervision import SupervisorHarness, supervising

# The first call of a compiled function takes seconds, which must not fail a property test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# nohup ignores SIGHUP, a shell's background job SIGINT, and children inherit that. Tests send both.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

SAMPLE_ROWS = 12_000


@pytest.fixture(autouse=True)
def no_loader_outlives_its_test() -> Generator[None]:
    """Kill processes that a failed test has left running."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    STARTED.clear()


@pytest.fixture(scope="session")
def sample() -> bytes:
    """Return a file of SAMPLE_ROWS realistic trips, about 2 MB."""
    out = io.BytesIO()
    write_sample(out, SAMPLE_ROWS, seed=7)
    return out.getvalue()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Yield the URL of a server for all tests of this test process."""
    with embedded_server(tmp_path_factory.mktemp("postgres")) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # Tests kill processes, not machines: the kernel keeps what the server has written.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture
def crashing_postgres(tmp_path: Path) -> Generator[CrashingPostgres]:
    """Yield a server for this test only, which it may kill."""
    folder = tmp_path / "postgres"
    with embedded_server(folder) as url:
        yield CrashingPostgres(folder, url)


@pytest.fixture
def database_url(postgres: str) -> Generator[str]:
    """Yield the URL of a fresh database; remaining connections are terminated at the end."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture
def loaders(tmp_path: Path, database_url: str) -> Loaders:
    """Return a starter of loaders with small segments and parts, for the test's database."""
    return Loaders(tmp_path, database_url)


@pytest.fixture
def server(sample: bytes) -> Generator[HttpServer]:
    """Yield an HTTP server of the sample."""
    with HttpServer(sample) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio."""
    return "asyncio"


@pytest.fixture
async def harness(tmp_path: Path, database_url: str) -> AsyncGenerator[SupervisorHarness]:
    """Yield a supervisor with two slots that retries at once."""
    async with supervising(tmp_path, database_url) as harness:
        yield harness


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["some steps", "every step"])
def every_step(request: pytest.FixtureRequest) -> bool:
    """Return whether each failpoint is tried, which takes minutes, or only some."""
    return bool(request.param)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return a certificate authority that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority
