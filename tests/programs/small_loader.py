"""The loader with small segments and parts, so that a file of some megabytes has as many of them as one of terabytes."""

from __future__ import annotations

import os

from loader import buffers

buffers.SEGMENT_BYTES = buffers.HEAD_ROOM_BYTES = 64 * 1024

from loader.pipeline import commit_schedule  # noqa: E402 - after the sizes that it takes over

commit_schedule.ONE_PART_BYTES = int(os.environ.get("SMALL_LOADER_ONE_PART_BYTES", "0"))
part_bytes = int(os.environ.get("SMALL_LOADER_PART_BYTES", "262144"))
setattr(commit_schedule, "_MIN_PART_BYTES", part_bytes)  # noqa: B010 - private to the module on purpose
if seconds := os.environ.get("SMALL_LOADER_PART_SECONDS"):
    setattr(commit_schedule, "_MIN_PART_SECONDS", float(seconds))  # noqa: B010

from loader import cancellation  # noqa: E402
from loader.pipeline import attempt, rollback, run  # noqa: E402
from loader.postgres import connection, publish, watchdog  # noqa: E402

if seconds := os.environ.get("SMALL_LOADER_TRIPS_LOCK_SECONDS"):
    setattr(publish, "_LOCK_BUDGET_SECONDS", float(seconds))  # noqa: B010
if seconds := os.environ.get("SMALL_LOADER_LOCK_SECONDS"):
    setattr(publish, "_LOCK_BUDGET_SECONDS", float(seconds))  # noqa: B010
    publish.STAGING_LOCK_BUDGET_SECONDS = float(seconds)
    setattr(rollback, "_BUDGET_SECONDS", float(seconds))  # noqa: B010
if seconds := os.environ.get("SMALL_LOADER_DATABASE_SECONDS"):
    setattr(attempt, "_DATABASE_BUDGET_SECONDS", float(seconds))  # noqa: B010
if attempts := os.environ.get("SMALL_LOADER_FRUITLESS_ATTEMPTS"):
    setattr(attempt, "_MAX_FRUITLESS_ATTEMPTS", int(attempts))  # noqa: B010
if seconds := os.environ.get("SMALL_LOADER_SILENCE_SECONDS"):
    connection.TCP_USER_TIMEOUT_MILLISECONDS = int(seconds) * 1000
    watchdog.INTERVAL_SECONDS = float(seconds)
    connection.CONNECT_TIMEOUT_SECONDS = 2  # libpq's least
if seconds := os.environ.get("SMALL_LOADER_HANG_SECONDS"):
    setattr(cancellation, "_COMMIT_SECONDS", float(seconds))  # noqa: B010
    setattr(rollback, "_HANG_SECONDS", float(seconds))  # noqa: B010
    setattr(run, "_END_SECONDS", float(seconds))  # noqa: B010

from loader.cli.main import main  # noqa: E402

main()
