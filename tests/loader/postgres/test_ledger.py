"""The ledger's rows: what is written is read back, in file order, and summed."""

from __future__ import annotations

from uuid import uuid4

import pytest

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres import ledger
from loader.postgres.connection import Connection
from loader.postgres.ledger import Span, Totals
from loader.rejects import Reason, Reject
from tests.support.staged_import import stage


def reject(byte_offset: int) -> Reject:
    return Reject(byte_offset // 10, byte_offset, "tips", "x", Reason.DOUBLE_SYNTAX, b"a,x")


def test_totals_sum_over_the_parts_blocks_and_rejects_of_one_import(connection: Connection) -> None:
    stage(connection)
    staged = stage(connection, parts=3, rows_per_part=5)
    key = staged.attempt.import_key
    ledger.insert_rejects(connection, key, staged.parts[0], [reject(20), reject(30)])
    ledger.insert_rejects(connection, key, staged.parts[1], [])
    assert ledger.totals(connection, key) == Totals(3, 3, 300, 15, 15, 0, 15, 2)
    assert ledger.totals(connection, key + 1) == Totals(0, 0, 0, 0, 0, 0, 0, 0)
    assert ledger.spans(connection, key) == [Span(10, 110, 5), Span(110, 210, 5), Span(210, 310, 5)]
    assert ledger.parts(connection, key) == staged.parts


def test_rejects_are_read_in_file_order(connection: Connection) -> None:
    staged = stage(connection)
    key = staged.attempt.import_key
    assert ledger.first_reject(connection, key) is None
    ledger.insert_rejects(connection, key, staged.parts[1], [reject(130), reject(120)])
    ledger.insert_rejects(connection, key, staged.parts[0], [reject(20)])
    assert list(ledger.rejects(connection, key)) == [reject(20), reject(120), reject(130)]
    assert ledger.first_reject(connection, key) == reject(20)


def test_deleted_parts_take_their_blocks_and_rejects_along(connection: Connection) -> None:
    staged = stage(connection)
    key = staged.attempt.import_key
    for part, byte_offset in zip(staged.parts, (20, 120), strict=True):
        ledger.insert_rejects(connection, key, part, [reject(byte_offset)])
    ledger.delete_parts(connection, staged.parts[:1])
    assert ledger.parts(connection, key) == staged.parts[1:]
    assert ledger.spans(connection, key) == [Span(110, 210, 3)]
    assert list(ledger.rejects(connection, key)) == [reject(120)]


def test_an_unknown_import_is_not_found(connection: Connection) -> None:
    staged = stage(connection)
    assert ledger.get_import(connection, staged.id).import_key == staged.attempt.import_key
    assert ledger.find_import(connection, uuid4()) is None
    with pytest.raises(LoaderError) as raised:
        ledger.get_import(connection, uuid4())
    assert raised.value.code is FailureCode.IMPORT_NOT_FOUND
