"""Each faulty request, and each fault of the service, is answered with a problem that explains it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sqlite3
from collections.abc import Generator
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from litestar.exceptions import HTTPException
from psycopg import sql

from importer.api.exception_handlers import as_problem
from importer.api.problems import ProblemCode
from importer.store.errors import StoreCorrupt, StoreError, StoreFull
from loader.contract import FailureCode
from loader.errors import LoaderError
from tests.support.http_server import HttpServer
from tests.support.live_service import LiveService, assert_problem
from tests.support.loader_process import wait_for

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
UNKNOWN = "0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d"


@pytest.fixture
def control_db(service: LiveService) -> Generator[sqlite3.Connection]:
    """A connection to the service's control DB, as another program may open it."""
    path = service.folder / "importer.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b'{"url": "\\ud800"}', None),
        (b"[" * 60_000, None),
        (b'{"url":' * 8_000, None),
        (b"null", None),
        (b"[]", None),
        (b"{}", "url"),
        (b'{"url": null}', "url"),
        (b'{"url": ""}', "url"),
        (b'{"url": "http://localhost/%s"}' % (b"a" * 8000), "url"),
        (b'{"url": "http://localhost/", "mode": "truncate"}', "mode"),
        (b'{"url": "http://localhost/", "max_rejects": 5}', "max_rejects"),
        (b'{"url": "http://localhost/", "max_rejects": "-1"}', "max_rejects"),
        (b'{"url": "http://localhost/", "max_rejects": "101%"}', "max_rejects"),
        (b'{"url": "http://localhost/", "max_rejects": "1\\n"}', "max_rejects"),
        (b'{"url": "http://localhost/", "workers": 0}', "workers"),
        (b'{"url": "http://localhost/", "workers": "2"}', "workers"),
        (b'{"url": "http://localhost/", "force": 1}', "force"),
        (b'{"url": "http://localhost/", "database_url": "postgresql://elsewhere"}', "database_url"),
    ],
)
def test_an_invalid_body_is_refused_and_the_problem_names_the_field(
    service: LiveService, body: bytes, field: str | None
) -> None:
    answer = service.client.post("/imports", content=body, headers=JSON)
    problem = assert_problem(answer, 400, "invalid_request")
    assert [error["field"] for error in problem.get("errors", [])] == ([] if field is None else [field])


def test_a_missing_body_is_called_missing(service: LiveService) -> None:
    answer = service.client.post("/imports", headers=JSON)
    assert "has no body" in assert_problem(answer, 400, "invalid_request")["detail"]


def test_the_problem_of_an_unknown_value_lists_the_known_ones(service: LiveService) -> None:
    answers = {
        "mode: Expected append or replace": service.client.post(
            "/imports", json={"url": "http://localhost/", "mode": "truncate"}
        ),
        "rows: Expected drop": service.client.delete(f"/imports/{UNKNOWN}?rows=keep"),
    }
    for expected, answer in answers.items():
        assert expected in assert_problem(answer, 400, "invalid_request")["detail"]


def test_the_problem_of_a_body_has_each_of_its_errors(service: LiveService) -> None:
    answer = service.client.post("/imports", json={"max_rejects": 5, "workers": 0, "delimiter": ";"})
    problem = assert_problem(answer, 400, "invalid_request")
    errors = {error["field"]: error["message"] for error in problem["errors"]}
    assert set(errors) == {"url", "max_rejects", "workers", "delimiter"}
    assert "percentage" in errors["max_rejects"]
    assert "max_rejects" in errors["delimiter"]
    assert all(message in problem["detail"] for message in errors.values())


