"""Encodes a sample for limit.py, once: a complete binary COPY for each connection."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.samples import made_once, warm
from loader.buffers import BufferPool
from loader.encoding.encoder import COPY_HEADER, COPY_TRAILER, Encoder
from loader.encoding.header import read_header
from loader.kernel.cache import sources_digest
from loader.pipeline.coverage import PendingBlocks
from loader.source.open import open_source

# One each for the source, the encoder, and in between.
BUFFERS = 3


def encoded(sample: Path, connections: int) -> list[Path]:
    """Return one file per connection, in the page cache, each with every n-th block; encode them if they don't exist."""

    def write(unfinished: Path) -> None:
        unfinished.mkdir(exist_ok=True)
        files = [(unfinished / f"{number}.copy").open("wb") for number in range(connections)]
        source = open_source(str(sample))
        info = source.probe()
        header = read_header(info.head, is_whole=info.head_is_whole)
        encoder, pool = Encoder(header.column_count), BufferPool(BUFFERS)
        for file in files:
            file.write(COPY_HEADER)
        pending = PendingBlocks(source, pool, [], header.data_start, info.size_bytes)
        for number, block in enumerate(pending.blocks()):
            for chunk in encoder.encode(block):
                files[number % connections].write(chunk.payload)
            pool.release(block.buffer)
        for file in files:
            file.write(COPY_TRAILER)
            file.close()
        source.close()

    folder = sample.with_suffix(f".encoded-{connections}-{sources_digest()}")
    for stale in set(sample.parent.glob(f"{sample.stem}.encoded-{connections}*")) - {folder}:
        shutil.rmtree(stale)
    files = sorted(made_once(folder, write).iterdir())
    for file in files:
        warm(file)
    return files
