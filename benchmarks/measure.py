"""Runs a pipeline of processes and measures it from outside: wall time, CPU time, peak memory.

CPU time is what the kernel reports of each process when it has ended (wait4(2)); that of the cores is of /proc/stat. Peak
memory is VmHWM of proc(5), looked at again and again: ru_maxrss would begin with the peak of the benchmark itself, which
it is forked from.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

# What memory grows by after the last look is missed; a look costs less than 0.1 ms.
POLL_SECONDS = 0.02

Pipeline = Sequence[Sequence[str]]  # commands; each reads what the one before it writes


class Usage(msgspec.Struct, frozen=True):
    """What a pipeline took."""

    wall_seconds: float  # from the first start to the last end
    cpu_seconds: float  # user and system, of all its processes and of those they waited for
    peak_bytes: int  # of resident memory, the sum of the processes' peaks
    busy_core_seconds: float  # whoever kept the cores busy
    idle_core_seconds: float  # of all cores that may be used, waits for the disk included
    stolen_core_seconds: float  # that the host of this virtual machine gave to others


def run_pipeline(
    pipeline: Pipeline,
    environment: Mapping[str, str],
    *,
    output: int = subprocess.DEVNULL,
    watch: Callable[[int], None] = lambda _process_id: None,
    exit_code: int = 0,
) -> Usage:
    """Run a pipeline to its end. Raises SystemExit where it does not end with `exit_code`.

    `output` is the last process' stdout. `watch` is called with its id every POLL_SECONDS until it has ended.
    """
    cores = _core_seconds()
    began = time.perf_counter()
    processes = _start(pipeline, environment, output)
    running = {os.pidfd_open(process.pid): process for process in processes}
    peaks: dict[int, int] = {}
    cpu_seconds = 0.0
    poll = select.poll()
    for descriptor in running:
        poll.register(descriptor, select.POLLIN)
    try:
        while running:
            for process in running.values():
                peaks[process.pid] = peak_bytes(process.pid) or peaks.get(process.pid, 0)
            if processes[-1].returncode is None:
                watch(processes[-1].pid)
            for descriptor, _ in poll.poll(POLL_SECONDS * 1000):
                cpu_seconds += _end(running.pop(descriptor))
                poll.unregister(descriptor)
                os.close(descriptor)
        wall_seconds = time.perf_counter() - began
        busy, idle, stolen = (after - before for before, after in zip(cores, _core_seconds(), strict=True))
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    for process, expected in zip(processes, [0] * (len(pipeline) - 1) + [exit_code], strict=True):
        if process.returncode != expected:
            sys.exit(f"{process.args} ended with {process.returncode}, not {expected}")
    return Usage(wall_seconds, cpu_seconds, sum(peaks.values()), busy, idle, stolen)


def _start(pipeline: Pipeline, environment: Mapping[str, str], output: int) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(pipeline, 1):
        upstream = processes[-1].stdout if processes else None
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=upstream or subprocess.DEVNULL,
            stdout=output if number == len(pipeline) else subprocess.PIPE,
        )
        if upstream:
            upstream.close()  # else its writer would not notice that the reader has ended
        processes.append(process)
    return processes


def _core_seconds() -> tuple[float, float, float]:
    """Return how long the cores that this process may use have been busy, idle and stolen so far."""
    cores = psutil.cpu_times(percpu=True)
    mine = [cores[number] for number in os.sched_getaffinity(0)]
    idle = sum(core.idle + core.iowait for core in mine)
    stolen = sum(core.steal for core in mine)
    busy = sum(core.user + core.nice + core.system + core.irq + core.softirq for core in mine)
    return busy, idle, stolen


def _end(process: subprocess.Popen[bytes]) -> float:
    """Take note of a process that has ended; return its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def peak_bytes(process_id: int) -> int | None:
    """Return the peak of resident memory, or None where the process has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    return int(found[1]) * 1024 if found else None