@pytest.mark.parametrize(
    "url",
    [
        "trips.csv",
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/trips.csv",
        "ftp://localhost/trips.csv",
        "http://",
        "http:///trips.csv",
        "http://local host/",
        "http://localhost/a b",
        "http://localhost/\r\nX-Injected: yes",
        "http://localhost\\@169.254.169.254/",
        "http://localhost:99999/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://" + "a" * 64 + ".example/",
    ],
)
def test_an_invalid_url_is_refused_at_once(service: LiveService, url: str) -> None:
    answer = service.client.post("/imports", json={"url": url})
    assert url not in assert_problem(answer, 422, "invalid_url")["detail"]


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "text/json"]
)
def test_a_body_with_another_content_type_is_refused(service: LiveService, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = service.client.post("/imports", content=b'{"url": "http://localhost/"}', headers=headers)
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(service: LiveService) -> None:
    body = json.dumps({"url": "http://localhost/" + "a" * 70_000}).encode()
    assert_problem(service.client.post("/imports", content=body, headers=JSON), 413, "body_too_large")
    answer = service.client.post("/imports", content=iter([body[:50_000], body[50_000:]]), headers=JSON)
    assert_problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=done", "state"),
        ("state=queued,done", "state"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=many", "limit"),
        ("cursor=12", "cursor"),
        ("cursor=AAAAAAAAAA%0A", "cursor"),
        ("cursor=AAAAAAAAAA!", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAA", "cursor"),
        ("cursor=%C3%A4", "cursor"),
    ],
)
def test_the_problem_of_an_invalid_parameter_has_its_name(
    service: LiveService, query: str, field: str
) -> None:
    problem = assert_problem(service.client.get(f"/imports?{query}"), 400, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert field in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "field", "listed"),
    [
        ("GET", "/imports?sate=failed&limit=2", "sate", "takes state, label, limit, cursor"),
        ("GET", "/imports?in_state=failed", "in_state", "takes state, label, limit, cursor"),
        ("GET", "/imports?limit%20", "limit ", "takes state, label, limit, cursor"),
        ("GET", "/imports?%FF%00=1", "\ufffd\0", "takes state, label, limit, cursor"),
        ("GET", f"/imports/{UNKNOWN}?wiat=30", "wiat", "takes wait, after"),
        ("POST", "/imports?mode=replace", "mode", "takes no parameters"),
        ("DELETE", f"/imports/{UNKNOWN}?force=true", "force", "takes rows"),
        ("GET", f"/imports/{UNKNOWN}/rejects?format=csv", "format", "takes no parameters"),
        ("GET", f"/imports/{UNKNOWN}/attempts?wait=1", "wait", "takes limit, cursor"),
        ("GET", "/health/ready?verbose", "verbose", "takes no parameters"),
    ],
)
def test_the_problem_of_an_unknown_parameter_lists_the_known_ones(
    service: LiveService, method: str, path: str, field: str, listed: str
) -> None:
    problem = assert_problem(service.client.request(method, path), 400, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert listed in problem["detail"]
    assert f"{field!a}" in problem["detail"]


@pytest.mark.parametrize("path", ["/metrics?name[]=up", "/schema/?url=x", "/schema/openapi.json?v=1"])
def test_a_path_outside_the_document_allows_any_query(service: LiveService, path: str) -> None:
    assert service.client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/cancel"), ("DELETE", ""), ("GET", ""), ("GET", "/attempts")]
)
def test_a_body_that_an_operation_does_not_take_is_refused(
    service: LiveService, method: str, path: str
) -> None:
    answer = service.client.request(method, f"/imports/{UNKNOWN}{path}", json={"rows": "drop"})
    assert "takes none" in assert_problem(answer, 400, "invalid_request")["detail"]


def test_the_problem_of_an_invalid_header_has_its_name(service: LiveService) -> None:
    headers = {"Idempotency-Key": "k" * 256}
    answer = service.client.post("/imports", json={"url": "http://localhost/"}, headers=headers)
    problem = assert_problem(answer, 400, "invalid_request")
    assert problem["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "soon"])
def test_a_wait_out_of_range_is_refused(service: LiveService, wait: str) -> None:
    answer = service.client.get(f"/imports/{UNKNOWN}", params={"wait": wait})
    assert_problem(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    "path",
    ["/import", f"/imports/{UNKNOWN}/cancel/now", "/schema/x", "/schema/assets/..%2fx"],
)
def test_an_unknown_path_is_a_problem(service: LiveService, path: str) -> None:
    assert_problem(service.client.get(path), 404, "path_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/imports", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("PATCH", f"/imports/{UNKNOWN}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("GET", f"/imports/{UNKNOWN}/cancel", {"POST", "OPTIONS"}),
        ("TRACE", "/health/live", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/metrics", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_the_problem_of_a_wrong_method_lists_the_allowed_ones(
    service: LiveService, method: str, path: str, allowed: set[str]
) -> None:
    answer = service.client.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/imports", "GET, HEAD, OPTIONS, POST"),
        (f"/imports/{UNKNOWN}", "DELETE, GET, HEAD, OPTIONS"),
        ("/health/live", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_lists_all_methods_of_a_path(service: LiveService, path: str, allowed: str) -> None:
    answer = service.client.options(path)
    assert (answer.status_code, answer.headers["allow"]) == (204, allowed)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "elsewhere", ""])
def test_a_host_header_changes_no_link(service: LiveService, host: str) -> None:
    answer = service.client.get("/imports?limit=1", headers={"Host": host})
    assert answer.status_code == 200
    assert not host or host not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/imports"),
        ("POST", "/imports"),
        ("DELETE", f"/imports/{UNKNOWN}"),
        ("OPTIONS", "/imports"),
        ("GET", "/health/live"),
        ("GET", "/metrics"),
        ("GET", "/schema/"),
        ("GET", "/schema/openapi.json"),
    ],
)
def test_a_request_with_the_name_of_another_host_is_refused(
    service: LiveService, method: str, path: str
) -> None:
    answer = service.client.request(method, path, headers={"Host": "evil.example:8000"})
    problem = assert_problem(answer, 421, "unknown_host")
    assert "IMPORTER_SERVER_NAMES" in problem["hint"]


def test_bytes_that_are_not_http_do_no_harm(service: LiveService) -> None:
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.sendall(b"\x16\x03\x01\x00\xff hello\r\n\r\n")
        with contextlib.suppress(http.client.HTTPException, OSError):
            assert connection.getresponse().status == 400
    assert service.client.get("/health/live").status_code == 200


