"""Errors of the server are noticed during a COPY, and all data that is sent arrives."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from loader.pipeline.part import ErrorAwareWriter
from tests.support.postgres_proxy import Proxy

BLOCK_BYTES = 8 << 20
PIECE = b"1\n" * 64_000


@pytest.mark.parametrize("way", ["socket", "network"])
def test_an_error_is_noticed_within_a_block(way: str, database_url: str) -> None:
    with (
        Proxy(database_url) as proxy,
        psycopg.connect(database_url if way == "socket" else proxy.url) as connection,
    ):
        connection.execute("CREATE TABLE numbers (number integer)")
        cursor = connection.cursor()
        writer = ErrorAwareWriter(cursor)
        sent = 0
        with (
            contextlib.suppress(psycopg.errors.InvalidTextRepresentation),
            cursor.copy("COPY numbers FROM STDIN", writer=writer) as copy,
        ):
            copy.write(b"not a number\n")
            while not writer.has_response and sent < 10 * BLOCK_BYTES:
                copy.write(PIECE)
                sent += len(PIECE)
        assert writer.has_response
        assert sent < BLOCK_BYTES


NOTICES = """
CREATE TABLE numbers (number integer);
CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''two''; RETURN NEW; END';
CREATE TRIGGER say BEFORE INSERT ON numbers FOR EACH ROW WHEN (NEW.number = 2) EXECUTE FUNCTION say()
"""


def test_what_is_no_error_costs_no_row(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(NOTICES.encode())
        cursor = connection.cursor()
        writer = ErrorAwareWriter(cursor)
        with cursor.copy("COPY numbers FROM STDIN", writer=writer) as copy:
            copy.write(b"2\n")
            rows = 1
            while not writer.has_response and rows < 10 * BLOCK_BYTES:
                copy.write(PIECE)
                rows += PIECE.count(b"\n")
            copy.write(PIECE)
        assert writer.has_response
        assert cursor.rowcount == rows + PIECE.count(b"\n")
