"""A database's URL that can't be read: the fault is named, and no value is quoted."""

from __future__ import annotations

import pytest

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Database
from loader.postgres.database_url import parse_url

CANARY = "canary7Kq"


def fault_of(url: str) -> str:
    """Return message and hint for a URL that can't be read."""
    with pytest.raises(LoaderError) as caught:
        parse_url(url)
    assert caught.value.code is FailureCode.USAGE
    return f"{caught.value.failure.message} {caught.value.failure.hint}"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (f"postgresql://me:{CANARY}@db/taxi?schema={CANARY}", ": schema."),
        (
            f"postgresql://db/taxi?sslmode=require&pgbouncer={CANARY}&connection_limit=1",
            "pgbouncer, connection_limit.",
        ),
        (f"postgresql://db/taxi?currentSchema={CANARY}&ssl=true", ": currentSchema."),
        (f"postgresql+psycopg://me:{CANARY}@db/taxi", "postgresql:// instead of postgresql+psycopg://"),
        (f"postgres+asyncpg://me:{CANARY}@db/taxi", "postgresql:// instead of postgres+asyncpg://"),
        (f"jdbc:postgresql://db/taxi?password={CANARY}", "postgresql:// instead of jdbc:postgresql://"),
        (f"POSTGRESQL://me:{CANARY}@db/taxi", "postgresql:// instead of POSTGRESQL://"),
        (f"mysql://me:{CANARY}@db/taxi", "begins with mysql://"),
        (f"'postgresql://me:{CANARY}@db/taxi'", "in quotes"),
    ],
)
def test_a_url_of_another_program_is_named_by_its_scheme_or_parameters(url: str, named: str) -> None:
    fault = fault_of(url)
    assert named in fault
    assert CANARY not in fault


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{CANARY}?{CANARY}=x/y@db/taxi",
        f"postgresql://me@db/taxi?{CANARY} x=1",
        f"postgresql://me@db/taxi?{CANARY}",
        f"host=db password={CANARY} {CANARY}=1",
        f"postgresql://me:7{CANARY}/x@db/taxi",
        "postgresql://me@db:0/taxi",
        "postgresql://me@db:65536/taxi",
        "postgresql://me@db:5432,other:99999999999/taxi",
        f"postgresql://me@{CANARY}..org/taxi",
        f"postgresql://me@{CANARY * 8}.org/taxi",
    ],
)
def test_a_url_with_an_unescaped_character_is_not_quoted_at_all(url: str) -> None:
    fault = fault_of(url)
    assert fault.startswith("The database's URL is not valid. Write it as postgresql://")
    assert CANARY not in fault


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@db.example.org:5432/taxi?sslmode=verify-full&application_name=x",
        "postgresql://me:p%40ss@[::1]:1,b_2:65535/taxi?target_session_attrs=read-write",
        "postgres:///taxi?host=/run/postgresql",
        "postgresql://db/taxi?ssl=true",
        "service=importer",
        "host=@abstract dbname=taxi",
        "postgresql://datenbank.müller.example/taxi",
        "",
    ],
)
def test_a_url_that_libpq_can_read_is_accepted(url: str) -> None:
    parse_url(url)


def test_white_space_around_a_url_is_no_part_of_it() -> None:
    assert Database(" postgresql://db/taxi\n").url == "postgresql://db/taxi"
