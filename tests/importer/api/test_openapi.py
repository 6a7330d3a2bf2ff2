"""The OpenAPI document is complete and matches the live service."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from importer.api import schemas
from importer.api.problems import PROBLEM_KINDS, ProblemCode
from loader import contract
from tests.support.commands import output_of
from tests.support.http_server import Fault, HttpServer
from tests.support.live_service import Json, LiveService, fresh_database

# Real processes, some seconds each.
pytestmark = pytest.mark.slow

# A time limit for a busy machine; the number of examples is bounded.
SCHEMATHESIS_SECONDS = 100

SCHEMATHESIS = """
[[operations]]
include-operation-id = "getImport"
parameters = {{ wait = 0 }}

# A cursor comes from a response.
[[operations]]
include-operation-id = ["listImports", "listAttempts"]
parameters = {{ cursor = "AAAAAAAAAAw" }}

# The stream of an ended import ends.
[[operations]]
include-operation-id = "watchImport"
parameters = {{ import_id = "{ended}" }}

# JSON Schema can't express all rules for a URL.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "422"]
"""


@pytest.fixture(scope="module")
def database_url(postgres: str) -> Generator[str]:
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Generator[LiveService]:
    environment = {"IMPORTER_SLOTS": "1"}
    with LiveService(tmp_path_factory.mktemp("service"), database_url, environment) as live:
        yield live


@pytest.fixture(scope="module")
def document(service: LiveService) -> Json:
    answer = service.client.get("/schema/openapi.json")
    assert answer.headers["content-type"] == "application/vnd.oai.openapi+json"
    return answer.json()


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_the_document_has_exactly_the_operations(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    assert {name: operation["operationId"] for name, operation in operations(document)} == {
        "post /imports": "submitImport",
        "get /imports": "listImports",
        "get /imports/{import_id}": "getImport",
        "delete /imports/{import_id}": "removeImport",
        "get /imports/{import_id}/attempts": "listAttempts",
        "get /imports/{import_id}/events": "watchImport",
        "get /imports/{import_id}/attempts/{number}/log": "getAttemptLog",
        "get /imports/{import_id}/rejects": "listRejects",
        "get /imports/{import_id}/rejects.csv": "downloadRejects",
        "post /imports/{import_id}/cancel": "cancelImport",
        "post /imports/{import_id}/retry": "retryImport",
        "get /health/live": "getLiveness",
        "get /health/ready": "getReadiness",
    }


def test_each_operation_is_described_with_its_errors_as_problems(document: Json) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) < tags, name
        parameters: list[Json] = operation.get("parameters", [])
        for parameter in parameters:
            assert parameter["description"], name
        errors = {status: each for status, each in operation["responses"].items() if status >= "400"}
        assert ("404" in errors) == ("import_id" in name), name
        assert errors.pop("default") == {"$ref": "#/components/responses/OtherProblem"}
        for status, response in errors.items():
            assert_problems(response)
            examples = response["content"]["application/problem+json"]["examples"]
            assert {str(each["value"]["status"]) for each in examples.values()} == {status}
    assert_problems(document["components"]["responses"]["OtherProblem"])


def assert_problems(response: Json) -> None:
    (media_type, content), *others = response["content"].items()
    assert (media_type, others) == ("application/problem+json", [])
    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert content["examples"]


def test_operations_list_only_errors_that_clients_handle(document: Json) -> None:
    problems = {
        name: {
            code
            for status, response in operation["responses"].items()
            if "400" < status < "default"
            for code in response["content"]["application/problem+json"]["examples"]
        }
        for name, operation in operations(document)
    }
    of_rejects = {"import_not_found", "nothing_loaded", "too_busy", "database_unavailable"}
    assert problems == {
        "post /imports": {"invalid_url", "idempotency_conflict"},
        "get /imports": set(),
        "get /imports/{import_id}": {"import_not_found", "too_busy"},
        "delete /imports/{import_id}": {"import_not_found", "wrong_state", "has_rows"},
        "get /imports/{import_id}/attempts": {"import_not_found"},
        "get /imports/{import_id}/events": {"import_not_found", "too_busy"},
        "get /imports/{import_id}/attempts/{number}/log": {"import_not_found", "attempt_not_found"},
        "get /imports/{import_id}/rejects": of_rejects,
        "get /imports/{import_id}/rejects.csv": of_rejects,
        "post /imports/{import_id}/cancel": {"import_not_found", "wrong_state"},
        "post /imports/{import_id}/retry": {"import_not_found", "wrong_state", "invalid_url"},
        "get /health/live": set(),
        "get /health/ready": {"not_ready"},
    }


def test_the_response_to_an_action_has_the_state_after_it_as_example(document: Json) -> None:
    shown = {
        operation["operationId"]: [
            each["value"]["state"] for each in accepted["content"]["application/json"]["examples"].values()
        ]
        for _, operation in operations(document)
        if (accepted := operation["responses"].get("202"))
    }
    assert shown == {
        "submitImport": ["queued"],
        "cancelImport": ["cancelling"],
        "retryImport": ["queued"],
        "removeImport": ["removing"],
    }


def test_only_fields_that_a_request_must_have_are_required(document: Json) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["NewImport"]["required"] == ["url"]
    assert schemas["RetryImport"]["required"] == []
    for name in ("NewImport", "RetryImport"):
        # Generators of TypeScript take a field with a default as required.
        assert not [field for field, each in schemas[name]["properties"].items() if "default" in each]


def test_each_field_that_responses_always_have_is_required(document: Json) -> None:
    optional = {
        (name, field)
        for name, schema in document["components"]["schemas"].items()
        if name not in ("NewImport", "RetryImport")
        for field in schema.get("properties", {})
        if field not in schema["required"]
    }
    assert optional == {("Problem", "state"), ("Problem", "errors"), ("Problem", "instance")}


def test_times_and_enumerations_have_their_types(document: Json) -> None:
    schemas = document["components"]["schemas"]
    times = {
        (name, field): [each.get("format") for each in schema.get("anyOf", [schema])]
        for name, fields in schemas.items()
        for field, schema in fields.get("properties", {}).items()
        if field.endswith("_at")
    }
    assert times
    for formats in times.values():
        assert formats in (["date-time"], ["date-time", None])
    for name in ("Mode", "State", "Phase"):
        assert schemas[name]["type"] == "string"


def test_the_event_stream_has_the_schema_of_an_event(document: Json) -> None:
    responses = document["paths"]["/imports/{import_id}/events"]["get"]["responses"]
    assert responses["200"]["content"]["text/event-stream"]["schema"]["$ref"].endswith("/Event")
    schemas = document["components"]["schemas"]
    assert set(schemas["Event"]["discriminator"]["mapping"]) == {"import", "removed"}
    data = schemas["ImportEvent"]["properties"]["data"]
    assert data["contentMediaType"] == "application/json"
    assert data["contentSchema"] == {"$ref": "#/components/schemas/Import"}


def test_headers_that_clients_need_are_in_the_document(document: Json) -> None:
    paths = document["paths"]
    for path, method in (
        ("/imports", "post"),
        ("/imports/{import_id}/cancel", "post"),
        ("/imports/{import_id}/retry", "post"),
        ("/imports/{import_id}", "delete"),
    ):
        replayed = {"Idempotent-Replayed"} if path == "/imports" else set[str]()
        headers = set(paths[path][method]["responses"]["202"]["headers"])
        assert headers == {"Location", "Retry-After"} | replayed
    busy = paths["/imports/{import_id}"]["get"]["responses"]["503"]
    for response in (busy, document["components"]["responses"]["OtherProblem"]):
        assert "Retry-After" in response["headers"]
    assert [each["name"] for each in paths["/imports"]["post"]["parameters"]] == ["Idempotency-Key"]
    watched = [each["name"] for each in paths["/imports/{import_id}/events"]["get"]["parameters"]]
    assert watched == ["import_id", "Last-Event-ID"]


def test_each_schema_has_an_example_and_each_field_of_an_import_a_description(
    document: Json,
) -> None:
    schemas = document["components"]["schemas"]
    for name in (
        "NewImport",
        "RetryImport",
        "Import",
        "ImportPage",
        "Attempt",
        "AttemptPage",
        "Reject",
        "Health",
        "Problem",
    ):
        assert schemas[name]["examples"], name
        assert schemas[name]["description"], name
    for name in ("NewImport", "RetryImport", "Progress", "Receipt", "Failure"):
        for field, schema in schemas[name]["properties"].items():
            assert "description" in schema, f"{name}.{field}"


def test_the_document_is_the_same_as_yaml_and_as_json(service: LiveService, document: Json) -> None:
    answer = service.client.get("/schema/openapi.yaml")
    assert answer.headers["content-type"].startswith("application/vnd.oai.openapi")
    assert yaml.safe_load(answer.text) == document


def test_the_api_uses_the_terms_of_the_contract() -> None:
    assert set(schemas.Mode) == set(get_args(contract.Mode))
    assert set(schemas.Phase) == set(get_args(contract.Phase))
    assert set(PROBLEM_KINDS) == set(ProblemCode)
    for struct in (schemas.Progress, schemas.Failure, schemas.Receipt):
        theirs = set(getattr(contract, struct.__name__).__struct_fields__)
        renamed = {"source": "url"}  # the service's loaders have no other sources
        assert set(struct.__struct_fields__) == {renamed.get(name, name) for name in theirs - {"import_id"}}


@pytest.mark.slow
@pytest.mark.timeout(2 * SCHEMATHESIS_SECONDS)
def test_schemathesis_finds_no_fault(service: LiveService, tmp_path: Path) -> None:
    with HttpServer(b"") as source:
        ended = service.until_state(service.submit(source.url)["id"], "failed")
        source.rule = lambda _: Fault(before="stall")
        blocking = service.submit(source.url)  # later submits stay in the queue
        service.until_phase(blocking["id"], "probing")
        (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS.format(ended=ended["id"]))
        schemathesis = Path(sys.executable).with_name("schemathesis")
        options = ["--checks", "all", "--max-examples", "10", "--generation-deterministic", "--no-color"]
        url = f"{service.url}/schema/openapi.json"
        output_of([schemathesis, "run", url, *options, "--request-timeout", "10"], folder=tmp_path)
        service.client.post(blocking["links"]["cancel"])
    assert [event for event in service.events() if event["level"] == "error"] == []
