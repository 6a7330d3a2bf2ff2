"""The command `importer`, as a real process: the service, and the client commands."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from importer.cli import client
from importer.cli.parser import EXAMPLES
from importer.model import State
from loader.contract import ExitCode
from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import Json, LiveService, fresh_database
from tests.support.loader_process import DEADLINE_SECONDS, STARTED, row_count, wait_for
from tests.support.mid_load import resume_serving, stall_after_probe

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

UNKNOWN_ID = "01a2053c-7c4c-725d-8fb9-4b5c499349a0"


@pytest.fixture(scope="module")
def live(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveService]:
    """A service that tests share and do not stop."""
    with (
        fresh_database(postgres) as database_url,
        LiveService(tmp_path_factory.mktemp("service"), database_url) as live,
    ):
        yield live


def command(*arguments: str, url: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `importer` until it exits; `url`: of the service."""
    return subprocess.run(
        [sys.executable, "-m", "importer", *arguments],
        env={**os.environ, "IMPORTER_URL": url, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def start(*arguments: str, url: str, out: Path) -> subprocess.Popen[bytes]:
    """Start `importer` with its output in a file."""
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "importer", *arguments],
            env={**os.environ, "IMPORTER_URL": url},
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )
    STARTED.append(process)
    return process


def submitted(live: LiveService, server: HttpServer, *options: str) -> str:
    """Submit the server's file with the command; return the id of the import."""
    shown = command("submit", server.url, "--json", *options, url=live.url)
    assert shown.returncode == 0, shown.stderr
    return str(json.loads(shown.stdout)["id"])


def json_lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.split("\n") if line]


def test_a_submitted_import_is_watched_to_its_receipt(live: LiveService, server: HttpServer) -> None:
    shown = command("submit", server.url, "--watch", "--json", url=live.url)
    assert shown.returncode == 0, shown.stderr
    seen = json_lines(shown.stdout)
    assert seen[-1]["state"] == "succeeded"
    assert seen[-1]["receipt"]["rows_published"] == 12_000
    assert all((each["progress"]["percent"] or 0) < 100 for each in seen[:-1])

    status = command("status", seen[-1]["id"], url=live.url)
    assert status.returncode == 0
    assert "12,000 parsed - 0 rejected = 12,000 copied = 12,000 published" in status.stdout
    assert server.url in status.stdout


def test_the_workers_of_a_submitted_import_reach_its_loader(tmp_path: Path, database_url: str) -> None:
    environment = {"LIMITED_SERVICE_LOADER": "misbehaving_loader.py", "IMPORTER_WORKERS": "1"}
    with LiveService(tmp_path, database_url, environment, limited=True) as live:
        for options, workers in (["--workers", "3"], 3), ([], 1):
            shown = command("submit", "http://localhost/quotes_its_job", "--json", *options, url=live.url)
            submitted = json.loads(shown.stdout)
            ended = live.until_state(submitted["id"], "failed")
            assert ended["workers"] == (3 if options else None)
            log = live.client.get(f"{ended['links']['attempts']}/1/log").text
            assert f'"workers":{workers},' in log


@pytest.mark.slow
def test_after_a_replace_trips_has_the_new_rows_only(live: LiveService, server: HttpServer) -> None:
    for _ in range(2):
        assert command("submit", server.url, "--replace", "--watch", url=live.url).returncode == 0
    assert row_count(live.database_url) == 12_000


