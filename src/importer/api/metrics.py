"""Prometheus metrics: what has ended since the service started, and how many imports are in each state.

Litestar's middleware adds the HTTP metrics (`importer_http_*`), the client library those of the process.
"""

from __future__ import annotations

import signal
from uuid import UUID

from litestar.plugins.prometheus import PrometheusConfig
from prometheus_client import Counter, Gauge, Histogram, generate_latest

from importer.model import FINISHED, AttemptResult, Import, State
from importer.store.store import Store
from loader.contract import ExitCode, Receipt

# https://prometheus.io/docs/instrumenting/exposition_formats/#basic-info. Litestar adds the charset.
MEDIA_TYPE = "text/plain; version=0.0.4"

# Labelled with the path's template: a label for each import's path would make a series for each import.
HTTP_METRICS = PrometheusConfig(app_name="importer", prefix="importer_http", group_path=True)

# Upper bounds in seconds: from a small sample to a file of 300 GB.
_DURATION_BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)

EVENT_STREAMS = Gauge("importer_event_streams", "Open event streams.")
_IMPORTS = Gauge("importer_imports", "Imports in the control DB, by state.", ["state"])
_QUEUE_DEPTH = Gauge("importer_queue_depth", "Imports that wait for a loader.")
_DATABASE_UP = Gauge("importer_database_up", "1 if the service can use the target database, else 0.")
_BYTES = Counter("importer_source_bytes", "Bytes of the published files, as transferred.")
_ROWS = Counter("importer_rows", "Published rows.")
_REJECTS = Counter("importer_rejects", "Rejected rows of published imports.")
_DURATIONS = Histogram(
    "importer_import_duration_seconds",
    "Time from the first attempt to the end of an import, by final state. A retry of an ended import starts anew.",
    ["state"],
    buckets=_DURATION_BUCKETS,
)
_EXITS = Counter(
    "importer_loader_exits",
    "Loaders that have ended, by exit code; negative: the signal that killed it.",
    ["code"],
)
# 0 from the start: Prometheus sees no increase in a series that begins at 1.
for _state in FINISHED:
    _DURATIONS.labels(_state)
for _code in (*ExitCode, -signal.SIGKILL, -signal.SIGSEGV):
    _EXITS.labels(str(int(_code)))


def metrics_text(counts: dict[State, int], *, is_database_up: bool) -> bytes:
    """Return all metrics in Prometheus' text format; `counts`: of the imports in each state."""
    _DATABASE_UP.set(is_database_up)
    for state, count in counts.items():
        _IMPORTS.labels(state).set(count)
    _QUEUE_DEPTH.set(counts[State.QUEUED])
    return generate_latest()


class MeasuredStore(Store):
    """The control DB; each end of an attempt, and each publish, is counted after it is written."""

    async def finish_attempt(self, import_id: UUID, result: AttemptResult) -> Import | None:
        """Do what Store does, and count it."""
        ended = await super().finish_attempt(import_id, result)
        if ended is not None:
            _count(ended, result.exit_code)
        return ended

    async def mark_published(
        self, import_id: UUID, receipt: Receipt, origin: State = State.FAILED
    ) -> Import | None:
        """Do what Store does, and count the rows. The import's duration was counted when its last attempt failed."""
        corrected = await super().mark_published(import_id, receipt, origin)
        if corrected is not None:
            _count_rows(receipt)
        return corrected


def _count(ended: Import, exit_code: int | None) -> None:
    """Count the end of an attempt, and of its import if the attempt ended that."""
    if exit_code is not None:
        _EXITS.labels(str(exit_code)).inc()
    if ended.receipt is not None:
        _count_rows(ended.receipt)
    started_at, finished_at = ended.series_started_at, ended.finished_at
    if ended.state in FINISHED and started_at is not None and finished_at is not None:
        seconds = (finished_at - started_at).total_seconds()
        _DURATIONS.labels(ended.state).observe(max(seconds, 0))  # the clock may have been set back


def _count_rows(receipt: Receipt) -> None:
    _BYTES.inc(receipt.source_bytes)
    _ROWS.inc(receipt.rows_published)
    _REJECTS.inc(receipt.rows_rejected)