def test_a_locked_control_db_is_a_problem_with_retry_after(
    service: LiveService, control_db: sqlite3.Connection
) -> None:
    control_db.execute("BEGIN IMMEDIATE")
    answer = service.client.post("/imports", json={"url": "http://localhost/locked.csv"})
    assert_problem(answer, 503, "control_db_busy")
    assert int(answer.headers["retry-after"]) >= 1
    assert service.client.get("/imports").status_code == 200
    control_db.execute("ROLLBACK")
    with HttpServer(b"") as nothing:
        service.submit(nothing.url)


def test_a_defect_is_a_problem_whose_instance_is_in_the_log(
    service: LiveService, control_db: sqlite3.Connection
) -> None:
    control_db.execute(
        "CREATE TRIGGER defect BEFORE INSERT ON import BEGIN SELECT raise(ABORT, 'canary'); END"
    )
    answer = service.client.post("/imports", json={"url": "http://localhost/trips.csv"})
    control_db.execute("DROP TRIGGER defect")
    instance = assert_problem(answer, 500, "internal_error")["instance"]
    assert "canary" not in answer.text
    logged = [event for event in service.events() if event.get("instance") == instance]
    assert [event["event"] for event in logged] == ["request failed"]
    assert "Traceback" in logged[0]["exception"]


def test_a_damaged_row_of_the_control_db_is_reported_without_its_secrets(
    service: LiveService, control_db: sqlite3.Connection
) -> None:
    with HttpServer(b"") as nothing:
        ended = service.until_state(service.submit(nothing.url)["id"], "failed")
    damaged = "UPDATE import SET job = CAST(x'736563726574ff' AS TEXT) WHERE id = ?"  # secret, and no UTF-8
    job = control_db.execute("SELECT job FROM import WHERE id = ?", [ended["id"]]).fetchone()[0]
    control_db.execute(damaged, [ended["id"]])
    answer = service.client.get(ended["links"]["self"])
    control_db.execute("UPDATE import SET job = ? WHERE id = ?", [job, ended["id"]])
    problem = assert_problem(answer, 500, "control_db_unusable")
    assert "is damaged" in problem["detail"]
    assert [event["event"] for event in service.events() if event.get("instance") == problem["instance"]]
    assert "secret" not in answer.text + service.log.read_text()
    assert service.get(ended["id"])["state"] == "failed"


def test_a_database_that_is_away_is_reported_by_readiness_and_rejects(
    service: LiveService, postgres: str
) -> None:
    with HttpServer(b"") as nothing:
        ended = service.until_state(service.submit(nothing.url)["id"], "failed")
    name = sql.Identifier(urlsplit(service.database_url).path[1:])
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        try:

            def probe() -> httpx.Response | None:
                answer = service.client.get("/health/ready")
                return None if answer.status_code == 200 else answer

            problem = assert_problem(wait_for("the probe to look again", probe), 503, "not_ready")
            assert "ALLOW_CONNECTIONS" in problem["detail"]  # the hint
            assert service.metric("importer_database_up") == 0
            answer = service.client.get(f"/imports/{ended['id']}/rejects")
            assert_problem(answer, 503, "database_unavailable")
            assert service.client.get("/health/live").status_code == 200
            assert service.get(ended["id"])["state"] == "failed"
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    wait_for("the database", lambda: service.metric("importer_database_up") == 1)


def test_a_database_that_refuses_a_query_is_reported_with_a_hint(service: LiveService, sample: bytes) -> None:
    with HttpServer(sample) as source:
        ended = service.until_state(service.submit(source.url)["id"], "succeeded")
    name, role = urlsplit(service.database_url).path[1:], f"stranger_{os.getpid()}"
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}".encode())
        connection.execute(f"ALTER DATABASE {name} SET role = {role}".encode())
        try:
            answer = service.client.get(ended["links"]["rejects"])
        finally:
            connection.execute(f"ALTER DATABASE {name} RESET role".encode())
            connection.execute(f"DROP ROLE {role}".encode())
    problem = assert_problem(answer, 503, "database_unavailable")
    assert "lacks a right" in problem["detail"]
    assert "Grant it" in problem["hint"]
    assert service.client.get(ended["links"]["rejects"]).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreFull("full", "hint"), 507, ProblemCode.CONTROL_DB_FULL),
        (StoreCorrupt("damaged", "hint"), 500, ProblemCode.CONTROL_DB_UNUSABLE),
        (StoreError("unreadable", "hint"), 500, ProblemCode.CONTROL_DB_UNUSABLE),
        (LoaderError(FailureCode.OUT_OF_SPACE, "full", "hint"), 503, ProblemCode.DATABASE_UNAVAILABLE),
        (LoaderError(FailureCode.INTERNAL_ERROR, "a defect", "hint"), 500, ProblemCode.INTERNAL_ERROR),
        (HTTPException(status_code=418), 500, ProblemCode.INTERNAL_ERROR),
        (MemoryError(), 500, ProblemCode.INTERNAL_ERROR),
    ],
)
def test_each_exception_becomes_a_problem(error: Exception, status: int, code: str) -> None:
    converted = as_problem(error)
    assert (converted.problem.status, converted.problem.code) == (status, code)
    assert ("Retry-After" in (converted.headers or {})) == (status == 503)
