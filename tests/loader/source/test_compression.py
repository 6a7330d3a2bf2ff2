"""Decompressors: all bytes, in pieces of any size, and detection of a missing end."""

from __future__ import annotations

import gzip
import itertools
import random
from collections.abc import Iterable, Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from loader.source.compression import (
    Compression,
    CorruptData,
    Decompressor,
    GzipDecompressor,
    compression_of,
    open_decompressor,
)

SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def compressed(form: Compression, data: bytes) -> bytes:
    """Return one member of gzip, or one frame of zstd."""
    if form == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@st.composite
def compressed_files(draw: st.DrawFn) -> tuple[Compression, bytes, bytes, set[int]]:
    """Return a format, a file of several members, what is in it, and how long its beginning may be to be whole."""
    form: Compression = draw(st.sampled_from(["gzip", "zstd"]))
    file, content, ends = b"", b"", {0}
    for data in draw(
        st.lists(st.sampled_from([b"", b"a", b"abc" * 50, b"x" * 200, bytes(range(256))]), max_size=4)
    ):
        file += compressed(form, data)
        content += data
        ends.add(len(file))
        for _ in range(draw(st.integers(0, 3))):
            file += b"\0" if form == "gzip" else SKIPPABLE
            ends.add(len(file))
    return form, file, content, ends


def chunks_of(file: bytes, cuts: Iterable[int]) -> Iterator[memoryview]:
    """Yield a file in pieces, each of which is lost when the next is taken."""
    borders = [0, *sorted(cut for cut in cuts if cut < len(file)), len(file)]
    for begin, end in itertools.pairwise(borders):
        if begin < end:
            piece = bytearray(file[begin:end])
            yield memoryview(piece)
            piece[:] = b"\xff" * len(piece)


def read_all(unpacker: Decompressor, sizes: Iterator[int]) -> bytes:
    """Read to the end, so many bytes at a time."""
    content = b""
    consumed = 0
    while True:
        view = memoryview(bytearray(next(sizes)))
        count = unpacker.readinto(view)
        content += view[:count]
        assert consumed <= unpacker.consumed_bytes
        consumed = unpacker.consumed_bytes
        if count < len(view):
            return content


@given(
    compressed_files(),
    st.sets(st.integers(1, 600), max_size=6),
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    st.integers(0, 600),
)
def test_a_decompressor_gives_all_bytes_in_any_pieces_and_knows_a_cut_off_end(
    known: tuple[Compression, bytes, bytes, set[int]], cuts: set[int], sizes: list[int], cut_off: int
) -> None:
    form, file, content, ends = known

    def open_with_small_pieces(chunks: Iterator[memoryview]) -> Decompressor:
        return GzipDecompressor(chunks, piece_bytes=50) if form == "gzip" else open_decompressor(form, chunks)

    unpacker = open_with_small_pieces(chunks_of(file, cuts))
    assert read_all(unpacker, itertools.cycle(sizes)) == content
    assert (unpacker.consumed_bytes, unpacker.is_complete) == (len(file), True)

    beginning = file[:cut_off]
    unpacker = open_with_small_pieces(chunks_of(beginning, cuts))
    assert content.startswith(read_all(unpacker, itertools.cycle(sizes)))
    assert unpacker.consumed_bytes == len(beginning)
    assert unpacker.is_complete == (len(beginning) in ends)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_chunks_longer_than_what_is_read_at_once_are_read_whole(form: Compression) -> None:
    content = random.Random(5).randbytes(500_000)
    file = compressed(form, content)
    unpacker = open_decompressor(form, chunks_of(file, [300_000]))
    assert read_all(unpacker, itertools.repeat(70_000)) == content
    assert (unpacker.consumed_bytes, unpacker.is_complete) == (len(file), True)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_a_view_without_room_takes_nothing(form: Compression) -> None:
    unpacker = open_decompressor(form, iter([memoryview(compressed(form, b"abc"))]))
    assert (unpacker.readinto(memoryview(b"")), unpacker.consumed_bytes) == (0, 0)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_bytes_that_are_not_compressed_are_damaged_behind_the_end_too(form: Compression) -> None:
    file = compressed(form, b"abc")
    for damaged in (b"no such format", file + b"no such format", file[:-6] + b"no such format"):
        with pytest.raises(CorruptData) as caught:
            read_all(open_decompressor(form, iter([memoryview(damaged)])), itertools.repeat(100))
        assert str(caught.value)  # the message of libz or libzstd


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_only_zeros_behind_a_gzip_member_are_padding(form: Compression) -> None:
    for byte in range(256):
        file = compressed(form, b"abc") + bytes([byte])
        unpacker = open_decompressor(form, iter([memoryview(file)]))
        try:
            read_all(unpacker, itertools.repeat(100))
        except CorruptData:
            continue
        assert unpacker.is_complete == (form == "gzip" and byte == 0)


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (compressed("gzip", b"a"), "gzip"),
        (compressed("zstd", b"a"), "zstd"),
        *((bytes([byte]) + b"\x2a\x4d\x18x", "zstd") for byte in range(0x50, 0x60)),  # RFC 8878, 3.1.2
        (b"\x4f\x2a\x4d\x18x", None),
        (b"\x60\x2a\x4d\x18x", None),
        (b"\x1f\x8b\x07", None),  # another method
        (b"a\x1f\x8b\x08", None),
        (b"a,b\n", None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell_the_format(head: bytes, form: Compression | None) -> None:
    assert compression_of(head) == form


def test_a_zstd_frame_may_ask_for_as_much_memory_as_the_zstd_program_grants() -> None:
    for window_log in (27, 28):
        parameters = zstandard.ZstdCompressionParameters(window_log=window_log)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        file = compressor.compress(b"abc") + compressor.flush()
        unpacker = open_decompressor("zstd", iter([memoryview(file)]))
        if window_log == 27:
            assert read_all(unpacker, itertools.repeat(100)) == b"abc"
        else:
            with pytest.raises(CorruptData):
                read_all(unpacker, itertools.repeat(100))
