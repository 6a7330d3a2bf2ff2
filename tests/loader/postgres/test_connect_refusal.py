"""A refused first connection has the failure code of its SQLSTATE."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from loader.contract import Failure, FailureCode
from loader.errors import LoaderError
from loader.postgres.connection import Database
from tests.support.postgres_server import OwnServer, own_server

pytestmark = pytest.mark.slow


def refusal_of(url: str, *, was_admitted: bool = False) -> Failure:
    """Return the failure of a connection that can't be made."""
    with (
        pytest.raises(LoaderError) as caught,
        Database(url, was_admitted=was_admitted).connection("test"),
    ):
        pass
    return caught.value.failure


@pytest.fixture(scope="module")
def guarded() -> Generator[OwnServer]:
    """A server that asks `asked` for a password, lets `postgres` in by TLS alone, and has databases nobody may use."""
    with own_server(settings={"max_connections": "12"}) as own:
        access = own.data / "pg_hba.conf"
        access.write_text(
            "local all all trust\nhostssl all postgres all trust\nhost all postgres all reject\n"
            "host all asked all scram-sha-256\nhost all all all trust\n"
        )
        own.alter(
            "CREATE ROLE asked LOGIN PASSWORD 'right'",
            "CREATE ROLE locked_out NOLOGIN",
            "CREATE ROLE full_up LOGIN CONNECTION LIMIT 0",
            "CREATE DATABASE private",
            "REVOKE CONNECT ON DATABASE private FROM public",
        )
        yield own


@pytest.mark.parametrize(
    ("user", "rest", "code"),
    [
        ("asked:wrong", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("asked", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("nobody", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("locked_out", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "missing", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "postgres?options=-cno_such_setting%3D1", FailureCode.DATABASE_CONFIGURATION),
        ("postgres", "postgres", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "postgres?sslmode=require", FailureCode.DATABASE_CONFIGURATION),
        ("asked:right", "private", FailureCode.DATABASE_RIGHTS),
        ("full_up", "postgres", FailureCode.DATABASE_UNAVAILABLE),
    ],
)
def test_a_refused_first_connection_has_the_failure_code_of_its_sqlstate(
    user: str, rest: str, code: FailureCode, guarded: OwnServer
) -> None:
    url = f"postgresql://{user}@{guarded.host}:{guarded.port}/{rest}"
    failure = refusal_of(url)
    assert (failure.code, failure.retryable) == (code, code is FailureCode.DATABASE_UNAVAILABLE)
    assert "wrong" not in failure.message
    if code is FailureCode.DATABASE_CONFIGURATION:
        assert refusal_of(url, was_admitted=True).code is FailureCode.DATABASE_UNAVAILABLE
        with pytest.MonkeyPatch.context() as without_traces:
            without_traces.setattr("sys.platform", "darwin")
            assert refusal_of(url).code is FailureCode.DATABASE_UNAVAILABLE


def test_a_server_that_is_down_or_unknown_is_retryable(guarded: OwnServer) -> None:
    guarded.stop()
    try:
        assert refusal_of(guarded.tcp_url).code is FailureCode.DATABASE_UNAVAILABLE
    finally:
        guarded.start()
    assert refusal_of("postgresql://no-such-host.invalid/taxi").retryable
