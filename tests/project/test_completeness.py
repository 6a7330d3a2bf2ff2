"""What is added in one place is added in the others: settings, fields of a job, column kinds."""

from __future__ import annotations

import re

import pytest

from importer.api.request_bodies import NewImport
from importer.settings import InvalidSettings, Settings
from loader.contract import Job
from loader.encoding.fields import encode_field
from loader.schema import POSTGRES_TYPES, Kind
from tests.support.boundary_values import BOUNDARY_VALUES, USUAL_FIELDS
from tests.support.command_help import options_of
from tests.support.paths import ROOT

# The others are IMPORTER_ and the name of the field.
VARIABLES = {"data_folder": "IMPORTER_DATA_DIR", "database_url": "DATABASE_URL"}
# Fields of a job that the service sets itself, and clients don't.
SET_BY_THE_SERVICE = {"source", "import_id", "on_sigterm", "database_url", "allowed_hosts"}


def test_each_setting_has_a_variable_that_is_read_and_checked() -> None:
    variables = {VARIABLES.get(field, f"IMPORTER_{field.upper()}") for field in Settings.__struct_fields__}
    checked = variables - {"IMPORTER_DATA_DIR"}  # any text is a path
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_environment(dict.fromkeys(variables, "?"))
    assert {line.split()[0] for line in str(caught.value).splitlines()} == checked


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_each_setting_has_a_use(field: str) -> None:
    modules = [path for path in (ROOT / "src" / "importer").rglob("*.py") if path.name != "settings.py"]
    assert any(re.search(rf"settings\.{field}\b", path.read_text()) for path in modules)


def test_each_field_of_a_job_is_an_option_of_the_loader() -> None:
    fields = {field.replace("_", "-") for field in Job.__struct_fields__} - {"source", "allowed-hosts"}
    assert {f"--{field}" for field in fields} <= options_of("loader", "run")


def test_each_field_of_a_job_is_in_a_request_or_set_by_the_service() -> None:
    assert set(NewImport.__struct_fields__) - {"url"} == set(Job.__struct_fields__) - SET_BY_THE_SERVICE


def test_each_field_of_a_request_is_an_option_of_the_client() -> None:
    options = {f"--{field.replace('_', '-')}" for field in NewImport.__struct_fields__} - {"--url", "--mode"}
    assert options | {"--replace"} <= options_of("importer", "submit")


@pytest.mark.parametrize("kind", Kind)
def test_each_column_kind_has_a_type_an_encoder_and_boundary_values(kind: Kind) -> None:
    assert POSTGRES_TYPES[kind]
    assert BOUNDARY_VALUES[kind]
    assert isinstance(encode_field(kind, USUAL_FIELDS[kind]), bytes)
