"""An emulated network for users who may not create links (link.py): a relay that delays what the server sends.

Each request arrives one round trip late. Per round trip a connection gets as many bytes as its window, and all
connections together get the link's rate. No packet is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.network.profile import NetworkProfile, Traffic, TrafficCounter, query
from examples.file_server import serve

PIECE_BYTES = 64 * 1024


class Throttle:
    """Implements EmulatedNetwork."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.base_url = query(process).strip()

    def client_command(self, command: Sequence[str]) -> list[str]:
        """Return the command itself: the client runs where the benchmark does."""
        return list(command)

    def traffic(self) -> Traffic:
        """Return what the client received since the last call."""
        return msgspec.json.decode(query(self._process), type=Traffic)


@contextlib.contextmanager
def open_throttle(profile: NetworkProfile, folder: Path) -> Generator[Throttle]:
    """Serve the files of a folder through a relay, until the context ends."""
    with serve(folder) as base_url:
        command = [sys.executable, "-m", __name__, base_url, msgspec.json.encode(profile).decode()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Throttle(process)
            finally:
                process.terminate()


class _Relay:
    def __init__(self, host: str, port: int, profile: NetworkProfile) -> None:
        self._host = host
        self._port = port
        self._profile = profile
        self._free_at = 0.0  # when the link has sent everything that is queued
        self.counter = TrafficCounter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection, until either side ends it."""
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(
                self._relay_requests(reader, server_writer), self._relay_responses(server_reader, writer)
            )
        writer.close()

    async def _relay_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await asyncio.sleep(self._profile.round_trip_seconds)
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def _relay_responses(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        window_seconds = self._profile.round_trip_seconds / self._profile.send_buffer_bytes  # per byte
        link_seconds = 8 / self._profile.bits_per_second  # per byte
        window_free_at = 0.0
        while piece := await reader.read(PIECE_BYTES):
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + len(piece) * link_seconds
            window_free_at = max(now, window_free_at) + len(piece) * window_seconds
            await asyncio.sleep(max(self._free_at, window_free_at) - now)
            self.counter.add(time.monotonic(), len(piece))
            writer.write(piece)
            await writer.drain()
        writer.close()


async def main(base_url: str, profile: NetworkProfile) -> None:
    """Run a relay. It replies to each line of input: to the first with its URL, to the others with the traffic."""
    parts = urlsplit(base_url)
    relay = _Relay(str(parts.hostname), parts.port or 80, profile)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.to_thread(sys.stdin.readline)
    print(f"http://127.0.0.1:{port}", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(msgspec.json.encode(relay.counter.take()).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], msgspec.json.decode(sys.argv[2], type=NetworkProfile)))
