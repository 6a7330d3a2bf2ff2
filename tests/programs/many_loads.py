"""The loader's whole run, again and again in one process: a job a line on stdin, its last message a line on stdout.

Started as `many_loads.py SEGMENT_BYTES HEAD_BYTES DATABASE_URL`. Only the command line is left out: thousands of small
files are loaded in the time that starting an interpreter for each would take. Segments, parts, the probed head and the
number of probed rows are small, so that small files are cut, too, and their rows get to the workers.
"""

from __future__ import annotations

import contextlib
import sys

import msgspec

from loader.contract import Job
from loader.limits import Limits
from loader.pipeline.run import run

segment_bytes, head_bytes, database_url = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
limits = Limits(
    segment_bytes=segment_bytes,
    head_bytes=head_bytes,
    probed_rows=3,
    one_part_bytes=0,
    min_part_bytes=2 * segment_bytes,
)

for line in sys.stdin:
    job = msgspec.json.decode(line, type=Job)
    last = run(
        job, lambda: contextlib.nullcontext(database_url), lambda _: None, is_supervised=False, limits=limits
    )
    sys.stdout.write(msgspec.json.encode(last).decode() + "\n")
    sys.stdout.flush()
