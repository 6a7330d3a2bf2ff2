"""Runs a pipeline of processes and measures its wall time, CPU time and peak memory.

The CPU time of a process is from wait4(2), that of the cores from /proc/stat. Peak memory is VmHWM of proc(5), polled:
ru_maxrss would include the benchmark's own peak at the fork.
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

# Growth of memory after the last poll is missed. A poll costs less than 0.1 ms.
POLL_INTERVAL_SECONDS = 0.02

Pipeline = Sequence[Sequence[str]]  # commands, connected by pipes


class Usage(msgspec.Struct, frozen=True):
    """Resources used by a pipeline."""

    wall_seconds: float  # from the first start to the last exit
    cpu_seconds: float  # user and system, of all its processes and the children they reaped
    peak_bytes: int  # of resident memory, the sum of the processes' peaks
    busy_core_seconds: float  # of all processes on the machine
    idle_core_seconds: float  # of all cores that may be used, including waits for the disk
    stolen_core_seconds: float  # that the host gave to other virtual machines


def run_pipeline(
    pipeline: Pipeline,
    environment: Mapping[str, str],
    *,
    output: int = subprocess.DEVNULL,
    watch: Callable[[int], None] = lambda _process_id: None,
    exit_code: int = 0,
) -> Usage:
    """Run a pipeline until all processes have exited. Raises SystemExit if the last exit code is not `exit_code`.

    `output` is the last process's stdout. `watch` is called with its id every POLL_INTERVAL_SECONDS until it exits.
    """
    if sys.platform != "linux":
        raise NotImplementedError("pidfd_open(2) and /proc are Linux's")
    cores = _core_seconds()
    started_at = time.perf_counter()
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
            for descriptor, _ in poll.poll(POLL_INTERVAL_SECONDS * 1000):
                cpu_seconds += _end(running.pop(descriptor))
                poll.unregister(descriptor)
                os.close(descriptor)
        wall_seconds = time.perf_counter() - started_at
        busy, idle, stolen = (after - before for before, after in zip(cores, _core_seconds(), strict=True))
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    for process, expected in zip(processes, [0] * (len(pipeline) - 1) + [exit_code], strict=True):
        if process.returncode != expected:
            sys.exit(f"{process.args} exited with {process.returncode}, not {expected}")
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
            upstream.close()  # else its writer would not notice that the reader has exited
        processes.append(process)
    return processes


def _core_seconds() -> tuple[float, float, float]:
    """Return the busy, idle and stolen seconds so far of the cores that this process may use."""
    if sys.platform != "linux":
        raise NotImplementedError("other systems do not count stolen time")
    cores = psutil.cpu_times(percpu=True)
    mine = [cores[number] for number in os.sched_getaffinity(0)]
    idle = sum(core.idle + core.iowait for core in mine)
    stolen = sum(core.steal for core in mine)
    busy = sum(core.user + core.nice + core.system + core.irq + core.softirq for core in mine)
    return busy, idle, stolen


def _end(process: subprocess.Popen[bytes]) -> float:
    """Reap a process that has exited; return its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def peak_bytes(process_id: int) -> int | None:
    """Return the peak resident memory, or None if the process has exited."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    return int(found[1]) * 1024 if found else None
