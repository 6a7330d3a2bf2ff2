from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest

from loader.buffers import SEGMENT_BYTES, BufferPool
from loader.cancellation import SourceClosed
from loader.source.open import Source
from tests.support.http_server import Fault, HttpServer
from tests.support.source_reading import QUICK, opened, read

CONTENT = bytes(3 * SEGMENT_BYTES)
NEVER = 3600.0  # seconds: only a closed source ends the wait


def close_soon(source: Source) -> None:
    threading.Timer(0.1, source.close).start()


def fetch_threads_end() -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(thread.name.startswith(("fetch", "daemon of")) for thread in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("fault", [Fault(before="stall"), Fault(body_bytes=1_000, then="stall")])
@pytest.mark.parametrize("ranges", [True, False])
def test_closing_ends_a_wait_for_the_server(fault: Fault, ranges: bool) -> None:
    patient = msgspec.structs.replace(QUICK, read_timeout_seconds=NEVER)
    # without an ETag the stream is a second request
    with HttpServer(CONTENT, etag='"v1"' if ranges else None) as server:
        with opened(server.url, retry_policy=patient) as source:
            source.probe()
            server.rule = lambda _: fault
            close_soon(source)
            with pytest.raises(SourceClosed):
                read(source)
        assert fetch_threads_end()


def test_closing_ends_a_wait_between_retries() -> None:
    patient = msgspec.structs.replace(QUICK, first_delay_seconds=NEVER, max_delay_seconds=NEVER)
    with HttpServer(CONTENT) as server, opened(server.url, retry_policy=patient) as source:
        source.probe()
        server.rule = lambda _: Fault(status=503)
        close_soon(source)
        with pytest.raises(SourceClosed):
            read(source)
        assert fetch_threads_end()


def test_closing_ends_a_wait_for_a_free_buffer() -> None:
    with HttpServer(CONTENT) as server, opened(server.url) as source:
        source.probe()
        segments = source.segments(0, None, BufferPool(1))
        next(segments)
        close_soon(source)
        with pytest.raises(SourceClosed):
            next(segments)
        assert fetch_threads_end()


def test_closing_ends_a_probe_that_waits_for_a_response() -> None:
    patient = msgspec.structs.replace(QUICK, read_timeout_seconds=NEVER)
    with HttpServer(CONTENT) as server, opened(server.url, retry_policy=patient) as source:
        server.faults = [Fault(before="stall")]
        close_soon(source)
        with pytest.raises(SourceClosed):
            source.probe()
        assert fetch_threads_end()


def test_closing_ends_a_connect_that_hangs() -> None:
    patient = msgspec.structs.replace(QUICK, connect_seconds=NEVER)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # nothing accepts: when the queue is full the kernel drops further connections
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with opened(f"http://127.0.0.1:{full.getsockname()[1]}/", retry_policy=patient) as source:
            close_soon(source)
            with pytest.raises(SourceClosed):
                source.probe()
        assert fetch_threads_end()


def test_closing_ends_a_wait_for_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with opened(str(pipe)) as source:
        writer = threading.Thread(target=lambda: pipe.write_bytes(b"x" * 300_000))
        writer.start()
        source.probe()
        writer.join()
        holder = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        close_soon(source)
        with pytest.raises(SourceClosed):
            read(source)
        os.close(holder)
        assert fetch_threads_end()


def test_closing_twice_and_before_anything_is_nothing() -> None:
    with HttpServer(CONTENT) as server, opened(server.url) as source:
        source.close()
        source.close()
        with pytest.raises(SourceClosed):
            source.probe()
        assert not server.requests


def test_a_reader_that_stops_early_gives_every_buffer_back() -> None:
    pool = BufferPool(3)
    with HttpServer(CONTENT) as server, opened(server.url) as source:
        source.probe()
        for segment in source.segments(0, None, pool):
            pool.release(segment.buffer)
            break
        assert fetch_threads_end()
        assert all(pool.acquire(0.0) is not None for _ in range(3))
