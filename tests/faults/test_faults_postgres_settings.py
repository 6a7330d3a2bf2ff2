"""Settings of a role, a database or its server: they make no difference, or are refused at the probe."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from loader.contract import FailureCode
from tests.support.http_server import HttpServer
from tests.support.loader_process import (
    Loaders,
    assert_nothing_is_left,
    checksum,
    checksum_of,
    query,
    row_count,
    wait_for,
)
from tests.support.mid_load import backends, resume_serving, start_until_stalled
from tests.support.postgres_server import own_server
from tests.support.target import execute
from tests.support.transaction_pooler import TransactionPooler

pytestmark = pytest.mark.slow

_roles = itertools.count(1)


def set_up(database_url: str, *settings: str) -> None:
    """Set settings of the test's database."""
    name = query(database_url, "SELECT current_database()")[0][0]
    for setting in settings:
        execute(database_url, f"ALTER DATABASE {name} SET {setting}")


def reset(database_url: str) -> None:
    name = query(database_url, "SELECT current_database()")[0][0]
    execute(database_url, f"ALTER DATABASE {name} RESET ALL")


FORMS = (
    "DateStyle = 'German, DMY'",
    "TimeZone = 'Asia/Kathmandu'",
    "IntervalStyle = sql_standard",
    "client_encoding = LATIN1",
    "standard_conforming_strings = off",
    "bytea_output = escape",
    "extra_float_digits = -15",
    "quote_all_identifiers = on",
    "search_path = ''",
    "default_transaction_deferrable = on",
    "lock_timeout = '1ms'",
)


def test_other_forms_of_values_and_names_make_no_difference(
    loaders: Loaders, server: HttpServer, sample: bytes
) -> None:
    server.content = sample + b"a reject: \xc3\xa9\n"
    whole = checksum_of(loaders.database_url, sample)
    set_up(loaders.database_url, *FORMS)
    receipt = loaders.start("run", server.url, "--max-rejects", "1").receipt()
    listing = loaders.start("imports", "--json")
    assert listing.wait() == 0
    assert receipt.import_id in listing.stdout
    rejects = loaders.start("rejects", receipt.import_id)
    assert (rejects.wait(), rejects.output) == (0, b"a reject: \xc3\xa9\n")
    reset(loaders.database_url)
    assert checksum(loaders.database_url) == whole
    set_up(loaders.database_url, *FORMS)
    assert loaders.start("drop", "--published", receipt.import_id).wait() == 0
    assert query(loaders.database_url, "SELECT count(*) FROM public.trips") == [(0,)]


SURROUNDINGS = {
    "PGHOST": "no-such-host.invalid",
    "PGUSER": "nobody",
    "PGDATABASE": "none",
    "PGPASSWORD": "wrong",
    "PGAPPNAME": "mine",
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "German, DMY",
    "PGTZ": "Asia/Kathmandu",
    "PGOPTIONS": "-c statement_timeout=1 -c search_path=nowhere",
    "http_proxy": "http://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "LC_ALL": "xx_XX.ISO-8859-1",
    "LANG": "tr_TR",
    "TZ": "Asia/Kathmandu",
    "PYTHONIOENCODING": "ascii",
    "HOME": "/proc/no-home",
    "XDG_CACHE_HOME": "",
}


def test_exported_variables_and_a_read_only_home_make_no_difference(
    loaders: Loaders, server: HttpServer, sample: bytes, tmp_path: Path
) -> None:
    assert loaders.start("run", server.url, environment=SURROUNDINGS).receipt().attempts == 1
    assert checksum(loaders.database_url) == checksum_of(loaders.database_url, sample)
    path = tmp_path / "Zürich ✓.csv"
    path.write_bytes(sample)
    again = loaders.start("run", str(path), "--progress", "none", environment=SURROUNDINGS)
    assert (again.wait(), again.stderr) == (0, "")
    assert "rich" in again.stdout
    for command in (
        ("imports",),
        ("check", str(path)),
        ("run", str(tmp_path / "Genève.csv"), "--progress", "none"),
    ):
        loader = loaders.start(*command, environment=SURROUNDINGS)
        assert loader.wait() == (66 if command[0] == "run" else 0)
        assert "Traceback" not in loader.stderr


def test_time_limits_of_the_role_do_not_end_a_longer_import(loaders: Loaders, server: HttpServer) -> None:
    limits = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    if query(loaders.database_url, "SELECT FROM pg_settings WHERE name = 'transaction_timeout'"):
        limits.append("transaction_timeout")
    set_up(loaders.database_url, *(f"{limit} = '400ms'" for limit in limits))
    loader = start_until_stalled(loaders, server)
    older = (
        "SELECT FROM pg_stat_activity WHERE application_name LIKE 'loader %'"
        " HAVING min(clock_timestamp() - state_change) > interval '800 ms' AND count(*) > 1"
    )
    wait_for("all to be idle for longer", lambda: query(loaders.database_url, older) != [])
    resume_serving(server)
    assert loader.receipt().attempts == 1
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.parametrize(
    "isolation", ["repeatable read", pytest.param("serializable", marks=pytest.mark.long)]
)
def test_two_imports_of_one_file_see_each_other_in_any_isolation(
    isolation: str, loaders: Loaders, server: HttpServer
) -> None:
    set_up(loaders.database_url, f"default_transaction_isolation = '{isolation}'")
    ids = ["0190b2c4-0000-7000-8000-000000000001", "0190b2c4-0000-7000-8000-000000000002"]
    runs = [start_until_stalled(loaders, server, "--workers", "1", "--import-id", each) for each in ids]
    begun = "SELECT count(DISTINCT import_key) FROM loader.part"
    wait_for("parts of both", lambda: query(loaders.database_url, begun) == [(2,)])
    turn = (
        "SELECT pg_advisory_xact_lock(objid::int, hashtext(location)) FROM loader.import,"
        f" (SELECT {0x636C6169} AS objid) AS turn LIMIT 1"  # see import_lock.py
    )
    with psycopg.connect(loaders.database_url) as holder:
        holder.execute(turn.encode())
        resume_serving(server)
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_for("both to publish", lambda: len(query(loaders.database_url, waiting)) == 2)
    assert sorted(run.wait() for run in runs) == [0, 65]
    assert row_count(loaders.database_url) == sum(
        each.receipt().rows_published for each in runs if each.wait() == 0
    )
    assert_nothing_is_left(loaders.database_url)


