"""The loader's whole run, again and again in one process: a job a line on stdin, its last message a line on stdout.

Started as `many_loads.py SEGMENT_BYTES HEAD_BYTES DATABASE_URL`. Nothing is left out but the command line: thousands of
small files are loaded in the time that starting an interpreter for each would take. Segments, parts, what the probe sees
of a file and how many of its rows it tries are small, so that small files are cut, too, and their rows get to the workers.
"""

from __future__ import annotations

import contextlib
import sys

import msgspec

SEGMENT_BYTES, HEAD_BYTES = int(sys.argv[1]), int(sys.argv[2])

from loader import buffers  # noqa: E402
from loader.source import base  # noqa: E402

buffers.SEGMENT_BYTES = buffers.HEAD_ROOM_BYTES = SEGMENT_BYTES
base.HEAD_BYTES = HEAD_BYTES

from loader.encoding import first_rows  # noqa: E402 - after the sizes that they take over
from loader.pipeline import commit_schedule  # noqa: E402 - after the sizes that they take over

first_rows.TRIED_ROWS = 3
commit_schedule.ONE_PART_BYTES = 0
setattr(commit_schedule, "_MIN_PART_BYTES", 2 * SEGMENT_BYTES)  # noqa: B010 - private to the module on purpose

from loader.contract import Job  # noqa: E402
from loader.pipeline.run import run  # noqa: E402

for line in sys.stdin:
    job = msgspec.json.decode(line, type=Job)
    last = run(job, lambda: contextlib.nullcontext(sys.argv[3]), lambda _: None, is_supervised=False)
    sys.stdout.write(msgspec.json.encode(last).decode() + "\n")
    sys.stdout.flush()
