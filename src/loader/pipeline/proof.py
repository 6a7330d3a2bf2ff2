"""The proof that an import is complete: five counts of its rows, from independent sources, must agree.

records    counted when blocks are cut: line ends outside quotes (record_boundaries.py)
sent       counted by the encoder, as are the rejects
rejects    rows of loader.reject
copied     counted by the server, for each COPY
published  by the catalog: rows of the parts that are attached to the import's table and not empty
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
    """Check that the whole file is committed, and return its totals. Raises TOO_MANY_REJECTS, PROOF_FAILED.

    `data_end` and `source_end`: where the decompressed data and the transferred source ended, in bytes; `source_bytes`: the
    size that the source announced.
    """
    totals = ledger.totals(connection, import_key)
    first = ledger.first_reject(connection, import_key)
    refuse_too_many(allowance, totals.rows_rejected, totals.records, first)
    error = (
        coverage.coverage_error(ledger.spans(connection, import_key), data_start, data_end)
        or _find_short_source(source_end, source_bytes)
        or find_difference(totals, rows_attached)
    )
    if error is not None:
        raise LoaderError(
            FailureCode.PROOF_FAILED,
            f"The loaded blocks do not prove that the file is complete: {error}.",
            "Nothing was published. The ledger or a part was changed by others, or the loader has a defect: report it, then"
            " run the command again, which starts over.",
        )
    return totals


def find_difference(totals: Totals, rows_attached: int) -> str | None:
    """Return which counts of an import differ, or None if all agree."""
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
