"""The embedded server and its users, all real processes: start, stop, crashes, files, accounts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from loader.cli.sample import write_sample
from loader.contract import ExitCode, FailureCode
from loader.embedded.cluster import LOG_LIMIT_BYTES
from loader.embedded.server import embedded_server
from loader.embedded.user import SERVER_ENVIRONMENT, UNSHARED
from loader.errors import LoaderError

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 60.0
# Uses the server until its stdin ends, and prints its URL.
USER = """
import sys
from pathlib import Path
from loader.embedded.server import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""

# They determine the data folder.
DATA_FOLDER_VARIABLES = ("IMPORTER_DATA_DIR", "XDG_DATA_HOME", "DATABASE_URL")

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root has to become another user, on Linux"
)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


def processes(folder: Path) -> list[psutil.Process]:
    """Return postmaster and guardian of a data folder, which have its path on their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid()
        and any(str(folder) in word for word in process.info["cmdline"] or ())
        and USER not in process.info["cmdline"]
    ]


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # init has not reaped it yet
    except psutil.NoSuchProcess:
        return True


def guardian(folder: Path) -> psutil.Process:
    (found,) = (
        process for process in processes(folder) if "loader.embedded.server" in process.info["cmdline"]
    )
    return found


def postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]))


def start_user(folder: Path, *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", USER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def user(folder: Path, *prefix: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Start a process that uses the server; yield it and the URL it has got."""
    with start_user(folder, *prefix) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    assert process.returncode in (0, -signal.SIGKILL)


