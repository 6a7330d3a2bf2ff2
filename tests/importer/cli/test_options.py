"""Options of both command lines, the request body and the loader's job: what one has, the others have, or say why not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from importer.api.request_bodies import NewImport
from importer.cli import main as importer_cli
from importer.cli.parser import make_parser
from loader.cli import main as loader_cli
from loader.cli.parser import make_program as make_loader
from loader.contract import Job

URL = "https://example.org/trips.csv"
IMPORT_ID = "01a2053c-7c4c-725d-8fb9-4b5c499349a0"

# Each option with another value than its default.
RUN = (
    *("run", URL, "--mode", "replace", "--workers", "3", "--max-rejects", "1%", "--import-id", IMPORT_ID),
    *(
        "--force",
        "--require-verified-length",
        "--ignore-etag",
        "--read-timeout",
        "60",
        "--on-sigterm",
        "suspend",
        "--database-url",
        "postgresql://db/taxi",
    ),
    *("--progress", "none", "--summary", "receipt.json", "--data-dir", "data"),
)
SUBMIT = (
    *(
        "submit",
        URL,
        "--label",
        "January",
        "--replace",
        "--workers",
        "3",
        "--max-rejects",
        "1%",
        "--force",
        "--require-verified-length",
        "--ignore-etag",
    ),
    *(
        "--idempotency-key",
        "key",
        "--watch",
        "--json",
        "--server",
        "http://importer:8000",
        "--token-file",
        "token",
    ),
)
BODY = (
    b'{"url": "https://example.org/trips.csv", "label": "January", "mode": "replace",'
    b'  "max_rejects": "1%", "workers": 3, "force": true,'
    b' "require_verified_length": true, "ignore_etag": true}'
)

RUN_OPTIONS_NOT_IN_THE_JOB = {
    "command": "it is `run`",
    "version": "an option of the program",
    "database_url": "the command opens the database, by the option or the environment",
    "data_dir": "the folder of the embedded PostgreSQL, not of an import",
    "progress": "how the process shows the import",
    "summary": "a file of the process",
}
JOB_FIELDS_WITHOUT_A_RUN_OPTION = {
    "database_url": "as above",
    "allowed_hosts": "a person may fetch from every host that the machine reaches",
}
JOB_FIELDS_NOT_IN_THE_BODY = {
    "import_id": "the service chooses it",
    "read_timeout_seconds": "a setting of the service",
    "on_sigterm": "the service cancels by SIGTERM and suspends by SIGHUP",
    "database_url": "a setting of the service",
    "allowed_hosts": "a setting of the service",
}
SUBMIT_OPTIONS_NOT_IN_THE_BODY = {
    "command": "it is `submit`",
    "version": "an option of the program",
    "idempotency_key": "a header of the request",
    "watch": "what the client does after the request",
    "json": "how the client shows the import",
    "server": "where the client sends the request",
    "token_file": "how the client is admitted by the service",
}
# Where the names differ: of an option or a field, and of the field that it becomes.
RENAMED_OF_RUN = {"read_timeout": "read_timeout_seconds"}
RENAMED_OF_SUBMIT = {"replace": "mode"}
RENAMED_OF_THE_BODY = {"url": "source"}


# Any: argparse has no types for its options
def run_options(*arguments: str) -> dict[str, Any]:
    return vars(make_loader().parser.parse_args(arguments))


def submit_options(*arguments: str) -> dict[str, Any]:
    return vars(make_parser().parse_args(arguments))


def unchanged(options: dict[str, Any], defaults: dict[str, Any]) -> set[str]:
    """Return the options that still have their default."""
    return {name for name, value in options.items() if value == defaults[name]}


def defaults_of(struct: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.default for field in msgspec.structs.fields(struct)}


def fields_with_default(value: msgspec.Struct) -> set[str]:
    defaults = defaults_of(type(value))
    return {name for name, given in msgspec.structs.asdict(value).items() if given == defaults[name]}


def test_the_arguments_of_these_tests_use_every_option() -> None:
    assert unchanged(run_options(*RUN), run_options("run")) == {"command", "version"}
    defaults = submit_options("submit", "")
    assert unchanged(submit_options(*SUBMIT), defaults) == {"command", "version"}
    assert fields_with_default(msgspec.json.decode(BODY, type=NewImport)) == set()


def test_each_option_of_loader_run_is_a_field_of_the_job_or_has_a_reason() -> None:
    options = set(run_options(*RUN)) - set(RUN_OPTIONS_NOT_IN_THE_JOB)
    assert {RENAMED_OF_RUN.get(name, name) for name in options} == set(Job.__struct_fields__) - set(
        JOB_FIELDS_WITHOUT_A_RUN_OPTION
    )


def test_each_option_of_loader_run_reaches_the_job() -> None:
    options = make_loader().parser.parse_args(RUN)
    job = loader_cli._job_from(options)  # pyright: ignore[reportPrivateUsage]
    assert fields_with_default(job) == set(JOB_FIELDS_WITHOUT_A_RUN_OPTION)


def test_each_field_of_the_job_is_in_the_request_body_or_has_a_reason() -> None:
    fields = {RENAMED_OF_THE_BODY.get(name, name) for name in NewImport.__struct_fields__} - {"label"}
    assert fields == set(Job.__struct_fields__) - set(JOB_FIELDS_NOT_IN_THE_BODY)


def test_each_field_of_the_request_body_reaches_the_job() -> None:
    job = msgspec.json.decode(BODY, type=NewImport).job()
    assert fields_with_default(job) == set(JOB_FIELDS_NOT_IN_THE_BODY) - {"import_id"}


def test_each_field_of_the_request_body_has_an_option_of_importer_submit() -> None:
    options = set(submit_options(*SUBMIT)) - set(SUBMIT_OPTIONS_NOT_IN_THE_BODY)
    assert {RENAMED_OF_SUBMIT.get(name, name) for name in options} == set(NewImport.__struct_fields__)


def test_each_option_of_importer_submit_reaches_the_request_body() -> None:
    options = make_parser().parse_args(SUBMIT)
    body = importer_cli._new_import(options)  # pyright: ignore[reportPrivateUsage]
    assert msgspec.convert(body, NewImport) == msgspec.json.decode(BODY, type=NewImport)


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("seconds", ["0", "301", "1.5"])
def test_the_read_timeout_of_the_loader_has_bounds(
    command: str, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_options(command, URL, "--read-timeout", seconds)
    assert "argument --read-timeout: " in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_workers_of_importer_submit_is_a_number_from_1_on(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        submit_options("submit", URL, "--workers", number)
    assert "argument --workers: " in capsys.readouterr().err
