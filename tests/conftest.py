"""What most tests need: a real PostgreSQL, one for each test process, and a fresh database in it for each test."""

from __future__ import annotations

import io
import signal
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from loader.cli.sample import write_sample
from loader.embedded.server import embedded_server
from tests.support.crashing_postgres import CrashingPostgres
from tests.support.http_server import HttpServer
from tests.support.loader_process import STARTED, Loaders, fresh_database
from tests.support.supervision import SupervisorHarness, supervising

# The first call of a compiled function takes seconds: no property test is slow for that.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Under nohup SIGHUP is ignored, in a shell's background SIGINT. Children inherit that, and heed it; here they are sent both.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

SAMPLE_ROWS = 12_000


@pytest.fixture(autouse=True)
def no_loader_outlives_its_test() -> Generator[None]:
    """Kill what a failed test has left running."""
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
    """A file of SAMPLE_ROWS realistic trips, about 2 MB."""
    out = io.BytesIO()
    write_sample(out, SAMPLE_ROWS, seed=7)
    return out.getvalue()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a server of this test process's own, for all its tests."""
    with embedded_server(tmp_path_factory.mktemp("postgres")) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # Tests kill processes, not machines: what the server has written, the kernel still has.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture
def crashing_postgres(tmp_path: Path) -> Generator[CrashingPostgres]:
    """A server of the test's own, which it may kill: the others would lose theirs."""
    folder = tmp_path / "postgres"
    with embedded_server(folder) as url:
        yield CrashingPostgres(folder, url)


@pytest.fixture
def database_url(postgres: str) -> Generator[str]:
    """The URL of a fresh database; whatever a test leaves connected to it is thrown out in the end."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture
def loaders(tmp_path: Path, database_url: str) -> Loaders:
    """What starts loaders with small segments and parts on the test's database."""
    return Loaders(tmp_path, database_url)


@pytest.fixture
def server(sample: bytes) -> Generator[HttpServer]:
    """The sample's server."""
    with HttpServer(sample) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    """Whoever awaits does it in asyncio."""
    return "asyncio"


@pytest.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncGenerator[SupervisorHarness]:
    """A supervisor of two slots, which tries again at once."""
    async with supervising(tmp_path, database_url) as scene:
        yield scene


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["some steps", "every step"])
def every_step(request: pytest.FixtureRequest) -> bool:
    """Whether a failpoint is tried at each step, which takes minutes, or at some."""
    return bool(request.param)
