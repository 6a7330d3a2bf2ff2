"""What is secret in an address, in the database's URL or in a row stays there, however an import or a command fails."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from loader.contract import ExitCode, FailureCode
from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import ENDED, Json, LiveService, fresh_database
from tests.support.loader_process import STARTED, LoaderProcess, Loaders, query, wait_for
from tests.support.postgres_proxy import Proxy

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

CANARY = "canary7Kq"
HOSTILE = "\x1b]0;forged\x07\x1b[2J\x9b2J\u2028\u202egnihtemos"


def secret_url(server: HttpServer, path: str = "/trips.csv") -> str:
    """Return an address with a secret wherever one may be."""
    origin = server.origin.replace("://", f"://{CANARY}-user:{CANARY}%40password@")
    return f"{origin}{path}?X-Amz-Signature={CANARY}-signature&token={CANARY}%2Ftoken"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    """A service whose database has a password in its URL, and whose libraries log all that they can."""
    with (
        fresh_database(postgres) as database_url,
        Proxy(database_url) as proxy,
        LiveService(
            tmp_path_factory.mktemp("live"),
            proxy.url.replace("postgres@", f"postgres:{CANARY}-password@"),
            {"LIMITED_SERVICE_DEBUG": "1"},
            limited=True,
        ) as live,
    ):
        yield live


def shown(live: LiveService, found: Json) -> str:
    """Return all that anybody may see of an import, its errors and rejects but for the values of bad rows included."""
    log = f"{found['links']['attempts']}/1/log"
    paths = [found["links"]["self"], found["links"]["attempts"], log, "/imports", "/metrics", "/health/ready"]
    if found["state"] in ENDED:  # else it never ends
        paths.append(found["links"]["events"])
    return "\n".join([live.log.read_text(), *(live.client.get(path).text for path in paths)])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404, body=f"<Error><Key>{CANARY}</Key></Error>".encode()),
        Fault(status=302, headers={"Location": f"http://{CANARY}:{CANARY}@localhost:1/x?{CANARY}#{CANARY}"}),
        Fault(status=302, headers={"Location": f"http://{CANARY}@10.0.0.1/?{CANARY}"}),
        Fault(headers={"ETag": f'"{CANARY}'}, before="reset"),
    ],
    ids=["404", "redirect to nobody", "redirect inward", "reset"],
)
def test_an_import_that_fails_shows_no_secret(live: LiveService, server: HttpServer, fault: Fault) -> None:
    server.rule = lambda _: fault
    submitted = live.submit(secret_url(server))
    found = live.get(submitted["id"])
    while found["error"] is None:  # it failed, or waits for its next attempt
        found = live.client.get(submitted["links"]["self"], params={"wait": 30}).json()
    assert CANARY not in shown(live, found)
    live.client.post(submitted["links"]["cancel"])


def test_an_import_that_runs_shows_no_secret(live: LiveService, server: HttpServer, sample: bytes) -> None:
    server.content = sample.replace(b"B03404", f"{CANARY}-row".encode())
    server.rule = lambda request: Fault(before="stall") if (request.first or 0) >= 1_500_000 else None
    submitted = live.submit(secret_url(server), force=True, max_rejects="1")
    live.until_phase(submitted["id"], "loading")
    service = psutil.Process(live.process.pid)
    (loader,) = [each for each in service.children() if "run" in each.cmdline()]
    wait_for(
        "a session", lambda: query(live.database_url, "SELECT FROM pg_stat_activity WHERE query LIKE 'COPY%'")
    )
    sessions = query(
        live.database_url,
        "SELECT application_name, query FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    )
    assert CANARY not in str(sessions)
    assert CANARY not in str([each.cmdline() for each in (service, loader)])
    assert CANARY not in str(loader.environ())
    for each in (service, loader) if sys.platform == "linux" else ():  # others don't show a process's limits
        assert "Max core file size        0 " in Path(f"/proc/{each.pid}/limits").read_text()
    assert CANARY not in shown(live, live.get(submitted["id"]))

    server.rule = lambda _: None
    server.drop_connections()
    assert CANARY not in shown(live, live.until_state(submitted["id"], "succeeded"))
    ledger = query(live.database_url, "SELECT to_jsonb(i)::text FROM loader.import i")
    assert CANARY not in str(ledger)


def test_the_value_of_a_bad_row_is_in_its_error_and_nowhere_else(
    live: LiveService, server: HttpServer, sample: bytes
) -> None:
    header, row, _ = sample.split(b"\n", 2)
    fields = row.split(b",")
    fields[9] = CANARY.encode()  # no number of miles
    server.content = b"\n".join([header, b",".join(fields), b""])
    submitted = live.submit(server.url, force=True)
    error = live.until_state(submitted["id"], "failed")["error"]
    assert (error["code"], error["value"]) == (FailureCode.BAD_ROW, CANARY)
    assert CANARY not in error["message"]
    assert CANARY not in live.log.read_text()
    assert CANARY not in live.client.get("/metrics").text


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path, server: HttpServer) -> None:
    url = f"postgresql://postgres:{CANARY}@127.0.0.1:{closed_port()}/taxi?options=-c%20x.y%3D{CANARY}"
    with LiveService(tmp_path, url, {"LIMITED_SERVICE_DEBUG": "1"}, limited=True) as live:
        submitted = live.submit(server.url)
        ready = live.client.get("/health/ready")
        assert ready.status_code == 503
        assert CANARY not in ready.text + shown(live, live.get(submitted["id"]))
        live.client.post(submitted["links"]["cancel"])
    loader = LoaderProcess(tmp_path, "run", server.url, database_url=url)
    assert loader.failure().failure.code is FailureCode.DATABASE_UNAVAILABLE
    assert CANARY not in loader.stdout + loader.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{CANARY} x@db/taxi",
        f"postgresql://me:{CANARY}%zz@db/taxi",
        f"postgresql://me:{CANARY}/x@db/taxi",
        f"postgresql://me:x@{CANARY}@db/taxi",
        f"postgresql://me@db/taxi?schema={CANARY}",
        f"postgresql+psycopg://me:{CANARY}@db/taxi",
        f"postgresql://me:x?{CANARY}=1/y@db/taxi",
        f"host=db password={CANARY} {CANARY}",
    ],
)
def test_a_database_url_that_can_not_be_read_is_not_repeated(tmp_path: Path, url: str) -> None:
    assert_not_repeated(LoaderProcess(tmp_path, "imports", database_url=url))


def test_a_database_url_that_can_not_be_read_ends_a_run(tmp_path: Path, server: HttpServer) -> None:
    url = f"postgresql://me:{CANARY}/x@db/taxi"
    assert_not_repeated(LoaderProcess(tmp_path, "run", server.url, database_url=url))


def assert_not_repeated(loader: LoaderProcess) -> None:
    assert loader.wait() == ExitCode.USAGE
    assert "The database's URL " in (said := loader.stdout + loader.stderr)
    assert CANARY not in said


def test_a_run_by_hand_shows_no_secret_of_its_address(loaders: Loaders, server: HttpServer) -> None:
    server.rule = lambda _: Fault(body=b"<html>")
    loader = loaders.start("run", secret_url(server))
    loader.failure()
    assert CANARY not in loader.stdout + loader.stderr


# Forged lines


@pytest.mark.parametrize("is_wrong_file", [True, False])
def test_what_a_file_says_moves_no_cursor_and_forges_no_line_on_a_terminal(
    tmp_path: Path, database_url: str, server: HttpServer, sample: bytes, is_wrong_file: bool
) -> None:
    header, rows = sample.split(b"\n", 1)
    hostile = HOSTILE.encode()
    server.etag = '"\x1b[2J"'
    if is_wrong_file:  # shown with its header
        server.content = b",".join([hostile] * 3) + b"\n" + rows
    else:  # published, with a note on one name
        server.content = header.replace(b"tips", b"tips" + hostile) + b"\n" + rows
    text = drawn(tmp_path, "run", server.url, "--progress", "auto", database_url=database_url)
    assert ("header_mismatch" if is_wrong_file else "was read as") in text
    assert_moves_no_cursor(text)


def test_a_row_moves_no_cursor_whatever_command_shows_it_on_a_terminal(
    tmp_path: Path, database_url: str, sample: bytes
) -> None:
    hostile = HOSTILE.encode()
    path = tmp_path / "trips.csv"
    header, row, rows = sample.split(b"\n", 2)
    path.write_bytes(b"\n".join([header, row.replace(b",", hostile + b",", 1), hostile + b",x", rows]))
    checked = drawn(tmp_path, "check", str(path))
    assert_moves_no_cursor(checked)
    assert r"\x1b]0;forged" in checked
    run = drawn(
        tmp_path, "run", str(path), "--progress", "json", "--max-rejects", "1", database_url=database_url
    )
    assert_moves_no_cursor(run)
    import_id = str(query(database_url, "SELECT id FROM loader.import")[0][0])
    for option in ([], ["--json"]):
        listed = drawn(tmp_path, "rejects", import_id, *option, database_url=database_url)
        assert_moves_no_cursor(listed)
        assert "forged" in listed


def test_the_importer_writes_no_reject_that_moves_a_cursor_on_a_terminal(
    live: LiveService, sample: bytes
) -> None:
    header, rows = sample.split(b"\n", 1)
    with HttpServer(b"\n".join([header, HOSTILE.encode() + b",x", rows])) as server:
        import_id = live.submit(server.url, max_rejects="1")["id"]
        live.until_state(import_id, "succeeded")
    for option in ([], ["--json"]):
        terminal, stdout = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "importer", "rejects", import_id, *option],
            env={**os.environ, "IMPORTER_URL": live.url},
            stdout=stdout,
        )
        STARTED.append(process)
        listed = screen_of(terminal, stdout)
        assert process.wait() == 0
        assert_moves_no_cursor(listed)
        assert "forged" in listed


def drawn(folder: Path, *arguments: str, database_url: str | None = None) -> str:
    """Return what a command writes to the terminal that it runs on."""
    terminal, stdout = pty.openpty()
    loader = LoaderProcess(folder, *arguments, database_url=database_url, stdout=stdout, redirected="2>&1")
    text = screen_of(terminal, stdout)
    loader.wait()
    return text


def screen_of(terminal: int, stdout: int) -> str:
    """Return all that is written to a terminal until those who have it open end; `stdout` is our own end of theirs."""
    os.close(stdout)
    written = b""
    with (
        contextlib.closing(os.fdopen(terminal, "rb", buffering=0)) as screen,
        contextlib.suppress(OSError),  # EIO: all that had it open have ended
    ):
        while data := screen.read(65536):
            written += data
    return written.decode()


def assert_moves_no_cursor(text: str) -> None:
    for forbidden in ("\x1b]0", "\x1b[2J", "\x9b2J", "\x07", "\u2028", "\u202e"):
        assert forbidden not in text


def test_a_hostile_address_forges_no_line_of_the_log(live: LiveService, server: HttpServer) -> None:
    before = len(live.log.read_text().splitlines())
    for path in (f"/{HOSTILE}.csv", "/x\n2026-01-01 [info] forged", "/%0A2026-01-01%1B[2J"):
        live.client.post("/imports", json={"url": f"http://localhost:{urlsplit(server.url).port}{path}"})
    live.client.get("/imports/%0Aforged%1B[2J", headers={"Last-Event-ID": "\x1b[2J"})
    lines = live.log.read_text().split("\n")[before:-1]
    assert lines
    assert all(line.startswith("{") and line.isprintable() for line in lines)