def test_on_a_terminal_a_bar_is_drawn(live: LiveService, server: HttpServer) -> None:
    import_id = submitted(live, server, "--force")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "importer", "watch", import_id],
        env={**os.environ, "IMPORTER_URL": live.url, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    STARTED.append(process)
    os.close(theirs)
    shown = bytearray()
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # EIO: no process has the other side open (pty(7) on Linux)
        pass
    os.close(ours)
    assert process.wait(DEADLINE_SECONDS) == 0
    text = shown.decode()
    assert f"import {import_id}: {server.url}" in text
    assert "succeeded" in text
    assert "100.0%" in text
    assert "12,000 published" in text


def test_watch_of_a_failed_import_has_the_reason_and_the_loaders_exit_code(
    live: LiveService, sample: bytes
) -> None:
    # str.splitlines splits at U+2028, and JSON does not escape it
    broken = re.sub(rb"(\n\w+,\w+,\w*,)", "\\1\u2028".encode(), sample, count=1)
    with HttpServer(broken) as server:
        shown = command("submit", server.url, "--watch", url=live.url)
    assert shown.returncode == ExitCode.DATA, shown.stderr
    first, *_, last = re.findall(r"^[\d-]+ [\d:]+ (.*)$", shown.stderr, re.MULTILINE)  # a line per change
    assert (first.split(": ")[1], last.split()[0]) == (server.url, "failed")
    assert "bad_row: " in shown.stderr
    assert "\\u2028" in shown.stderr
    assert "  next: " in shown.stderr

    listed = command("list", "--state", "failed", url=live.url)
    assert listed.returncode == 0
    assert server.url in listed.stdout
    assert {each["state"] for each in json_lines(command("list", "--json", url=live.url).stdout)} >= {
        "failed"
    }


def test_cancel_waits_for_the_roll_back(live: LiveService, server: HttpServer, tmp_path: Path) -> None:
    server.rule = stall_after_probe
    import_id = submitted(live, server, "--force")
    watching = start("watch", import_id, url=live.url, out=tmp_path / "watch")
    live.until_phase(import_id, "loading")

    shown = command("cancel", import_id, "--wait", url=live.url)
    assert shown.stdout == f"import {import_id}: cancelled\n"
    assert shown.returncode == 0
    assert watching.wait(DEADLINE_SECONDS) == ExitCode.TERMINATED
    assert "cancelled, no rows are left" in (tmp_path / "watch").read_text()
    assert command("cancel", import_id, url=live.url).returncode == 0  # a second cancel changes nothing


@pytest.mark.slow
def test_a_succeeded_import_can_not_be_cancelled(live: LiveService, server: HttpServer) -> None:
    import_id = submitted(live, server, "--force")
    live.until_state(import_id, "succeeded")
    shown = command("cancel", import_id, url=live.url)
    assert shown.returncode == ExitCode.USAGE
    assert shown.stderr.startswith("wrong_state: ")
    assert "succeeded" in shown.stderr


@pytest.mark.slow
def test_a_failed_import_is_retried(live: LiveService, server: HttpServer) -> None:
    server.rule = lambda _: Fault(status=404)
    import_id = submitted(live, server, "--force")
    assert command("watch", import_id, url=live.url).returncode == ExitCode.SOURCE
    assert "source_not_found: " in command("status", import_id, url=live.url).stdout

    server.rule = lambda _: None
    assert command("retry", import_id, url=live.url).returncode == 0
    assert command("watch", import_id, url=live.url).returncode == 0


@pytest.mark.slow
def test_status_and_watch_show_why_an_import_waits(
    live: LiveService, server: HttpServer, tmp_path: Path
) -> None:
    server.rule = lambda _: Fault(status=503)
    import_id = submitted(live, server, "--force")
    watching = start("watch", import_id, url=live.url, out=tmp_path / "watch")
    why = " failed: source_unreachable: "  # shown between attempts
    wait_for("a failed attempt", lambda: why in command("status", import_id, url=live.url).stdout)
    server.rule = lambda _: None
    assert watching.wait(DEADLINE_SECONDS) == 0
    shown = (tmp_path / "watch").read_text()
    assert f"attempt 1{why}" in shown
    assert "  next: attempt 2 at " in shown


@pytest.mark.slow
def test_rejects_are_written_as_csv_or_with_their_reasons(live: LiveService, sample: bytes) -> None:
    header, first, rest = sample.split(b"\n", 2)
    bad = first.replace(b",", b";", 3)
    with HttpServer(b"\n".join([header, bad, rest])) as server:
        import_id = submitted(live, server, "--max-rejects", "0.1%", "--force")
        live.until_state(import_id, "succeeded")
    listed = command("rejects", import_id, url=live.url)
    assert listed.returncode == 0
    assert listed.stdout.encode() == b"\n".join([header, bad, b""])
    (reject,) = json.loads(command("rejects", import_id, "--json", url=live.url).stdout)
    assert reject["line"] == 2
    assert reject["reason"]


def answered(import_id: str, answer: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run `importer remove` at a terminal, where a person types an answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        return subprocess.run(
            [sys.executable, "-m", "importer", "remove", import_id],
            env={**os.environ, "IMPORTER_URL": url},
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.slow
def test_a_removal_at_a_terminal_asks_before_it_drops_rows(live: LiveService, server: HttpServer) -> None:
    import_id = submitted(live, server, "--force")
    live.until_state(import_id, "succeeded")
    before = row_count(live.database_url)
    for answer in ("n\n", "\n", "\x04"):  # the last: the end of the input
        refused = answered(import_id, answer, live.url)
        assert refused.returncode == ExitCode.USAGE
        assert "has 12,000 rows in trips. Remove them? [y/N]" in refused.stderr
        assert refused.stderr.endswith("Nothing is removed.\n")
        assert live.get(import_id)["state"] == "succeeded"
    assert answered(import_id, "yes\n", live.url).stdout == f"import {import_id}: removing\n"
    live.until_gone(import_id)
    assert row_count(live.database_url) == before - 12_000


@pytest.mark.slow
def test_a_removal_without_rows_asks_nothing(live: LiveService) -> None:
    import_id = command("submit", "http://localhost:1/none.csv", "--json", url=live.url).stdout
    import_id = json.loads(import_id)["id"]
    command("cancel", import_id, "--wait", url=live.url)
    assert command("remove", import_id, url=live.url).stdout == f"import {import_id}: removing\n"


@pytest.mark.slow
def test_a_removed_import_is_no_longer_found(live: LiveService, server: HttpServer) -> None:
    import_id = submitted(live, server, "--force")
    live.until_state(import_id, "succeeded")
    before = row_count(live.database_url)
    refused = command("remove", import_id, url=live.url)
    assert refused.returncode == ExitCode.USAGE
    assert "12,000 rows" in refused.stderr
    assert refused.stderr.startswith("has_rows: ")
    assert "--yes" in refused.stderr
    assert live.get(import_id)["state"] == "succeeded"
    assert command("remove", import_id, "--yes", url=live.url).stdout == f"import {import_id}: removing\n"
    live.until_gone(import_id)
    assert row_count(live.database_url) == before - 12_000
    shown = command("watch", import_id, url=live.url)
    assert shown.returncode == ExitCode.USAGE
    assert shown.stderr.startswith("import_not_found: ")


@pytest.mark.slow
def test_two_submits_with_one_idempotency_key_make_one_import(live: LiveService, server: HttpServer) -> None:
    ids = {submitted(live, server, "--force", "--idempotency-key", "one") for _ in range(2)}
    assert len(ids) == 1
    other = command("submit", server.url, "--idempotency-key", "one", url=live.url)
    assert other.returncode == ExitCode.USAGE
    assert other.stderr.startswith("idempotency_conflict: ")
    live.until_state(ids.pop(), "succeeded")


@pytest.mark.parametrize("key", ["März", "one\ntwo", " one", "one ", ""])
def test_an_invalid_idempotency_key_is_refused(key: str) -> None:
    shown = command(
        "submit", "http://localhost/trips.csv", "--idempotency-key", key, url="http://127.0.0.1:1"
    )
    assert shown.returncode == ExitCode.USAGE
    assert shown.stderr.startswith(f"usage: The idempotency key {key!a} ")
    assert len(shown.stderr.splitlines()) == 2


def test_ctrl_c_ends_the_watch_and_not_the_import(
    live: LiveService, server: HttpServer, tmp_path: Path
) -> None:
    server.rule = stall_after_probe
    import_id = submitted(live, server, "--force")
    watching = start("watch", import_id, url=live.url, out=tmp_path / "watch")
    wait_for("the watch", lambda: import_id in (tmp_path / "watch").read_text())
    watching.send_signal(signal.SIGINT)
    assert watching.wait(DEADLINE_SECONDS) == ExitCode.INTERRUPTED
    assert f"importer cancel {import_id}" in (tmp_path / "watch").read_text()
    assert live.get(import_id)["state"] in ("queued", "running")
    assert command("cancel", import_id, "--wait", url=live.url).returncode == 0


@pytest.mark.slow
def test_watch_reconnects_after_a_restart_of_the_service(
    database_url: str, server: HttpServer, tmp_path: Path
) -> None:
    server.rule = stall_after_probe
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {"IMPORTER_PORT": port}
    with LiveService(tmp_path, database_url, environment) as service:
        import_id = submitted(service, server)
        watching = start("watch", import_id, "--json", url=service.url, out=tmp_path / "watch")
        service.until_phase(import_id, "loading")
        wait_for("the watch", lambda: "loading" in (tmp_path / "watch").read_text())
    assert watching.poll() is None
    resume_serving(server)
    with LiveService(tmp_path, database_url, environment):
        assert watching.wait(DEADLINE_SECONDS) == 0
    seen = json_lines((tmp_path / "watch").read_text())
    assert seen[-1]["state"] == "succeeded"
    assert row_count(database_url) == 12_000


class Clock:
    """Replaces the module `time` in the client: tests set its clock."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.now = 0.0
        self.readings = 0

    def monotonic(self) -> float:
        self.readings += 1
        return self.now


@pytest.mark.slow
def test_the_reconnect_limit_counts_from_the_loss_of_the_connection(
    database_url: str, server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.rule = lambda _: Fault(before="stall")
    with socket.create_server(("127.0.0.1", 0)) as free:
        environment = {"IMPORTER_PORT": str(free.getsockname()[1]), "IMPORTER_SLOTS": "1"}
    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    with ThreadPoolExecutor(1) as thread, contextlib.ExitStack() as stack:
        with LiveService(tmp_path, database_url, environment) as live:
            running, queued = (live.submit(server.url, force=True) for _ in range(2))
            live.until_phase(running["id"], "probing")
            watching = stack.enter_context(client.Client(live.url))
            of_running, of_queued = (watching.watch(UUID(each["id"])) for each in (running, queued))
            assert [next(of_running).state, next(of_queued).state] == [State.RUNNING, State.QUEUED]
        clock.now += 1000  # seconds without a change
        readings = clock.readings
        news = thread.submit(next, of_queued)
        wait_for("a reconnect that fails", lambda: clock.readings > readings)
        with LiveService(tmp_path, database_url, environment) as live:
            live.client.post(queued["links"]["cancel"])
            assert news.result(DEADLINE_SECONDS).state is State.CANCELLED
        readings = clock.readings
        rest = thread.submit(list, of_running)
        wait_for("another one", lambda: clock.readings > readings)
        clock.now += 300
        with pytest.raises(client.Unavailable):
            rest.result(DEADLINE_SECONDS)


def test_without_a_service_the_error_says_how_to_start_one() -> None:
    shown = command("list", url="http://127.0.0.1:1")
    assert shown.returncode == ExitCode.DATABASE_UNAVAILABLE
    assert "http://127.0.0.1:1" in shown.stderr
    assert "importer serve" in shown.stderr


def test_another_server_is_not_mistaken_for_the_service(server: HttpServer) -> None:
    shown = command("status", UNKNOWN_ID, "--server", server.origin)
    assert shown.returncode == ExitCode.DATABASE_UNAVAILABLE
    assert shown.stderr.startswith("unexpected_answer: ")


def test_a_password_in_the_url_of_the_service_is_not_shown() -> None:
    shown = command("list", "--server", "http://me:canary@127.0.0.1:1")
    assert "http://127.0.0.1:1 " in shown.stderr
    assert "canary" not in shown.stderr


@pytest.mark.parametrize("url", ["http://[::", "http://127..0.0.1", f"http://{'a' * 64}.example"])
def test_an_invalid_url_of_the_service_is_refused(url: str) -> None:
    shown = command("list", "--server", url)
    assert shown.returncode == ExitCode.USAGE
    assert shown.stderr.startswith("usage: ")


def test_the_service_does_not_start_with_invalid_settings() -> None:
    shown = command("serve", "--port", "x", IMPORTER_SLOTS="0")
    assert shown.returncode == ExitCode.CONFIGURATION
    assert "IMPORTER_PORT" in shown.stderr
    assert "IMPORTER_SLOTS" in shown.stderr


@pytest.mark.parametrize("host", ["127..0.0.1", "a" * 64])
def test_the_service_does_not_start_with_an_invalid_host(tmp_path: Path, host: str) -> None:
    shown = command("serve", "--port", "0", "--data-dir", str(tmp_path), IMPORTER_HOST=host)
    assert shown.returncode == ExitCode.CONFIGURATION
    assert f"can't listen at {host}" in shown.stderr
    assert "IMPORTER_HOST" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_the_service_does_not_start_on_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shown = command("serve", "--port", port, "--data-dir", str(tmp_path))
    assert shown.returncode == ExitCode.CONFIGURATION
    assert port in shown.stderr
    assert "--port" in shown.stderr


def test_the_service_does_not_start_with_an_unusable_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shown = command("serve", "--port", "0", "--data-dir", str(tmp_path / "file"))
    assert shown.returncode == ExitCode.CONFIGURATION
    assert "--data-dir" in shown.stderr


def test_a_second_service_on_the_same_data_folder_does_not_start(live: LiveService) -> None:
    shown = command("serve", "--port", "0", "--data-dir", str(live.folder), DATABASE_URL=live.database_url)
    assert shown.returncode == ExitCode.CONFIGURATION
    assert "Another service" in shown.stderr
    assert live.client.get("/health/ready").status_code == 200


def test_the_service_announces_its_url_and_logs_its_versions(live: LiveService) -> None:
    assert re.search(
        rf"^importer serves {live.url}; .* {live.url}/schema$", live.log.read_text(), re.MULTILINE
    )
    assert live.client.get("/schema").status_code == 200
    (started,) = [event for event in live.events() if event["event"] == "service started"]
    for name in ("version", "python", "postgresql", "libpq", "openssl", "sqlite"):
        assert re.search(r"\d+\.\d+", started[name]), name
    assert started["database"].startswith("embedded, in /")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name])
def test_the_help_of_a_command_has_examples(name: str) -> None:
    shown = command(name, "--help")
    assert shown.returncode == 0
    assert f"  importer {name}" in shown.stdout.split("examples:")[1]


def test_the_help_lists_the_commands_and_exit_codes() -> None:
    shown = command("--help").stdout
    assert {name for name in EXAMPLES if name} == set(
        re.findall(r"^  (\w+)  ", shown.split("options:")[0], re.MULTILINE)
    )
    listed = {int(code) for code in re.findall(r"\b(\d+) ", shown.split("exit codes:")[1])}
    assert listed == {code.value for code in ExitCode}


def test_list_knows_every_state() -> None:
    assert all(state in command("list", "--help").stdout for state in State)
