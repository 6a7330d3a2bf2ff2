"""The service's settings: read once, and everything that is wrong with them is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from importer.settings import InvalidSettings, Settings

CANARY = "hunter2-canary"


def problem(**environment: str) -> str:
    """Return what is said of variables that can't be used."""
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_environment(environment)
    return str(caught.value)


def test_without_any_variable_it_serves_this_machine_alone() -> None:
    settings = Settings.from_environment({"XDG_DATA_HOME": "/data"})
    assert settings == Settings(Path("/data/large-file-importer"))
    assert (settings.host, settings.port, settings.slots) == ("127.0.0.1", 8000, 2)
    assert settings.allowed_hosts == ()


def test_every_variable_is_read() -> None:
    settings = Settings.from_environment(
        {
            "IMPORTER_HOST": "0.0.0.0",
            "IMPORTER_PORT": "0",
            "IMPORTER_SERVER_NAMES": "importer.example.org, importer.jobs",
            "IMPORTER_DATA_DIR": "/data",
            "DATABASE_URL": "postgresql://me@db/taxi",
            "IMPORTER_SLOTS": "3",
            "IMPORTER_WORKERS": "4",
            "IMPORTER_ALLOWED_HOSTS": "127.0.0.1:8192, 10.0.0.0/8,",
            "IMPORTER_GRACE_SECONDS": "5",
            "IMPORTER_HISTORY_DAYS": "7",
            "IMPORTER_LOG_FORMAT": "json",
        }
    )
    assert settings == Settings(
        data_folder=Path("/data"),
        host="0.0.0.0",
        port=0,
        server_names=("importer.example.org", "importer.jobs"),
        database_url="postgresql://me@db/taxi",
        slots=3,
        workers=4,
        allowed_hosts=("127.0.0.1:8192", "10.0.0.0/8"),
        grace_seconds=5,
        history_days=7,
        log_format="json",
    )


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    names = ("IMPORTER_HOST", "IMPORTER_PORT", "IMPORTER_WORKERS", "DATABASE_URL", "IMPORTER_ALLOWED_HOSTS")
    assert Settings.from_environment(dict.fromkeys(names, " ")) == Settings.from_environment({})


def test_a_relative_data_folder_is_of_the_folder_that_the_service_was_started_in() -> None:
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
        ("IMPORTER_PORT", "٣"),  # a digit, but not one that int() and people agree on
        ("IMPORTER_SERVER_NAMES", "importer.example.org:8000"),
        ("IMPORTER_SERVER_NAMES", "*"),
        ("IMPORTER_SLOTS", "0"),
        ("IMPORTER_SLOTS", "two"),
        ("IMPORTER_WORKERS", "1.5"),
        ("IMPORTER_ALLOWED_HOSTS", "10.0.0.0/33"),
        ("IMPORTER_ALLOWED_HOSTS", "example.org:0"),
        ("IMPORTER_ALLOWED_HOSTS", "http://example.org"),
        ("IMPORTER_GRACE_SECONDS", "0"),
        ("IMPORTER_HISTORY_DAYS", "9999999999999999999999"),
        ("IMPORTER_LOG_FORMAT", "JSON\x1b[2J"),
    ],
)
def test_what_can_not_be_used_is_said_with_an_example(name: str, value: str) -> None:
    said = problem(**{name: value})
    assert said.startswith(f"{name} is {value!a}")
    assert ": it must be " in said
    assert said.isprintable()


def test_all_problems_are_said_at_once() -> None:
    said = problem(IMPORTER_PORT="x", IMPORTER_SLOTS="x", IMPORTER_ALLOWED_HOSTS="a,b c").splitlines()
    assert [line.split()[0] for line in said] == ["IMPORTER_PORT", "IMPORTER_SLOTS", "IMPORTER_ALLOWED_HOSTS"]
    assert "'b c'" in said[2]  # which of them


@pytest.mark.parametrize(
    "url",
    [
        f"host=db password={CANARY} {CANARY}",
        f"postgresql://me:{CANARY}@{CANARY}@db/taxi",
        f"postgresql://me:{CANARY}%zz@db/taxi",
        f"postgresql://me:7/{CANARY} @db/taxi",
        f"postgresql://me:{CANARY}/@db/taxi",
        f"postgresql://me@db/taxi?{CANARY}=1",
    ],
)
def test_a_password_is_never_repeated(url: str) -> None:
    said = problem(DATABASE_URL=url)
    assert said.startswith("DATABASE_URL can't be read: ")
    assert CANARY not in said


def test_a_port_that_kubernetes_has_set_for_a_service_of_this_name_is_explained() -> None:
    assert "enableServiceLinks" in problem(IMPORTER_PORT="tcp://10.0.0.11:8000")