def answer(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def change(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with a cluster that does not run."""
    folder = tmp_path_factory.mktemp("made") / "data"
    with embedded_server(folder) as url:
        change(url, "CREATE TABLE kept AS SELECT 42 AS value")
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Generator[Path]:
    """Yield a copy of it for one test, after which none of its processes may run."""
    folder = tmp_path / "data"
    shutil.copytree(made, folder)
    yield folder
    wait_until(lambda: not processes(folder))


def test_data_survive_a_restart_and_no_process_is_left(tmp_path: Path) -> None:
    with embedded_server(tmp_path) as url:
        change(url, "CREATE TABLE kept AS SELECT 42 AS value")
    wait_until(lambda: not processes(tmp_path))
    with embedded_server(tmp_path) as url:
        assert answer(url, "SELECT value FROM kept") == 42


def test_the_server_stops_when_its_last_user_leaves(data: Path) -> None:
    with embedded_server(data) as url:
        with embedded_server(data) as same:
            assert same == url
        server = postmaster(data)
        assert answer(url, "SELECT 1") == 1
    assert has_ended(server)
    assert not (data / "postgres-socket").is_symlink()


def test_the_server_uses_no_network_and_only_its_owner_can_connect(data: Path) -> None:
    with embedded_server(data) as url:
        assert answer(url, "SHOW listen_addresses") == ""
        assert (data / "postgres-socket").stat().st_mode & 0o077 == 0


def test_loads_into_new_tables_are_not_logged_and_all_else_is_durable(data: Path) -> None:
    with embedded_server(data) as url:
        settings = ("wal_level", "fsync", "full_page_writes", "autovacuum", "data_checksums")
        assert [answer(url, f"SHOW {name}") for name in settings] == ["minimal", "on", "on", "on", "on"]


def test_the_terminals_control_c_does_not_reach_the_server(data: Path) -> None:
    with embedded_server(data):
        assert os.getsid(postmaster(data).pid) != os.getsid(0)
        assert os.getsid(guardian(data).pid) != os.getsid(0)


def test_the_server_stops_when_its_last_user_is_killed(data: Path) -> None:
    with user(data) as (process, url):
        assert answer(url, "SELECT value FROM kept") == 42
        process.kill()
    wait_until(lambda: not processes(data))


def test_a_user_that_starts_right_after_the_last_was_killed_gets_a_server(data: Path) -> None:
    for _ in range(5):
        with user(data) as (process, _):
            process.kill()
        with embedded_server(data) as url:
            assert answer(url, "SELECT value FROM kept") == 42


def test_the_server_stays_when_one_of_two_users_is_killed(data: Path) -> None:
    with embedded_server(data) as url:
        server = postmaster(data)
        with user(data) as (process, same):
            assert same == url
            process.kill()
        assert answer(url, "SELECT value FROM kept") == 42
        assert postmaster(data) == server


def test_a_killed_guardian_is_replaced_by_the_next_user(data: Path) -> None:
    with user(data) as (first, _):
        guardian(data).kill()
        wait_until(lambda: len(processes(data)) == 1)
        with user(data) as (second, _):
            first.kill()
            second.kill()
    wait_until(lambda: not processes(data))


def test_five_concurrent_first_starts_make_one_server(tmp_path: Path) -> None:
    users = [start_user(tmp_path) for _ in range(5)]
    urls = {process.stdout.readline() for process in users if process.stdout is not None}
    for process in users:
        process.communicate()
    assert [process.returncode for process in users] == [0] * 5
    assert len(urls) == 1
    assert "postgresql://" in urls.pop()
    wait_until(lambda: not processes(tmp_path))


def test_users_that_start_while_others_leave_always_get_a_server(data: Path) -> None:
    comings = f"""
from pathlib import Path
import psycopg
from loader.embedded.server import embedded_server
for _ in range(12):
    with embedded_server(Path({str(data)!r})) as url, psycopg.connect(url) as connection:
        connection.execute("INSERT INTO kept VALUES (43)")
"""
    users = [subprocess.Popen([sys.executable, "-c", comings]) for _ in range(3)]
    assert [process.wait() for process in users] == [0, 0, 0]
    with embedded_server(data) as url:
        assert answer(url, "SELECT count(*) FROM kept WHERE value = 43") == 36


@pytest.mark.parametrize("name", ['a folder\'s "name", ü', "deep/" * 40 + "folder", "$(false);*"])
def test_the_data_folder_may_have_any_name(made: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(made, folder)
    with embedded_server(folder) as url:
        assert answer(url, "SELECT value FROM kept") == 42
    wait_until(lambda: not processes(folder))


def test_a_killed_server_restarts_with_all_committed_rows(data: Path) -> None:
    with embedded_server(data) as url:
        change(url, "INSERT INTO kept VALUES (43)")
        postmaster(data).kill()
    with embedded_server(data) as url:
        assert answer(url, "SELECT sum(value) FROM kept") == 85


def test_a_killed_server_is_restarted_for_a_new_user_while_others_stay(data: Path) -> None:
    with embedded_server(data) as url:
        server = postmaster(data)
        server.kill()
        wait_until(lambda: has_ended(server))
        with embedded_server(data) as same:
            assert same == url
            assert answer(url, "SELECT value FROM kept") == 42


def test_a_killed_server_is_restarted_for_its_users(data: Path) -> None:
    with embedded_server(data) as url:
        server = postmaster(data)
        server.kill()
        wait_until(lambda: has_ended(server))
        wait_until(lambda: answers(url))
        assert answer(url, "SELECT value FROM kept") == 42


def answers(url: str) -> bool:
    try:
        return answer(url, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def test_the_path_to_the_socket_is_restored_when_temporary_files_are_cleaned(data: Path) -> None:
    with embedded_server(data) as url, psycopg.connect(url) as connected:
        server = postmaster(data)
        path = (data / "postgres-socket").readlink()
        shutil.rmtree(path)
        assert connected.execute("SELECT value FROM kept").fetchone() == (42,)
        wait_until(lambda: answers(url))
        (path / ".s.PGSQL.5432").unlink()
        wait_until(lambda: answers(url))
        assert postmaster(data) == server
        guardian(data).kill()
        wait_until(lambda: len(processes(data)) == 1)
        shutil.rmtree(path)
        with embedded_server(data) as same:
            assert same == url
            assert answers(url)
    assert not path.exists()


def test_a_socket_folder_that_other_users_can_access_is_not_used(data: Path) -> None:
    with embedded_server(data) as url:
        guardian(data).kill()
        wait_until(lambda: len(processes(data)) == 1)
        path = (data / "postgres-socket").readlink()
        shutil.rmtree(path)
        path.mkdir(mode=0o755)
        with embedded_server(data) as another:
            assert another != url
            assert answer(another, "SELECT value FROM kept") == 42
    path.rmdir()


def test_a_copy_of_the_data_folder_gets_its_own_server(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with user(data) as (process, _):
        for killed in (guardian(data), process, postmaster(data)):
            killed.kill()
        wait_until(lambda: not processes(data))
    (data / "postgres" / ".s.PGSQL.5432").unlink()  # which shutil can't copy
    shutil.copytree(data, copy, symlinks=True)
    with embedded_server(data) as url, embedded_server(copy) as url_of_copy:
        change(url_of_copy, "INSERT INTO kept VALUES (43)")
        assert (answer(url, "SELECT sum(value) FROM kept"), url_of_copy != url) == (42, True)
    wait_until(lambda: not processes(copy))


def test_variables_for_other_servers_do_not_affect_the_embedded_one(tmp_path: Path) -> None:
    deep = tmp_path / ("deep/" * 20)
    deep.mkdir(parents=True)
    variables = {
        "PGHOST": "127.0.0.1",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": "somebody",
        "PGDATABASE": "elsewhere",
        "PGPASSFILE": "/nowhere",
        "PGSERVICE": "nothing",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGSSLMODE": "verify-full",
        "PGREQUIREPEER": "somebody",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGTARGETSESSIONATTRS": "standby",
        "PGTZ": "Nowhere/Else",
        "PGDATESTYLE": "none",
        "PGDATA": "/nowhere",
        "LC_ALL": "xx_XX.UTF-8",
        "TZ": "Nowhere/Else",
        "TMPDIR": str(deep),
    }
    source = tmp_path / "trips.csv"
    with source.open("wb") as file:
        write_sample(file, 100, seed=1)
    command = [sys.executable, "-m", "loader", "run", str(source), "--data-dir", str(tmp_path / "data")]
    ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout
    wait_until(lambda: not processes(tmp_path / "data"))


def test_a_read_only_home_is_reported_with_the_variable_to_set() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in DATA_FOLDER_VARIABLES}
    command = [sys.executable, "-m", "loader", "imports"]
    ended = subprocess.run(
        command, env={**environment, "HOME": "/proc"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "IMPORTER_DATA_DIR" in ended.stderr


@needs_root
def test_without_a_home_the_commands_that_need_none_work() -> None:
    prefix = ("unshare", "--user", "--map-user=54321")  # an id without an account
    if subprocess.run([*prefix, "true"], check=False).returncode != 0:
        pytest.skip("this machine does not let processes into a user namespace")
    environment = {name: value for name, value in os.environ.items() if name not in DATA_FOLDER_VARIABLES}
    environment.pop("HOME", None)
    ended = subprocess.run([*prefix, sys.executable, "-m", "loader", "--help"], env=environment, check=False)
    assert ended.returncode == 0


def test_a_process_id_that_was_reused_after_a_reboot_is_ignored(data: Path) -> None:
    with user(data) as (process, _):
        for killed in (guardian(data), process, postmaster(data)):
            killed.kill()
        wait_until(lambda: not processes(data))
    shutil.rmtree((data / "postgres-socket").readlink())
    pid_file = data / "postgres" / "postmaster.pid"
    with subprocess.Popen(["sleep", "600"]) as stranger:  # it has the process id that the server had
        pid_file.write_text("\n".join([str(stranger.pid), *pid_file.read_text().splitlines()[1:]]))
        with embedded_server(data) as url:
            assert answer(url, "SELECT value FROM kept") == 42
        assert stranger.poll() is None
        stranger.kill()


def test_a_first_start_that_is_killed_leaves_no_incomplete_cluster(tmp_path: Path) -> None:
    with start_user(tmp_path) as process:
        wait_until(lambda: any(tmp_path.glob("postgres.new-*/base")))
        process.kill()
    with embedded_server(tmp_path) as url:
        assert answer(url, "SELECT 1") == 1
    assert not any(tmp_path.glob("postgres.new-*"))
    wait_until(lambda: not processes(tmp_path))


def test_the_error_of_a_server_that_can_not_start_quotes_its_log(data: Path) -> None:
    with (data / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("work_mem = 'much'\n")
    with pytest.raises(LoaderError) as raised, embedded_server(data):
        pass
    assert raised.value.code is FailureCode.EMBEDDED_DATABASE
    assert 'invalid value for parameter "work_mem": "much"' in raised.value.failure.message


def test_the_server_reads_the_data_folders_of_any_postgresql_18(data: Path) -> None:
    """The catalog's version determines who can read a cluster; the minor versions of a major one share it."""
    with embedded_server(data) as url:
        assert answer(url, "SELECT catalog_version_no FROM pg_control_system()") == 202506291


def test_a_cluster_of_another_major_version_is_reported_and_kept(data: Path) -> None:
    version = data / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(LoaderError) as raised, embedded_server(data):
        pass
    assert "initialized by PostgreSQL version 17" in raised.value.failure.message
    version.write_text("18\n")
    with embedded_server(data) as url:
        assert answer(url, "SELECT value FROM kept") == 42


def test_a_data_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoaderError) as raised, embedded_server(tmp_path / "file"):
        pass
    assert raised.value.code is FailureCode.EMBEDDED_DATABASE


def test_the_log_has_a_maximum_size(data: Path) -> None:
    log = data / "postgres.log"
    with log.open("ab") as lines:
        lines.write(b"an old line\n" * (LOG_LIMIT_BYTES // 10))
    with embedded_server(data):
        pass
    assert log.stat().st_size < LOG_LIMIT_BYTES


@needs_root
def test_an_ordinary_user_can_run_the_server(tmp_path: Path) -> None:
    # In a user namespace a process of root sees itself as nobody, and so does the loader.
    if subprocess.run([*UNSHARED.prefix, "true"], check=False).returncode != 0:
        pytest.skip("this machine does not let processes into a user namespace")
    with user(tmp_path, *UNSHARED.prefix) as (process, url):
        assert answer(url, "SELECT 1") == 1
        process.kill()
    wait_until(lambda: not processes(tmp_path))


@pytest.fixture
def no_unshare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SERVER_ENVIRONMENT, "PATH", str(tmp_path))


@needs_root
@pytest.mark.usefixtures("no_unshare")
def test_root_without_user_namespaces_runs_the_server_as_nobody() -> None:
    folder = Path(tempfile.mkdtemp())  # other users can't access pytest's folder
    try:
        with embedded_server(folder) as url:
            assert postmaster(folder).uids().effective == 65534
            change(url, "CREATE TABLE kept AS SELECT 42 AS value")
        with embedded_server(folder) as url:
            assert answer(url, "SELECT value FROM kept") == 42
    finally:
        wait_until(lambda: not processes(folder))
        shutil.rmtree(folder)


@needs_root
@pytest.mark.usefixtures("no_unshare")
def test_a_folder_that_only_root_can_access_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(LoaderError) as raised, embedded_server(tmp_path / "data"):
        pass
    assert raised.value.code is FailureCode.EMBEDDED_DATABASE
    assert "ordinary user" in raised.value.failure.hint
    assert not (tmp_path / "data" / "postgres").exists()
