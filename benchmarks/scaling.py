"""Files of increasing size: each is loaded, dropped, interrupted by SIGTERM, and killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from benchmarks.contenders.contenders import loader
from benchmarks.run import Entry
from benchmarks.server import LastCopy, Server
from benchmarks.timed_messages import TimedMessage, phase_start, timed_messages
from benchmarks.usage import Usage, run_pipeline
from examples.file_server import SENT
from loader.contract import ExitCode, ProgressMessage

WORKERS = 4
CONTENDER = loader("--progress=json", f"--workers={WORKERS}")
# How much of the staging exists when SIGTERM, and when SIGKILL, is sent.
STAGED_SHARE = 0.9
KILLED_SHARE = 0.6
# Disk space of the database per GB of the file, and reserve for its log and the sample.
STORED_GB_PER_GB, SPARE_GB = 1.4, 6
# The first and the last piece of the file are compared: a GB each, at most a quarter of the file.
PIECE_BYTES = 1e9
MAX_PIECE_SHARE = 0.25


class Loading(msgspec.Struct, frozen=True):
    """A load with its publish, and a DROP TABLE of the same tables by the server alone."""

    wall_seconds: float
    rows_seconds: float  # of the wall seconds, from the phase `loading` to the phase `publishing`
    client_cpu_seconds: float
    database_cpu_seconds: float
    peak_bytes: int
    first_piece_seconds: float
    last_piece_seconds: float
    publish_seconds: float
    table_bytes: int
    drop_table_seconds: float


class RollBack(msgspec.Struct, frozen=True):
    """A load that is interrupted when most of it is staged."""

    staged_bytes: int
    stop_seconds: float  # from SIGTERM to the end of the last COPY
    seconds: float  # from SIGTERM to the exit of the loader


class Resume(msgspec.Struct, frozen=True):
    """The resume of a load that was killed."""

    missing_bytes: int  # of the file, by the ledger
    fetched_bytes: int
    wall_seconds: float


class ScalingRun(msgspec.Struct, frozen=True):
    """Everything measured with one file."""

    label: str
    source_bytes: int
    loading: Loading
    roll_back: RollBack
    resume: Resume

    @property
    def seconds_per_gb(self) -> float:
        """Seconds per GB of the file, without start-up and publish, which do not depend on its size."""
        return self.loading.rows_seconds / self.source_bytes * 1e9

    @property
    def removal_seconds_per_gb(self) -> float:
        """Seconds of the roll back after the last COPY, per GB staged."""
        return (self.roll_back.seconds - self.roll_back.stop_seconds) / self.roll_back.staged_bytes * 1e9

    @property
    def drop_table_seconds_per_gb(self) -> float:
        """Seconds of the DROP TABLE, per GB."""
        return self.loading.drop_table_seconds / self.loading.table_bytes * 1e9

    @property
    def resume_share(self) -> float:
        """Time of the resume, relative to the whole load for the same number of bytes."""
        start_seconds = self.loading.wall_seconds - self.loading.rows_seconds
        return self.resume.wall_seconds / (
            start_seconds + self.seconds_per_gb * self.resume.missing_bytes / 1e9
        )


def run_once(server: Server, entry: Entry) -> ScalingRun:
    """Measure everything with one file."""
    loading = _load(server, entry)
    return ScalingRun(
        entry.label,
        entry.source_bytes,
        loading,
        _roll_back(server, entry, loading.table_bytes * STAGED_SHARE),
        _resume(server, entry, loading.table_bytes * KILLED_SHARE),
    )


class _Signal:
    """Sends a signal when enough is staged; then records when the last COPY ends."""

    def __init__(self, server: Server, number: signal.Signals, staged_bytes: float) -> None:
        self._server = server
        self._number = number
        self._empty_bytes = server.database_bytes()
        self._signal_at_bytes = staged_bytes
        self.last_copy = LastCopy(server)
        self.staged_bytes = 0  # when it was sent
        self.sent_at = 0.0

    def __call__(self, process_id: int) -> None:
        if not self.sent_at:
            self.staged_bytes = self._server.database_bytes() - self._empty_bytes
            if self.staged_bytes >= self._signal_at_bytes:
                os.kill(process_id, self._number)
                self.sent_at = time.perf_counter()
        else:
            self.last_copy.poll()


def _load(server: Server, entry: Entry) -> Loading:
    with server.fresh_database(entry.contender.prepare), timed_messages() as (output, messages):
        empty_bytes, cpu_seconds = server.database_bytes(), server.cpu_seconds()
        usage = _run(server, entry, output)
        cpu_seconds = server.cpu_seconds() - cpu_seconds
        table_bytes = server.database_bytes() - empty_bytes
        started_at = time.perf_counter()
        server.execute("DROP TABLE trips")
        drop_table_seconds = time.perf_counter() - started_at
    first, last = _piece_seconds(messages, entry.source_bytes)
    return Loading(
        wall_seconds=usage.wall_seconds,
        rows_seconds=phase_start(messages, "publishing") - phase_start(messages, "loading"),
        client_cpu_seconds=usage.cpu_seconds,
        database_cpu_seconds=cpu_seconds,
        peak_bytes=usage.peak_bytes,
        first_piece_seconds=first,
        last_piece_seconds=last,
        publish_seconds=messages[-1][0] - phase_start(messages, "publishing"),
        table_bytes=table_bytes,
        drop_table_seconds=drop_table_seconds,
    )


def _roll_back(server: Server, entry: Entry, staged_bytes: float) -> RollBack:
    with server.fresh_database(entry.contender.prepare):
        sent = _interrupt(server, entry, signal.SIGTERM, staged_bytes, ExitCode.TERMINATED)
        ended_at = time.perf_counter()
    stop_seconds = (sent.last_copy.ended_at or ended_at) - sent.sent_at
    return RollBack(sent.staged_bytes, stop_seconds, ended_at - sent.sent_at)


def _resume(server: Server, entry: Entry, staged_bytes: float) -> Resume:
    with server.fresh_database(entry.contender.prepare):
        _interrupt(server, entry, signal.SIGKILL, staged_bytes, -signal.SIGKILL)
        server.await_clients()  # one may be committing
        missing_bytes = entry.source_bytes - server.committed_bytes()
        sent_bytes = _sent_bytes(entry.source_url)
        usage = _run(server, entry)
        return Resume(missing_bytes, _sent_bytes(entry.source_url) - sent_bytes, usage.wall_seconds)


def _run(server: Server, entry: Entry, output: int = subprocess.DEVNULL) -> Usage:
    """Load the whole file; verify the number of rows."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = entry.contender.pipeline(entry.source_url, server.database_url)
    usage = run_pipeline(pipeline, environment, output=output)
    if (rows := server.row_count()) != entry.rows:
        sys.exit(f"{entry.label}: trips has {rows:,} rows, not {entry.rows:,}")
    return usage


