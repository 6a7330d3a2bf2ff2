"""The operations of the API, on a live service with real loaders."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS
from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import ENDED, Json, LiveService, assert_problem, fresh_database
from tests.support.loader_process import query, row_count, wait_for

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

HEADER = ",".join(column.header for column in COLUMNS[: LAYOUT_COLUMN_COUNTS[0]]).encode()
UNKNOWN = "0190b2c4-5e2f-7b3a-9c1d-2f4e6a8b0c1d"
STALL = Fault(before="stall")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Generator[LiveService]:
    with (
        fresh_database(postgres) as database_url,
        LiveService(tmp_path_factory.mktemp("service"), database_url, {"IMPORTER_SLOTS": "1"}) as live,
    ):
        yield live


@pytest.fixture
def source(sample: bytes) -> Generator[HttpServer]:
    with HttpServer(sample) as server:
        yield server


@pytest.fixture
def stalled(service: LiveService) -> Generator[Json]:
    """An import that keeps the only slot, because its source never responds."""
    with HttpServer(b"") as server:
        server.rule = lambda _: STALL
        blocking = service.submit(server.url)
        service.until_phase(blocking["id"], "probing")
        yield blocking
        service.client.post(f"/imports/{blocking['id']}/cancel")
        service.until_state(blocking["id"], *ENDED)


def cancel(service: LiveService, import_id: str) -> Json:
    answer = service.client.post(f"/imports/{import_id}/cancel")
    assert answer.status_code == 202, answer.text
    return service.until_state(import_id, "cancelled")


def test_a_submitted_import_succeeds_with_a_receipt(
    service: LiveService, source: HttpServer, sample: bytes
) -> None:
    before = row_count(service.database_url)
    answer = service.client.post("/imports", json={"url": f" {source.url}\n"})  # pasted
    assert answer.status_code == 202
    submitted = answer.json()
    assert answer.headers["location"] == submitted["links"]["self"] == f"/imports/{submitted['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert submitted["progress"]["percent"] is None

    ended = service.until_state(submitted["id"], "succeeded")
    assert ended["progress"]["percent"] == 100
    assert ended["progress"]["bytes_done"] == len(sample)
    assert ended["progress"]["bytes_per_second"] is None
    assert ended["phase"] is None
    assert ended["error"] is None
    assert ended["created_at"] <= ended["started_at"] <= ended["finished_at"]
    receipt = ended["receipt"]
    assert receipt["url"] == ended["url"] == source.url
    assert receipt["rows_published"] == receipt["rows_parsed"] == ended["progress"]["rows_loaded"]
    assert row_count(service.database_url) == before + receipt["rows_published"]


def test_credentials_and_query_of_a_url_are_shown_nowhere(service: LiveService, source: HttpServer) -> None:
    source.rule = lambda _: Fault(status=404)
    secret = source.url.replace("://", "://canary-user:canary-password@") + "?X-Signature=canary-signature"
    submitted = service.submit(secret)
    ended = service.until_state(submitted["id"], "failed")
    assert source.requests[0].target == "/trips.csv?X-Signature=canary-signature"
    assert ended["url"] == source.url
    import_path = f"/imports/{ended['id']}"
    for path in (
        import_path,
        f"{import_path}/attempts",
        f"{import_path}/attempts/1/log",
        f"{import_path}/events",
        "/imports",
        "/metrics",
    ):
        assert "canary" not in service.client.get(path).text
    assert "canary" not in service.log.read_text()


@pytest.mark.usefixtures("stalled")
def test_a_body_sent_twice_with_one_idempotency_key_makes_one_import(service: LiveService) -> None:
    def submit(_: int) -> str:
        headers = {"Idempotency-Key": "january"}
        return service.submit("http://localhost/january.csv", headers=headers)["id"]

    with ThreadPoolExecutor(16) as threads:
        ids = set(threads.map(submit, range(16)))
    assert len(ids) == 1
    cancel(service, ids.pop())


@pytest.mark.usefixtures("stalled")
def test_a_replay_of_an_idempotency_key_says_so_in_a_header(service: LiveService) -> None:
    def submit() -> httpx.Response:
        body = {"url": "http://localhost/march.csv"}
        return service.client.post("/imports", json=body, headers={"Idempotency-Key": "march"})

    first, second = submit(), submit()
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["location"] == second.headers["location"]
    cancel(service, first.json()["id"])


@pytest.mark.usefixtures("stalled")
def test_an_idempotency_key_of_another_body_is_refused(service: LiveService) -> None:
    headers = {"Idempotency-Key": "february"}
    first = service.submit("http://localhost/february.csv", headers=headers)
    answer = service.client.post(
        "/imports", json={"url": "http://localhost/february.csv", "mode": "replace"}, headers=headers
    )
    assert first["id"] in assert_problem(answer, 422, "idempotency_conflict")["detail"]
    cancel(service, first["id"])


def test_imports_are_listed_newest_first_page_by_page(service: LiveService, stalled: Json) -> None:
    submitted = [service.submit(f"http://localhost/{number}.csv")["id"] for number in range(5)]
    first = service.client.get("/imports", params={"state": "queued", "limit": 2}).json()
    pages = [first]
    while cursor := pages[-1]["next_cursor"]:
        query = {"state": "queued", "limit": 2, "cursor": cursor}
        pages.append(service.client.get("/imports", params=query).json())
    assert [each["id"] for page in pages for each in page["imports"]] == submitted[::-1]
    assert len(pages) == 3
    running = service.client.get("/imports", params={"state": "running"}).json()
    assert [each["id"] for each in running["imports"]] == [stalled["id"]]
    for import_id in submitted:
        cancel(service, import_id)


@pytest.mark.usefixtures("stalled")
def test_a_queued_import_is_cancelled_at_once_also_by_many_requests(service: LiveService) -> None:
    queued = service.submit("http://localhost/queued.csv")

    def once(_: int) -> tuple[int, str]:
        answer = service.client.post(f"/imports/{queued['id']}/cancel")
        return answer.status_code, answer.json()["state"]

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(once, range(50))) == {(202, "cancelled")}
    assert service.get(queued["id"])["attempts"] == 0


def test_an_import_that_waits_for_its_source_is_cancelled(service: LiveService, stalled: Json) -> None:
    answer = service.client.post(stalled["links"]["cancel"])
    assert answer.status_code == 202
    assert answer.json()["state"] == "cancelling"
    ended = service.until_state(stalled["id"], "cancelled")
    assert ended["receipt"] is None
    assert ended["error"] is None


def test_a_cancel_of_an_ended_import_is_a_problem_with_its_state(
    service: LiveService, source: HttpServer
) -> None:
    source.rule = lambda _: Fault(status=404)
    ended = service.until_state(service.submit(source.url)["id"], "failed")
    assert ended["links"]["cancel"] is None
    answer = service.client.post(f"/imports/{ended['id']}/cancel")
    problem = assert_problem(answer, 409, "wrong_state")
    assert problem["state"] == "failed"
    assert "failed" in problem["detail"]


def test_a_failed_import_can_be_retried_and_keeps_its_attempts(
    service: LiveService, source: HttpServer
) -> None:
    source.rule = lambda _: Fault(status=403)
    submitted = service.submit(source.url + "?again", force=True)
    failed = service.until_state(submitted["id"], "failed")
    assert failed["error"]["code"] == "source_forbidden"
    assert failed["error"]["hint"]

    source.rule = lambda _: None
    answer = service.client.post(failed["links"]["retry"])
    assert answer.status_code == 202
    assert answer.json()["error"] is None
    ended = service.until_state(submitted["id"], "succeeded")
    assert ended["attempts"] == 2
    path = ended["links"]["attempts"]
    first = service.client.get(path, params={"limit": 1}).json()
    second = service.client.get(path, params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert second["next_cursor"] is None
    attempts = [*first["attempts"], *second["attempts"]]
    assert [(each["number"], each["exit_code"]) for each in attempts] == [(1, 66), (2, 0)]
    assert attempts[0]["error"]["code"] == "source_forbidden"
    assert attempts[1]["error"] is None
    assert service.client.get(path).json() == {"attempts": attempts, "next_cursor": None}

    assert ended["links"]["retry"] is None
    answer = service.client.post(f"/imports/{ended['id']}/retry")
    assert assert_problem(answer, 409, "wrong_state")["state"] == "succeeded"


def test_the_log_of_an_attempt_is_a_text_by_itself(service: LiveService, stalled: Json) -> None:
    (attempt,) = service.client.get(stalled["links"]["attempts"]).json()["attempts"]
    assert attempt["links"]["log"] is None
    path = f"{stalled['links']['attempts']}/1/log"
    assert service.client.get(path).text == ""  # it runs
    cancel(service, stalled["id"])
    (attempt,) = service.client.get(stalled["links"]["attempts"]).json()["attempts"]
    assert attempt["links"]["log"] == path
    assert service.client.get(path).headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("number", ["2", "0", "-1", "last", "9999999999999999999"])
def test_the_log_of_an_unknown_attempt_is_a_problem(service: LiveService, stalled: Json, number: str) -> None:
    answer = service.client.get(f"{stalled['links']['attempts']}/{number}/log")
    assert number in assert_problem(answer, 404, "attempt_not_found")["detail"]


def test_rejects_are_a_csv_like_the_imported_file_or_json(service: LiveService, sample: bytes) -> None:
    rows = sample.split(b"\n")
    bad = [rows[1].replace(b",", b";"), b"caf\xe9," + rows[2]]
    with HttpServer(b"\n".join([*rows[:3], *bad, *rows[3:]])) as server:
        ended = service.until_state(service.submit(server.url, max_rejects="2")["id"], "succeeded")
    assert ended["progress"]["rows_rejected"] == 2

    answer = service.client.get(ended["links"]["rejects_csv"])
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.content.split(b"\n") == [HEADER, *bad, b""]

    answer = service.client.get(ended["links"]["rejects"])
    assert answer.headers["content-type"] == "application/json"
    assert [each["line"] for each in answer.json()] == [4, 5]
    assert answer.json()[1]["original"].startswith("caf\\xe9,")
    assert all(each["reason"] for each in answer.json())


def test_an_import_without_rejects_has_an_empty_listing(service: LiveService, source: HttpServer) -> None:
    ended = service.until_state(service.submit(source.url + "?clean", force=True)["id"], "succeeded")
    assert service.client.get(ended["links"]["rejects_csv"]).content == HEADER + b"\n"
    assert service.client.get(ended["links"]["rejects"]).json() == []


def test_a_client_that_aborts_a_listing_leaves_no_database_connection(
    service: LiveService, sample: bytes
) -> None:
    header, rows = sample.split(b"\n", 1)
    with HttpServer(header + b"\n" + 8 * rows.replace(b",", b";")) as server:  # more than sockets can buffer
        ended = service.until_state(service.submit(server.url, max_rejects="100%")["id"], "succeeded")

    def backends() -> list[tuple[object, ...]]:
        statement = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'loader % rejects'"
        return query(service.database_url, statement)

    with service.client.stream("GET", ended["links"]["rejects_csv"]) as answer:
        received = answer.iter_bytes()
        assert next(received).startswith(HEADER)
        assert len(backends()) == 1
    wait_for("the connection to be closed", lambda: not backends())


def test_rejects_of_an_import_without_rows_are_a_problem(service: LiveService, stalled: Json) -> None:
    assert stalled["links"]["rejects"] is stalled["links"]["rejects_csv"] is None
    answer = service.client.get(f"/imports/{stalled['id']}/rejects")
    assert assert_problem(answer, 409, "nothing_loaded")["state"] == "running"


def test_an_ended_import_is_removed_with_its_rows(
    service: LiveService, source: HttpServer, sample: bytes
) -> None:
    before = row_count(service.database_url)
    source.rule = lambda _: STALL
    submitted = service.submit(source.url + "?removed", force=True)
    answer = service.client.delete(submitted["links"]["self"])
    problem = assert_problem(answer, 409, "wrong_state")
    assert problem["state"] in ("queued", "running")
    assert "once it has ended or is cancelled" in problem["detail"]
    assert "`links`" in problem["hint"]
    source.rule = lambda _: None
    source.drop_connections()
    service.until_state(submitted["id"], "succeeded")
    assert row_count(service.database_url) == before + sample.count(b"\n") - 1

    answer = service.client.delete(submitted["links"]["self"])
    assert "?rows=drop" in assert_problem(answer, 409, "has_rows")["hint"]
    ended = service.get(submitted["id"])
    assert ended["state"] == "succeeded"
    assert ended["links"]["remove"] == f"{submitted['links']['self']}?rows=drop"
    answer = service.client.delete(ended["links"]["remove"])
    assert answer.status_code == 202
    assert answer.json()["state"] == "removing"
    assert answer.headers["location"] == submitted["links"]["self"]
    service.until_gone(submitted["id"])
    assert row_count(service.database_url) == before
    assert_problem(service.client.delete(submitted["links"]["self"]), 404, "import_not_found")


def test_a_long_poll_misses_no_change_after_the_version_of_its_client(
    service: LiveService, stalled: Json
) -> None:
    seen = service.submit("http://localhost/queued.csv")
    service.client.post(f"/imports/{stalled['id']}/cancel")
    service.until_state(stalled["id"], "cancelled")  # the queued one starts, and fails
    own = seen["links"]["self"]
    etag = {"If-None-Match": f'"{seen["version"]}"'}
    for answer in (
        service.client.get(own, params={"wait": 60, "after": seen["version"]}, timeout=30),
        service.client.get(own, params={"wait": 60}, headers=etag, timeout=30),
    ):
        found = answer.json()
        assert found["version"] > seen["version"]
        assert answer.headers["etag"] == f'"{found["version"]}"'
    cancel(service, seen["id"])


@pytest.mark.usefixtures("stalled")
def test_an_unchanged_import_is_304_for_its_etag(service: LiveService) -> None:
    queued = service.submit("http://localhost/queued.csv")
    etag = service.client.get(queued["links"]["self"]).headers["etag"]
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        for wait in (0, 1):
            answer = service.client.get(
                queued["links"]["self"], params={"wait": wait}, headers={"If-None-Match": sent}
            )
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert service.client.get(queued["links"]["self"], headers={"If-None-Match": '"0"'}).status_code == 200
    cancel(service, queued["id"])


@pytest.mark.usefixtures("stalled")
def test_a_label_is_shown_and_finds_its_imports(service: LiveService) -> None:
    first = service.submit("http://localhost/a.csv", label="März, 2nd try")
    second = service.submit("http://localhost/a.csv")
    assert (first["label"], second["label"]) == ("März, 2nd try", None)
    found = service.client.get("/imports", params={"label": "März, 2nd try"}).json()["imports"]
    assert [each["id"] for each in found] == [first["id"]]
    states = {"state": "queued,running", "limit": 3}
    found = service.client.get("/imports", params=states).json()["imports"]
    assert [each["state"] for each in found] == ["queued", "queued", "running"]
    headers = {"Idempotency-Key": "label"}
    third = service.submit("http://localhost/b.csv", headers, label="b")
    answer = service.client.post("/imports", json={"url": "http://localhost/b.csv"}, headers=headers)
    assert_problem(answer, 422, "idempotency_conflict")
    answer = service.client.post("/imports", json={"url": "http://localhost/b.csv", "label": "b" * 201})
    assert_problem(answer, 400, "invalid_request")
    for each in (first, second, third):
        cancel(service, each["id"])


def test_a_retry_can_allow_more_rejects(service: LiveService, sample: bytes) -> None:
    header, first, rest = sample.split(b"\n", 2)
    with HttpServer(b"\n".join([header, first.replace(b",", b";"), rest])) as server:
        failed = service.until_state(service.submit(server.url, force=True)["id"], "failed")
        assert failed["error"]["code"] == "bad_row"
        body = {"max_rejects": "5", "workers": 2}
        queued = service.client.post(failed["links"]["retry"], json=body).json()
        assert (queued["max_rejects"], queued["workers"]) == ("5", 2)
        assert service.until_state(failed["id"], "succeeded")["progress"]["rows_rejected"] == 1


def test_a_long_poll_returns_at_its_time_limit(service: LiveService, stalled: Json) -> None:
    answer = service.client.get(stalled["links"]["self"], params={"wait": 1})
    assert answer.json()["state"] == "running"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/attempts"),
        ("GET", "/attempts/1/log"),
        ("GET", "/events"),
        ("GET", "/rejects"),
        ("GET", "/rejects.csv"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ],
)
@pytest.mark.parametrize("import_id", [UNKNOWN, "not-a-uuid", "17", f"{UNKNOWN}0"])
def test_an_unknown_id_is_a_problem_whatever_its_form(
    service: LiveService, method: str, path: str, import_id: str
) -> None:
    answer = service.client.request(method, f"/imports/{import_id}{path}")
    assert import_id in assert_problem(answer, 404, "import_not_found")["detail"]


def test_links_lead_to_what_can_be_done_in_the_state(service: LiveService, sample: bytes) -> None:
    def possible(found: Json) -> set[str]:
        return {name for name, link in found["links"].items() if link is not None}

    always = {"self", "events", "attempts"}
    with HttpServer(sample) as source:
        source.rule = lambda _: STALL
        running = service.submit(source.url + "?links", force=True)
        queued = service.submit("http://localhost/queued.csv")
        assert possible(queued) == always | {"cancel"}
        assert possible(service.until_phase(running["id"], "probing")) == always | {"cancel"}
        cancelled = cancel(service, queued["id"])
        assert possible(cancelled) == always | {"retry", "remove"}
        source.rule = lambda _: Fault(status=404)
        source.drop_connections()
        failed = service.until_state(running["id"], "failed")
        assert possible(failed) == always | {"retry", "remove"}
        source.rule = lambda _: None
        service.client.post(failed["links"]["retry"])
        succeeded = service.until_state(running["id"], "succeeded")
    assert possible(succeeded) == always | {"rejects", "rejects_csv", "remove"}
    for name in ("self", "events", "attempts", "rejects", "rejects_csv"):
        assert service.client.get(succeeded["links"][name]).status_code == 200


def test_a_running_service_is_live_and_ready(service: LiveService) -> None:
    assert service.client.get("/health/live").json() == {"status": "live"}
    assert service.client.get("/health/ready").json() == {"status": "ready"}


def test_metrics_count_ended_imports(service: LiveService, source: HttpServer, sample: bytes) -> None:
    def values() -> list[float]:
        return [
            service.metric(name)
            for name in (
                "importer_source_bytes_total",
                "importer_rows_total",
                'importer_loader_exits_total{code="0"}',
                'importer_import_duration_seconds_count{state="succeeded"}',
                'importer_imports{state="succeeded"}',
            )
        ]

    service.until_state(service.submit(source.url + "?first", force=True)["id"], "succeeded")
    before = values()
    service.until_state(service.submit(source.url + "?metrics", force=True)["id"], "succeeded")
    rows = sample.count(b"\n") - 1
    assert [new - old for new, old in zip(values(), before, strict=True)] == [len(sample), rows, 1, 1, 1]
    assert service.metric("importer_queue_depth") == 0


def test_the_metrics_have_one_charset(service: LiveService) -> None:
    assert (
        service.client.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    )


def test_metrics_count_requests_by_path_template_and_status(service: LiveService) -> None:
    def values() -> list[float]:
        requests = 'importer_http_requests_total{app_name="importer",method="GET",path='
        found = (('"/imports/{import_id}"', 404), ('"/imports"', 200))
        return [service.metric(f'{requests}{path},status_code="{status}"}}') for path, status in found]

    service.client.get(f"/imports/{UNKNOWN}")
    service.client.get("/imports")
    before = values()
    service.client.get(f"/imports/{UNKNOWN}")
    service.client.get("/imports", headers={"Host": "evil.example"})  # refused: not counted as a 200
    assert [new - old for new, old in zip(values(), before, strict=True)] == [1, 0]
