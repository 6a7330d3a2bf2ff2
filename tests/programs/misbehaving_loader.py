"""A program that a supervisor starts as a loader, and that misbehaves as the job's source says.

The path of the source's URL is the name of a function below, its query an argument.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from typing import NoReturn
from urllib.parse import urlsplit

PROGRESS = {
    "bytes_done": 5,
    "bytes_total": 10,
    "percent": 50.0,
    "rows_loaded": 3,
    "rows_rejected": 0,
    "bytes_per_second": None,
    "rows_per_second": None,
    "eta_seconds": None,
}


def report(kind: str, **fields: object) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)


def end(code: str, exit_code: int, *, retryable: bool = False, staging: str = "none") -> NoReturn:
    failure = {"code": code, "message": "It is odd.", "hint": "None.", "retryable": retryable}
    report("failed", failure=failure, staging=staging)
    os._exit(exit_code)


def fails(_: str) -> None:
    end("bad_row", 65)


def fails_retryably(_: str) -> None:
    end("source_unreachable", 66, retryable=True)


def finds_a_bad_row(_: str) -> None:
    """Fail for good, without having removed what was committed."""
    end("bad_row", 65, staging="unknown")


def is_forbidden(_: str) -> None:
    """Fail for good, with what was committed kept."""
    end("source_forbidden", 66, staging="kept")


def loses_its_database(_: str) -> None:
    """Fail as if the database were away."""
    end("database_unavailable", 69, retryable=True, staging="unknown")


def finds_trips_locked(_: str) -> None:
    end("table_locked", 75, retryable=True, staging="kept")


def dies(number: str) -> None:
    os.kill(os.getpid(), int(number))


def exits(code: str) -> None:
    sys.stderr.write("that is all\n")
    sys.stderr.flush()
    os._exit(int(code))


def waits(phase: str) -> None:
    """Report as a loader does in a phase, until its stdin ends."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.set_blocking(0, False)
    while sys.stdin.buffer.read() != b"":  # None: there is nothing yet
        report("progress", phase=phase or "loading", progress=PROGRESS)
        time.sleep(0.05)
    end("suspended", 75, retryable=True, staging="kept")


def fails_when_stopped(_: str) -> None:
    """Report as a loader does, and on SIGTERM end with another failure than `terminated`."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    sys.stderr.write("that is all\n")
    sys.stderr.flush()
    while not signals:
        report("progress", phase="loading", progress=PROGRESS)
        time.sleep(0.05)
    end("source_unreachable", 66, retryable=True, staging="unknown")


def ignores_signals(_: str) -> None:
    """Report progress, and ignore all signals."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        report("progress", phase="loading", progress=PROGRESS)
        time.sleep(0.05)


def is_silent(_: str) -> None:
    report("progress", phase="probing", progress=PROGRESS)
    while True:
        signal.pause()


def writes_unknown_messages(_: str) -> None:
    print("not JSON")
    sys.stdout.buffer.write(b'{"type": "progress", "phase": "\xff"}\n\n')
    print('{"type": "weather", "sunny": true}')
    print('{"type": "progress", "phase": "dancing"}')
    print("42")
    report("progress", phase="publishing", progress={**PROGRESS, "mood": "good"}, later_field=[1])
    end("bad_row", 65)


def floods(size: str) -> None:
    """Write far more than pipes hold, to both."""
    line = "x" * 999 + "\n"
    for number in range(int(size) // 1000):
        sys.stderr.write(line)
        report("progress", phase="loading", progress={**PROGRESS, "rows_loaded": number})
    sys.stderr.write("y" * 3_000_000)
    sys.stderr.write("the very end\n")
    sys.stderr.flush()
    end("bad_row", 65)


def leaves_a_child(_: str) -> None:
    """End while a process that it started still holds its pipes."""
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
    sys.stderr.write(f"{child.pid}\n")
    sys.stderr.flush()
    end("bad_row", 65)


def writes_a_long_line(size: str) -> None:
    print("x" * int(size))
    end("bad_row", 65)


def prints_its_environment(_: str) -> None:
    surroundings = {
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "session": os.getsid(0) == os.getpid(),
        "files": sorted(os.listdir("/dev/fd")),
    }
    sys.stderr.write(json.dumps(surroundings))
    sys.stderr.flush()
    end("bad_row", 65)


def quotes_its_job(_: str) -> None:
    sys.stderr.write(f"Traceback: {LINE}")
    sys.stderr.flush()
    end("bad_row", 65)


if sys.argv[1] == "drop":  # that is the real one's
    os.execv(sys.executable, [sys.executable, "-P", "-m", "loader", *sys.argv[1:]])

LINE = sys.stdin.readline()
url = urlsplit(str(json.loads(LINE)["source"]))
globals()[url.path[1:]](url.query)
