"""A slow way for those who may not make links (link.py): a relay that holds back what the server sends.

Each request arrives a round trip late. Then a connection gets what its window lets through in each round trip, and all
of them together what the link lets through. It loses nothing.
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

from benchmarks.network.profile import Shape, Tally, Traffic, ask
from examples.file_server import serve

PIECE_BYTES = 64 * 1024


class Throttle:
    """See Way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.base_url = ask(process).strip()

    def from_client(self, command: Sequence[str]) -> list[str]:
        """See Way."""
        return list(command)

    def traffic(self) -> Traffic:
        """See Way."""
        return msgspec.json.decode(ask(self._process), type=Traffic)


@contextlib.contextmanager
def open_throttle(shape: Shape, folder: Path) -> Generator[Throttle]:
    """Open a slow way to a server of a folder's files, for as long as this lasts."""
    with serve(folder) as base_url:
        command = [sys.executable, "-m", __name__, base_url, msgspec.json.encode(shape).decode()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Throttle(process)
            finally:
                process.terminate()


class _Relay:
    def __init__(self, host: str, port: int, shape: Shape) -> None:
        self._host = host
        self._port = port
        self._shape = shape
        self._free_at = 0.0  # when the link has sent what waits before it
        self.tally = Tally()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection, until either side ends it."""
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._ask(reader, server_writer), self._answer(server_reader, writer))
        writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await asyncio.sleep(self._shape.round_trip_seconds)
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        window_seconds = self._shape.round_trip_seconds / self._shape.send_buffer_bytes  # a byte
        link_seconds = 8 / self._shape.bits_per_second
        let_through_at = 0.0
        while piece := await reader.read(PIECE_BYTES):
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + len(piece) * link_seconds
            let_through_at = max(now, let_through_at) + len(piece) * window_seconds
            await asyncio.sleep(max(self._free_at, let_through_at) - now)
            self.tally.add(time.monotonic(), len(piece))
            writer.write(piece)
            await writer.drain()
        writer.close()


async def main(base_url: str, shape: Shape) -> None:
    """Be a relay. Each line of input is answered: the first with the address, the next with the traffic."""
    parts = urlsplit(base_url)
    relay = _Relay(str(parts.hostname), parts.port or 80, shape)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.to_thread(sys.stdin.readline)
    print(f"http://127.0.0.1:{port}", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(msgspec.json.encode(relay.tally.end()).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Shape)))
