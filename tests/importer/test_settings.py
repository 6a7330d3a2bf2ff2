"""The service's settings: each is read, used and documented; an error lists every invalid one."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import msgspec
import pytest

from importer.settings import MAX_WORKERS, InvalidSettings, Settings
from tests.support.paths import ROOT

CANARY = "hunter2-canary"

# Of each setting: its variable, a text, and the value that the text means.
VARIABLES: dict[str, tuple[str, str, object]] = {
    "data_folder": ("IMPORTER_DATA_DIR", "/data", Path("/data")),
    "host": ("IMPORTER_HOST", "0.0.0.0", "0.0.0.0"),
    "port": ("IMPORTER_PORT", "0", 0),
    "server_names": (
        "IMPORTER_SERVER_NAMES",
        "importer.example.org, *.importer.jobs",
        ("importer.example.org", "*.importer.jobs"),
    ),
    "root_path": ("IMPORTER_ROOT_PATH", "/team-7/importer/", "/team-7/importer"),
    "token_file": ("IMPORTER_TOKEN_FILE", "/run/secrets/token", Path("/run/secrets/token")),
    "database_url": ("DATABASE_URL", "postgresql://me@db/taxi", "postgresql://me@db/taxi"),
    "slots": ("IMPORTER_SLOTS", "3", 3),
    "workers": ("IMPORTER_WORKERS", "4", 4),
    "allowed_hosts": (
        "IMPORTER_ALLOWED_HOSTS",
        "127.0.0.1:8192, 10.0.0.0/8,",
        ("127.0.0.1:8192", "10.0.0.0/8"),
    ),
    "read_timeout_seconds": ("IMPORTER_READ_TIMEOUT_SECONDS", "120", 120),
    "grace_seconds": ("IMPORTER_GRACE_SECONDS", "5", 5),
    "history_days": ("IMPORTER_HISTORY_DAYS", "7", 7),
    "log_format": ("IMPORTER_LOG_FORMAT", "json", "json"),
}


def fault(**environment: str) -> str:
    """Return the message about invalid variables."""
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_environment(environment)
    return str(caught.value)


@cache
def settings_that_are_used() -> set[str]:
    """Return the fields that the service reads, as `settings.NAME` or `self._settings.NAME`."""
    return {
        node.attr
        for path in (ROOT / "src" / "importer").rglob("*.py")
        if path.name != "settings.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("settings", "self._settings")
    }


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_takes_its_value_from_its_variable(name: str) -> None:
    variable, text, value = VARIABLES[name]
    default = Settings.from_environment({})
    assert value != getattr(default, name)
    assert Settings.from_environment({variable: text}) == msgspec.structs.replace(default, **{name: value})


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_is_used_by_the_service(name: str) -> None:
    assert name in settings_that_are_used()


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_is_documented(name: str) -> None:
    variable, _, _ = VARIABLES[name]
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert f"\n| `{variable}` |" in page


def test_without_any_variable_the_service_listens_on_loopback() -> None:
    settings = Settings.from_environment({"XDG_DATA_HOME": "/data"})
    assert settings == Settings(Path("/data/large-file-importer"))
    assert (settings.host, settings.port, settings.slots) == ("127.0.0.1", 8000, 2)
    assert settings.allowed_hosts == ()


def test_an_empty_variable_counts_as_not_set() -> None:
    names = ("IMPORTER_HOST", "IMPORTER_PORT", "IMPORTER_WORKERS", "DATABASE_URL", "IMPORTER_ALLOWED_HOSTS")
    assert Settings.from_environment(dict.fromkeys(names, " ")) == Settings.from_environment({})


def test_a_relative_data_folder_is_relative_to_the_current_folder() -> None:
    assert Settings.from_environment({"IMPORTER_DATA_DIR": "data"}).data_folder == Path.cwd() / "data"


@pytest.mark.parametrize(
    ("host", "bound"),
    [("::1", "::1"), ("[::1]", "::1"), ("localhost", "localhost"), ("10.1.2.3", "10.1.2.3")],
)
def test_an_address_of_either_family_can_be_served(host: str, bound: str) -> None:
    assert Settings.from_environment({"IMPORTER_HOST": host}).host == bound


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMPORTER_HOST", "http://localhost"),
        ("IMPORTER_HOST", "localhost:8000"),
        ("IMPORTER_PORT", "65536"),
        ("IMPORTER_PORT", "-1"),
        ("IMPORTER_PORT", "٣"),  # int() takes digits of other scripts
        ("IMPORTER_SERVER_NAMES", "importer.example.org:8000"),
        ("IMPORTER_SERVER_NAMES", "*"),
        ("IMPORTER_SERVER_NAMES", "importer.*.org"),
        ("IMPORTER_SERVER_NAMES", "*importer.org"),
        ("IMPORTER_ROOT_PATH", "importer"),
        ("IMPORTER_ROOT_PATH", "/a//b"),
        ("IMPORTER_ROOT_PATH", "/.."),
        ("IMPORTER_ROOT_PATH", "/a b"),
        ("IMPORTER_ROOT_PATH", "https://example.org/importer"),
        ("IMPORTER_ROOT_PATH", "/imports"),  # a proxy that strips it leaves another path of the API
        ("IMPORTER_ROOT_PATH", "/schema/importer"),
        ("IMPORTER_SLOTS", "0"),
        ("IMPORTER_SLOTS", "1_0"),
        ("IMPORTER_SLOTS", "two"),
        ("IMPORTER_WORKERS", "1.5"),
        ("IMPORTER_ALLOWED_HOSTS", "10.0.0.0/33"),
        ("IMPORTER_ALLOWED_HOSTS", "example.org:0"),
        ("IMPORTER_ALLOWED_HOSTS", "http://example.org"),
        ("IMPORTER_READ_TIMEOUT_SECONDS", "301"),
        ("IMPORTER_GRACE_SECONDS", "0"),
        ("IMPORTER_HISTORY_DAYS", "9999999999999999999999"),
        ("IMPORTER_LOG_FORMAT", "JSON\x1b[2J"),
    ],
)
def test_an_invalid_value_is_reported_with_an_example(name: str, value: str) -> None:
    message = fault(**{name: value})
    assert message.startswith(f"{name} is {value!a}")
    assert ": it must be " in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "root_path"), [("/", ""), ("/importer", "/importer"), ("/a/b.c/", "/a/b.c")]
)
def test_a_root_path_has_no_slash_at_its_end(text: str, root_path: str) -> None:
    assert Settings.from_environment({"IMPORTER_ROOT_PATH": text}).root_path == root_path


@pytest.mark.parametrize("text", ["64", "064", "00000000064"])
def test_a_number_may_have_leading_zeros(text: str) -> None:
    assert Settings.from_environment({"IMPORTER_WORKERS": text}).workers == MAX_WORKERS == 64


@pytest.mark.parametrize("text", ["65", "999999999", "9999999999"])
def test_a_number_beyond_its_limit_is_refused_with_the_limit(text: str) -> None:
    assert fault(IMPORTER_WORKERS=text).endswith(": it must be a whole number from 1 to 64.")


def test_all_faults_are_in_one_message() -> None:
    message = fault(IMPORTER_PORT="x", IMPORTER_SLOTS="x", IMPORTER_ALLOWED_HOSTS="a,b c").splitlines()
    assert [line.split()[0] for line in message] == [
        "IMPORTER_PORT",
        "IMPORTER_SLOTS",
        "IMPORTER_ALLOWED_HOSTS",
    ]
    assert "'b c'" in message[2]  # the invalid entry


@pytest.mark.parametrize(
    "url",
    [
        f"host=db password={CANARY} {CANARY}",
        f"postgresql://me:{CANARY}@{CANARY}@db/taxi",
        f"postgresql://me:{CANARY}%zz@db/taxi",
        f"postgresql://me:7/{CANARY} @db/taxi",
        f"postgresql://me:{CANARY}/@db/taxi",
        f"postgresql://me@db/taxi?schema={CANARY}",
        f"jdbc:postgresql://db/taxi?user=me&password={CANARY}",
    ],
)
def test_a_message_never_has_a_password(url: str) -> None:
    message = fault(DATABASE_URL=url)
    assert message.startswith("DATABASE_URL can't be read (The database's URL ")
    assert CANARY not in message


def test_a_port_that_kubernetes_sets_for_a_service_of_this_name_is_explained() -> None:
    assert "enableServiceLinks" in fault(IMPORTER_PORT="tcp://10.0.0.11:8000")