def _interrupt(
    server: Server, entry: Entry, number: signal.Signals, staged_bytes: float, exit_code: int
) -> _Signal:
    """Start a load, send the loader a signal when that much is staged, and wait for its exit."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = entry.contender.pipeline(entry.source_url, server.database_url)
    sent = _Signal(server, number, staged_bytes)
    run_pipeline(pipeline, environment, watch=sent, exit_code=exit_code)
    return sent


def _sent_bytes(source_url: str) -> int:
    """Return how many bytes of files the server has sent so far."""
    url = urlsplit(source_url)._replace(path=SENT, query="").geturl()
    with urllib.request.urlopen(url) as response:  # noqa: S310 - the benchmark's own server
        return int(response.read())


def _piece_seconds(messages: Sequence[TimedMessage], source_bytes: int) -> tuple[float, float]:
    """Return the seconds that the first and the last piece of the file took."""
    loading = [
        (at, message.progress.bytes_done)
        for at, message in messages
        if isinstance(message, ProgressMessage) and message.phase in ("loading", "publishing")
    ]
    piece = min(PIECE_BYTES, source_bytes * MAX_PIECE_SHARE)
    ended = _reached(loading, source_bytes)
    return _reached(loading, piece) - loading[0][0], ended - _reached(loading, source_bytes - piece)


def _reached(loading: Sequence[tuple[float, int]], byte_count: float) -> float:
    """Return when that many bytes were loaded, interpolated between two messages."""
    before_at, before = loading[0]
    for at, done in loading:
        if done >= byte_count:
            share = (byte_count - before) / (done - before) if done > before else 0.0
            return before_at + (at - before_at) * share
        before_at, before = at, done
    return before_at
