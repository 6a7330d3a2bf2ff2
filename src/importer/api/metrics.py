"""What Prometheus is told: counts of what has ended since the service started, and where all imports stand now."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from importer.model import FINISHED, AttemptResult, Import, State
from importer.store.store import Store

# Upper bounds in seconds: from a small sample to the 300 GB that an import may have.
_DURATION_BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)


class Metrics:
    """The service's metrics, in a registry of its own."""

    # https://prometheus.io/docs/instrumenting/exposition_formats/#basic-info
    CONTENT_TYPE: ClassVar = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._imports = Gauge(
            "importer_imports", "Imports that the control DB has, by state.", ["state"], registry=registry
        )
        self._queue_depth = Gauge(
            "importer_queue_depth", "Imports that wait for a loader.", registry=registry
        )
        self._database_up = Gauge(
            "importer_database_up", "1 if the target database can be used, else 0.", registry=registry
        )
        self.event_streams = Gauge(
            "importer_event_streams", "Clients that watch an import's events.", registry=registry
        )
        self._bytes = Counter(
            "importer_source_bytes",
            "Bytes of the files that were published, as transferred.",
            registry=registry,
        )
        self._rows = Counter("importer_rows", "Rows that were published.", registry=registry)
        self._rejects = Counter(
            "importer_rejects", "Rows of published imports that were set aside.", registry=registry
        )
        self._durations = Histogram(
            "importer_import_duration_seconds",
            "From the first attempt to the end of an import, by its final state.",
            ["state"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        # at 0 from the start: of a series that begins at 1 Prometheus sees no increase
        for state in FINISHED:
            self._durations.labels(state)
        self._exits = Counter(
            "importer_loader_exits",
            "Loaders that have ended, by exit code; negative: the signal that killed it.",
            ["code"],
            registry=registry,
        )

    def text(self, counts: dict[State, int], *, is_database_up: bool) -> bytes:
        """Return all in Prometheus' text format, with these counts of imports in each state."""
        self._database_up.set(is_database_up)
        for state, count in counts.items():
            self._imports.labels(state).set(count)
        self._queue_depth.set(counts[State.QUEUED])
        return generate_latest(self._registry)

    def attempt_ended(self, ended: Import, exit_code: int | None) -> None:
        """Count the end of an attempt, and of its import if that has ended with it."""
        if exit_code is not None:
            self._exits.labels(str(exit_code)).inc()
        if ended.receipt is not None:
            self._bytes.inc(ended.receipt.source_bytes)
            self._rows.inc(ended.receipt.rows_published)
            self._rejects.inc(ended.receipt.rows_rejected)
        if ended.state in FINISHED and ended.started_at is not None and ended.finished_at is not None:
            seconds = (ended.finished_at - ended.started_at).total_seconds()
            self._durations.labels(ended.state).observe(max(seconds, 0))  # the clock may have been set back


class MeasuredStore(Store):
    """The control DB, with each end of an attempt counted once it is written down."""

    metrics: Metrics

    async def finish_attempt(self, import_id: UUID, ending: AttemptResult) -> Import | None:
        """As Store has it."""
        ended = await super().finish_attempt(import_id, ending)
        if ended is not None:
            self.metrics.attempt_ended(ended, ending.exit_code)
        return ended