@pytest.mark.long
def test_a_reported_publish_survives_a_crash_despite_early_commits(
    server: HttpServer, tmp_path: Path
) -> None:
    early = {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    with own_server(settings={**early, "bgwriter_delay": "10s"}) as own:
        receipt = Loaders(tmp_path, own.url).start("run", server.url).receipt()
        own.stop("immediate")
        own.start()
        assert row_count(own.url) == receipt.rows_published


@pytest.fixture
def role(database_url: str) -> Generator[str]:
    """A role that may log in, and nothing else."""
    name = f"stranger_{next(_roles)}"
    execute(database_url, f"CREATE ROLE {name} LOGIN")
    yield name
    execute(database_url, f"DROP OWNED BY {name} CASCADE")
    execute(database_url, f"DROP ROLE {name}")


@pytest.mark.long
def test_a_role_that_becomes_another_at_login_loads_and_rolls_back(
    role: str, loaders: Loaders, server: HttpServer, tmp_path: Path
) -> None:
    """As where one role is to own all tables. The login role may not even terminate its own sessions."""
    owner, database = f"{role}_owner", query(loaders.database_url, "SELECT current_database()")[0][0]
    for statement in (
        f"CREATE ROLE {owner}",
        f"GRANT {owner} TO {role}",
        f"GRANT CREATE ON DATABASE {database} TO {owner}",
        f"GRANT CREATE ON SCHEMA public TO {owner}",
        f"ALTER ROLE {role} SET role = {owner}",
    ):
        execute(loaders.database_url, statement)
    theirs = Loaders(tmp_path, loaders.database_url.replace("//postgres@", f"//{role}@"))
    loader = start_until_stalled(theirs, server)
    (worker, *_) = backends(theirs, "worker%")
    os.kill(worker, signal.SIGSTOP)
    try:
        loader.process.terminate()
        wait_for("the roll back", lambda: backends(theirs, "roll back"))
    finally:
        os.kill(worker, signal.SIGCONT)
    last = loader.failure()
    assert (last.failure.code, last.staging) == (FailureCode.TERMINATED, "none")
    assert_nothing_is_left(loaders.database_url)
    server.rule = lambda _: None
    receipt = theirs.start("run", server.url).receipt()
    assert row_count(loaders.database_url) == receipt.rows_published
    execute(loaders.database_url, f"DROP OWNED BY {owner} CASCADE")
    execute(loaders.database_url, f"DROP ROLE {owner}")


def test_a_database_with_a_limited_encoding_is_refused_at_the_probe(
    postgres: str, server: HttpServer, tmp_path: Path
) -> None:
    with encoded(postgres, "LATIN1") as url:
        last = Loaders(tmp_path, url).start("run", server.url).failure()
        assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNSUPPORTED, "none")
        assert "LATIN1" in last.failure.message
        assert query(url, "SELECT to_regclass('trips'), to_regnamespace('loader')") == [(None, None)]


@pytest.mark.long
def test_a_database_in_sql_ascii_is_supported(
    postgres: str, server: HttpServer, sample: bytes, tmp_path: Path
) -> None:
    fields = sample.splitlines()[1].split(b",")
    fields[1] = "Ж€".encode()
    server.content = sample + b",".join(fields) + b"\n"
    with encoded(postgres, "SQL_ASCII") as url:
        assert Loaders(tmp_path, url).start("run", server.url).receipt().rows_published == row_count(url)
        odd = f"SELECT count(*) FROM trips WHERE dispatching_base_num::bytea = '\\x{'Ж€'.encode().hex()}'"
        assert query(url, odd) == [(1,)]
        assert_nothing_is_left(url)


@contextmanager
def encoded(postgres: str, encoding: str) -> Generator[str]:
    """Yield the URL of a fresh database with this encoding."""
    name = f"encoded_{next(_roles)}"
    execute(
        postgres,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE_PROVIDER libc LOCALE 'C'",
    )
    yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_pooler_without_sessions_is_refused_at_the_probe(
    database_url: str, server: HttpServer, tmp_path: Path
) -> None:
    with TransactionPooler(database_url) as pooler:
        assert query(pooler.url, "SELECT 1") == [(1,)]
        last = Loaders(tmp_path, pooler.url).start("run", server.url).failure()
    assert (last.failure.code, last.staging) == (FailureCode.DATABASE_UNSUPPORTED, "none")
    assert "pooler" in last.failure.message
    assert query(database_url, "SELECT to_regclass('trips'), to_regnamespace('loader')") == [(None, None)]
