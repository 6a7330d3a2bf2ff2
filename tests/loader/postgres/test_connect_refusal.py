"""A refused first connection: the failure code follows from its cause, and the hint says what to correct."""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import Never

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
    """A server that asks `asked` for a password, lets `postgres` in by TLS alone, and has databases nobody may use.

    A trigger refuses the login of `unloved`.
    """
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
            "CREATE ROLE unloved LOGIN",
            "CREATE DATABASE private",
            "REVOKE CONNECT ON DATABASE private FROM public",
            "CREATE DATABASE closed ALLOW_CONNECTIONS false",
            "CREATE DATABASE frozen",
            "ALTER DATABASE frozen SET default_transaction_read_only = on",
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF session_user = 'unloved'"
            " THEN RAISE 'ask Bob' USING ERRCODE = 'MY001', HINT = 'He knows.'; END IF; END $$",
            "CREATE EVENT TRIGGER refuse ON login EXECUTE FUNCTION refuse()",
        )
        yield own


CONFIGURATION = FailureCode.DATABASE_CONFIGURATION
REFUSALS = [
    ("asked:wrong", "postgres", CONFIGURATION, "the role or its password is wrong"),
    ("asked", "postgres", CONFIGURATION, "the server asks for a password"),
    ("nobody", "postgres", CONFIGURATION, "does not admit this role"),
    ("locked_out", "postgres", CONFIGURATION, "does not admit this role"),
    ("asked:right", "missing", CONFIGURATION, "name a database that exists"),
    ("asked:right", "closed", CONFIGURATION, "ALLOW_CONNECTIONS"),
    ("asked:right", "postgres?options=-cno_such_setting%3D1", CONFIGURATION, "one of its options"),
    ("postgres", "postgres", CONFIGURATION, "pg_hba.conf"),
    ("asked:right", "postgres?sslmode=require", CONFIGURATION, "sslmode"),
    ("asked:right", "postgres?target_session_attrs=standby", CONFIGURATION, "target_session_attrs"),
    ("unloved", "postgres", CONFIGURATION, "login trigger"),
    ("asked:right", "private", FailureCode.DATABASE_RIGHTS, "Grant it"),
    ("full_up", "postgres", FailureCode.DATABASE_UNAVAILABLE, "Check that the server runs"),
]


@pytest.mark.parametrize(("user", "rest", "code", "hint"), REFUSALS)
def test_a_refused_first_connection_says_what_to_correct(
    user: str, rest: str, code: FailureCode, hint: str, guarded: OwnServer
) -> None:
    url = f"postgresql://{user}@{guarded.host}:{guarded.port}/{rest}"
    failure = refusal_of(url)
    assert (failure.code, failure.retryable) == (code, code is FailureCode.DATABASE_UNAVAILABLE)
    assert hint in failure.hint
    assert "wrong" not in failure.message
    if code is CONFIGURATION:
        assert failure.hint.startswith("Correct DATABASE_URL")
        assert refusal_of(url, was_admitted=True).code is FailureCode.DATABASE_UNAVAILABLE
        with pytest.MonkeyPatch.context() as without_traces:
            without_traces.setattr("sys.platform", "darwin")
            assert refusal_of(url).code is FailureCode.DATABASE_UNAVAILABLE


def test_the_hint_of_the_server_is_in_the_message_of_a_refused_connection(guarded: OwnServer) -> None:
    message = refusal_of(f"postgresql://unloved@{guarded.host}:{guarded.port}/postgres").message
    assert "ask Bob" in message
    assert "He knows." in message


@pytest.mark.parametrize(
    "rest",
    [
        "?sslmode=always",
        "?target_session_attrs=primary-only",
        "?keepalives=often",
        "?service=no_such_service",
    ],
)
def test_an_option_that_libpq_refuses_is_final(rest: str, guarded: OwnServer) -> None:
    failure = refusal_of(guarded.tcp_url + rest)
    assert (failure.code, failure.retryable) == (CONFIGURATION, False)
    assert failure.hint.startswith("Correct DATABASE_URL")


def test_a_server_that_another_host_may_replace_is_waited_for(guarded: OwnServer) -> None:
    here = f"{guarded.host}:{guarded.port}"
    failure = refusal_of(f"postgresql://asked:right@{here},{here}/postgres?target_session_attrs=read-only")
    assert failure.code is CONFIGURATION  # no primary is read-only
    for hosts, code in ((here, CONFIGURATION), (f"{here},{here}", FailureCode.DATABASE_UNAVAILABLE)):
        url = f"postgresql://asked:right@{hosts}/frozen?target_session_attrs=read-write"
        assert refusal_of(url).code is code


def test_an_unknown_host_is_final_and_a_server_that_is_down_is_not(guarded: OwnServer) -> None:
    with pytest.MonkeyPatch.context() as names:
        names.setattr("socket.getaddrinfo", _unknown)
        failure = refusal_of("postgresql://no-such-host.invalid/taxi")
        assert failure.code is CONFIGURATION
        assert "its host" in failure.hint
        names.setattr("socket.getaddrinfo", _unresponsive)
        assert refusal_of("postgresql://no-such-host.invalid/taxi").code is FailureCode.DATABASE_UNAVAILABLE
    assert refusal_of("postgresql:///taxi?host=/no/such/folder").code is FailureCode.DATABASE_UNAVAILABLE
    guarded.stop()
    try:
        assert refusal_of(guarded.tcp_url).code is FailureCode.DATABASE_UNAVAILABLE
        assert refusal_of(guarded.url).code is FailureCode.DATABASE_UNAVAILABLE
    finally:
        guarded.start()


def _unknown(*_: object, **__: object) -> Never:
    """Respond as name servers do, which a test's machine may not have."""
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _unresponsive(*_: object, **__: object) -> Never:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def test_a_host_of_the_environment_that_is_no_name_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "db..example.org")
    failure = refusal_of("postgresql:///taxi")
    assert failure.code is CONFIGURATION
    assert "PGHOST" in failure.hint
