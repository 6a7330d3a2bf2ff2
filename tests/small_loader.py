"""The loader with small segments and parts, so that a file of some megabytes has as many of them as one of terabytes."""

from __future__ import annotations

import os

from loader import buffers

buffers.SEGMENT_BYTES = buffers.HEAD_ROOM_BYTES = 64 * 1024

from loader import commit_schedule  # noqa: E402 - after the sizes that it takes over

commit_schedule.ONE_PART_BYTES = int(os.environ.get("SMALL_LOADER_ONE_PART_BYTES", "0"))
part_bytes = int(os.environ.get("SMALL_LOADER_PART_BYTES", "262144"))
setattr(commit_schedule, "_MIN_PART_BYTES", part_bytes)  # noqa: B010 - private to the module on purpose
if seconds := os.environ.get("SMALL_LOADER_PART_SECONDS"):
    setattr(commit_schedule, "_MIN_PART_SECONDS", float(seconds))  # noqa: B010

from loader import database, interrupt, load, publication, pulse, rollback, run  # noqa: E402

if seconds := os.environ.get("SMALL_LOADER_TRIPS_LOCK_SECONDS"):
    setattr(publication, "_LOCK_BUDGET_SECONDS", float(seconds))  # noqa: B010
if seconds := os.environ.get("SMALL_LOADER_LOCK_SECONDS"):
    setattr(publication, "_LOCK_BUDGET_SECONDS", float(seconds))  # noqa: B010
    publication.STAGING_LOCK_BUDGET_SECONDS = float(seconds)
    setattr(rollback, "_BUDGET_SECONDS", float(seconds))  # noqa: B010
if seconds := os.environ.get("SMALL_LOADER_DATABASE_SECONDS"):
    setattr(load, "_DATABASE_BUDGET_SECONDS", float(seconds))  # noqa: B010
if attempts := os.environ.get("SMALL_LOADER_FRUITLESS_ATTEMPTS"):
    setattr(load, "_MOST_FRUITLESS_ATTEMPTS", int(attempts))  # noqa: B010
if seconds := os.environ.get("SMALL_LOADER_SILENCE_SECONDS"):
    database.TCP_USER_TIMEOUT_MILLISECONDS = int(seconds) * 1000
    pulse.INTERVAL_SECONDS = float(seconds)
    database.CONNECT_TIMEOUT_SECONDS = 2  # libpq's least
if seconds := os.environ.get("SMALL_LOADER_HANG_SECONDS"):
    setattr(interrupt, "_COMMIT_SECONDS", float(seconds))  # noqa: B010
    setattr(rollback, "_HANG_SECONDS", float(seconds))  # noqa: B010
    setattr(run, "_END_SECONDS", float(seconds))  # noqa: B010

from loader.cli import main  # noqa: E402

main()
