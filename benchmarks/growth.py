"""What must not grow with the file: the loader's memory and the publish; and what may: the roll back, with the staging."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import msgspec
from contenders import loader
from measure import run_pipeline
from report import Goal, goals_table, spread, table
from server import LastCopy, Server
from trial import Entry

from loader.wire import ExitCode, Message, ProgressMessage

WORKERS = 4
CONTENDER = loader("--progress=json", f"--workers={WORKERS}")
# The share of the staging that is there when SIGTERM is sent.
STAGED_SHARE = 0.9

MEMORY_LIMIT_MB = 400
# No two runs of allocators and threads are the same: the larger file may take so much more.
MEMORY_GROWTH_LIMIT = 1.1
PUBLISH_LIMIT_SECONDS = 1
STOP_LIMIT_SECONDS = 0.5


class GrowthTrial(msgspec.Struct, frozen=True):
    """One load, publish and DROP TABLE of a file, and one roll back of most of it."""

    label: str
    source_bytes: int
    wall_seconds: float
    peak_bytes: int
    publish_seconds: float
    table_bytes: int
    drop_table_seconds: float
    staged_bytes: int
    stop_seconds: float  # from SIGTERM to the end of the last COPY
    roll_back_seconds: float  # from SIGTERM to the loader's end

    @property
    def removal_seconds_a_gb(self) -> float:
        """What the roll back took after loading had stopped, for each GB staged."""
        return (self.roll_back_seconds - self.stop_seconds) / self.staged_bytes * 1e9

    @property
    def drop_table_seconds_a_gb(self) -> float:
        """What the server alone needs to drop the same tables."""
        return self.drop_table_seconds / self.table_bytes * 1e9


class _Interruption:
    """Sends SIGTERM when the database is large enough, and sees when the last COPY ends."""

    def __init__(self, server: Server, database_bytes: float) -> None:
        self._server = server
        self._database_bytes = database_bytes
        self.last_copy = LastCopy(server)
        self.database_bytes = 0  # when it was sent
        self.sent_at = 0.0

    def __call__(self, process_id: int) -> None:
        if not self.sent_at:
            self.database_bytes = self._server.database_bytes()
            if self.database_bytes >= self._database_bytes:
                os.kill(process_id, signal.SIGTERM)
                self.sent_at = time.perf_counter()
        else:
            self.last_copy.look()


def try_once(server: Server, entry: Entry) -> GrowthTrial:
    """Load and publish a file, drop its table; then load it again and end that with SIGTERM."""
    environment = {**os.environ, "DATABASE_URL": server.database_url}
    pipeline = entry.contender.pipeline(entry.source_url, server.database_url)

    with server.fresh_database(entry.contender.prepare), _timed_messages() as (output, messages):
        empty_bytes = server.database_bytes()
        usage = run_pipeline(pipeline, environment, output=output)
        if (rows := server.row_count()) != entry.rows:
            sys.exit(f"trips has {rows:,} rows, not {entry.rows:,}")
        full_bytes = server.database_bytes()
        began = time.perf_counter()
        server.execute("DROP TABLE trips")
        drop_table_seconds = time.perf_counter() - began
    publish_seconds = _publish_seconds(messages)

    with server.fresh_database(entry.contender.prepare):
        interruption = _Interruption(server, empty_bytes + (full_bytes - empty_bytes) * STAGED_SHARE)
        run_pipeline(pipeline, environment, watch=interruption, exit_code=ExitCode.TERMINATED)
        ended_at = time.perf_counter()
    return GrowthTrial(
        label=entry.label,
        source_bytes=entry.source_bytes,
        wall_seconds=usage.wall_seconds,
        peak_bytes=usage.peak_bytes,
        publish_seconds=publish_seconds,
        table_bytes=full_bytes - empty_bytes,
        drop_table_seconds=drop_table_seconds,
        staged_bytes=interruption.database_bytes - empty_bytes,
        stop_seconds=(interruption.last_copy.ended_at or ended_at) - interruption.sent_at,
        roll_back_seconds=ended_at - interruption.sent_at,
    )


def report(trials: Sequence[GrowthTrial]) -> str:
    """Return tables of medians and spreads, a row a size, and of the goals."""
    by_label: dict[str, list[GrowthTrial]] = {}
    for trial in trials:
        by_label.setdefault(trial.label, []).append(trial)
    rows = [
        [
            label,
            spread([trial.wall_seconds for trial in group], 1),
            spread([trial.peak_bytes / 1e6 for trial in group], 0),
            spread([trial.publish_seconds for trial in group], 3),
            spread([trial.staged_bytes / 1e9 for trial in group], 2),
            spread([trial.stop_seconds for trial in group], 2),
            spread([trial.roll_back_seconds for trial in group], 2),
            spread([trial.removal_seconds_a_gb for trial in group], 3),
            spread([trial.drop_table_seconds_a_gb for trial in group], 3),
        ]
        for label, group in by_label.items()
    ]
    columns = [
        "file",
        "wall s",
        "loader memory MB",
        "publish s",
        "staged GB at SIGTERM",
        "last COPY ended after s",
        "loader ended after s",
        "removal s/GB",
        "DROP TABLE s/GB",
    ]
    return f"{table(columns, rows)}\n\n{goals_table(_goals(list(by_label.values())))}"


def _goals(groups: Sequence[Sequence[GrowthTrial]]) -> list[Goal]:
    """Return what must hold of the sizes, which are in ascending order."""

    def worst(of: Callable[[GrowthTrial], float]) -> float:
        return max(statistics.median(of(trial) for trial in group) for group in groups)

    def growth(of: Callable[[GrowthTrial], float]) -> float:
        smallest, largest = (
            statistics.median(of(trial) for trial in group) for group in (groups[0], groups[-1])
        )
        return largest / smallest

    return [
        Goal(
            f"loader memory, {WORKERS} workers",
            MEMORY_LIMIT_MB,
            worst(lambda trial: trial.peak_bytes / 1e6),
            " MB",
        ),
        Goal(
            "the same, largest file ÷ smallest", MEMORY_GROWTH_LIMIT, growth(lambda trial: trial.peak_bytes)
        ),
        Goal("publish", PUBLISH_LIMIT_SECONDS, worst(lambda trial: trial.publish_seconds), " s"),
        Goal(
            "loading stops after SIGTERM", STOP_LIMIT_SECONDS, worst(lambda trial: trial.stop_seconds), " s"
        ),
        # A small file is still in the server's memory and costs less: so each size is held to the server's own DROP.
        Goal(
            "removal s/GB ÷ DROP TABLE s/GB",
            1,
            worst(lambda trial: trial.removal_seconds_a_gb / trial.drop_table_seconds_a_gb),
        ),
    ]


@contextmanager
def _timed_messages() -> Generator[tuple[int, list[tuple[float, Message]]]]:
    """Yield a file descriptor for a loader's stdout, and a list of when which message came; whole when this ends."""
    read_end, write_end = os.pipe()
    messages: list[tuple[float, Message]] = []

    def read() -> None:
        with os.fdopen(read_end, "rb") as lines:
            messages.extend((time.perf_counter(), msgspec.json.decode(line, type=Message)) for line in lines)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield write_end, messages
    finally:
        os.close(write_end)
        thread.join()


def _publish_seconds(messages: Sequence[tuple[float, Message]]) -> float:
    """Return the time from the first message of the phase to the last message."""
    began = next(
        at
        for at, message in messages
        if isinstance(message, ProgressMessage) and message.phase == "publishing"
    )
    return messages[-1][0] - began
