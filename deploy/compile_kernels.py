"""Run while the image is built: compiles into NUMBA_CACHE_DIR all that `loader run` and `loader sample` would compile."""

from __future__ import annotations

import io

from loader.blocks import cut
from loader.buffers import HEAD_ROOM_BYTES, Buffer, Segment
from loader.encode import Encoder
from loader.sample import COLUMN_COUNT, write_sample


def main() -> None:
    """Let a small sample take the way of an import's bytes, up to the database."""
    sample = io.BytesIO()
    write_sample(sample, rows=1000, seed=1)
    rows = sample.getvalue().split(b"\n", 1)[1]
    buffer = Buffer()
    end = HEAD_ROOM_BYTES + len(rows)
    buffer.view[HEAD_ROOM_BYTES:end] = rows
    for block in cut([Segment(buffer, HEAD_ROOM_BYTES, end, 0, len(rows))], 2, lambda _buffer: None):
        for _ in Encoder(COLUMN_COUNT).encode(block):
            pass


if __name__ == "__main__":
    main()
