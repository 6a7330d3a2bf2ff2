"""The proof that an import is whole: every number of its receipt has a source of its own, and all of them agree.

records    counted while cutting: line ends outside quotes (record_boundaries.py)
sent       counted by the encoder, with the rejects
rejects    rows of loader.reject
copied     counted by the server, COPY by COPY
published  by the catalog: the parts that are partitions of the import's table, and not empty
"""

from __future__ import annotations

from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.pipeline import coverage
from loader.pipeline.reject_limit import Allowance, refuse_too_many
from loader.postgres import ledger
from loader.postgres.connection import Connection
from loader.postgres.ledger import Totals


def prove(
    connection: Connection,
    import_key: int,
    *,
    allowance: Allowance,
    data_start: int,
    data_end: int,
    source_end: int,
    source_bytes: int | None,
    rows_attached: int,
) -> Totals:
    """Return what is committed of an import, having seen that it is the whole file.

    `data_end` is where the decompressed data ended and `source_end` the source as transferred; `source_bytes` is the size
    that the source announced. Raises TOO_MANY_REJECTS, PROOF_FAILED.
    """
    totals = ledger.totals(connection, import_key)
    first = ledger.first_reject(connection, import_key)
    refuse_too_many(allowance, totals.rows_rejected, totals.records, first)
    flaw = (
        coverage.coverage_error(ledger.spans(connection, import_key), data_start, data_end)
        or _find_short_source(source_end, source_bytes)
        or find_difference(totals, rows_attached)
    )
    if flaw is not None:
        raise LoaderError(
            FailureCode.PROOF_FAILED,
            f"The loaded blocks do not prove that the file is whole: {flaw}.",
            "Nothing was published. Somebody has changed the ledger or a part, or this is a defect of the loader: report it,"
            " then run the command again, which begins at the beginning.",
        )
    return totals


def find_difference(totals: Totals, rows_attached: int) -> str | None:
    """Return None when the counts of an import agree, else which of them do not."""
    counts = (
        (
            "records were cut",
            totals.records,
            "rows and rejects encoded",
            totals.rows_sent + totals.rows_rejected,
        ),
        ("rejects were counted", totals.rows_rejected, "stored", totals.rejects_stored),
        ("rows were sent", totals.rows_sent, "copied", totals.rows_copied),
        ("rows were copied", totals.rows_copied, "are in the attached parts", rows_attached),
    )
    different = [f"{one:,} {what} and {other:,} {that}" for what, one, that, other in counts if one != other]
    return "; ".join(different) or None


def _find_short_source(source_end: int, source_bytes: int | None) -> str | None:
    if source_bytes is None or source_end == source_bytes:
        return None
    return f"{source_end:,} bytes of the source were read, and it has {source_bytes:,}"
