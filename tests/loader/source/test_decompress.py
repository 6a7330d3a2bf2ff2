from __future__ import annotations

import functools
import gzip
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from loader.buffers import SEGMENT_BYTES
from loader.contract import FailureCode
from loader.encoding.header import read_header
from loader.errors import LoaderError
from loader.source.decompress import RATIO_GRACE_BYTES
from tests.support.http_server import Fault, HttpServer
from tests.support.source_reading import HEAD_BYTES, opened, probe_and_read, read

_random = random.Random(4)
# Compressible threefold, and longer than two segments.
CONTENT = b"".join(b"%d,%d\n" % (number, _random.randrange(10**6)) for number in range(1_500_000))
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\x00\x00\x00hello"


@functools.cache
def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1)


@functools.cache
def zstandarded(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)


COMPRESSORS = [pytest.param(gzipped, id="gzip"), pytest.param(zstandarded, id="zstd")]
Compressor = Callable[[bytes], bytes]


def failure_of(location: str | Path) -> LoaderError:
    with pytest.raises(LoaderError) as caught:
        probe_and_read(str(location))
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trips.csv"  # no name tells what is in it


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_a_compressed_path_arrives_decompressed(path: Path, compress: Compressor) -> None:
    path.write_bytes(compress(CONTENT))
    info, whole = probe_and_read(str(path))
    assert info.compression == ("gzip" if compress is gzipped else "zstd")
    assert info.size_bytes == path.stat().st_size
    assert info.resumable
    assert (info.head, info.head_is_whole) == (CONTENT[:HEAD_BYTES], False)
    assert len(CONTENT) > 2 * SEGMENT_BYTES
    assert (whole.data, whole.source_bytes, whole.length_verified) == (CONTENT, info.size_bytes, True)


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_compressed_file_arrives_over_http(compress: Compressor, ranges: bool) -> None:
    with HttpServer(compress(CONTENT), ranges=ranges) as server:
        # what servers say of such files; it is the bytes that count
        server.rule = lambda _: Fault(headers={"Content-Encoding": "gzip", "Content-Type": "text/csv"})
        info, whole = probe_and_read(server.url)
    assert info.resumable
    assert (whole.data, whole.source_bytes) == (CONTENT, info.size_bytes)


def test_plain_bytes_labelled_as_gzip_are_plain() -> None:
    with HttpServer(CONTENT) as server:
        server.rule = lambda _: Fault(headers={"Content-Encoding": "gzip"})
        info, whole = probe_and_read(server.url)
    assert info.compression is None
    assert whole.data == CONTENT


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("ranges", [True, False])
def test_missing_ranges_are_found_by_skipping(compress: Compressor, ranges: bool) -> None:
    with HttpServer(compress(CONTENT), ranges=ranges) as server, opened(server.url) as source:
        info = source.probe()
        first = read(source, 1_000, 2_000)
        assert first.data == CONTENT[1_000:2_000]
        second = read(source, 9_000_000, 9_500_000)  # continues
        assert second.data == CONTENT[9_000_000:9_500_000]
        rest = read(source, 9_500_000)
        assert rest.data == CONTENT[9_500_000:]
        assert first.source_bytes + second.source_bytes + rest.source_bytes == info.size_bytes
        again = read(source, 500)  # starts over
        assert (again.data, again.source_bytes) == (CONTENT[500:], info.size_bytes)


@pytest.mark.parametrize("size", [0, 1, 1_000, SEGMENT_BYTES, 2 * SEGMENT_BYTES])
@pytest.mark.parametrize("compress", COMPRESSORS)
def test_the_bytes_taken_add_up_to_the_size_for_any_length(
    path: Path, compress: Compressor, size: int
) -> None:
    path.write_bytes(compress(CONTENT[:size]) + compress(b""))
    if size == 0:
        assert failure_of(path).code is FailureCode.EMPTY_FILE
        return
    info, whole = probe_and_read(str(path))
    assert info.head_is_whole == (size <= HEAD_BYTES)
    assert (whole.data, whole.source_bytes) == (CONTENT[:size], info.size_bytes)


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_several_compressed_files_in_one_are_one(path: Path, compress: Compressor) -> None:
    borders = [0, 1, 70_000, 70_001, 9_000_000, len(CONTENT)]
    path.write_bytes(b"".join(compress(CONTENT[a:b]) for a, b in itertools.pairwise(borders)))
    info, whole = probe_and_read(str(path))
    assert info.head == CONTENT[:HEAD_BYTES]
    assert (whole.data, whole.source_bytes) == (CONTENT, info.size_bytes)


def test_zeros_behind_a_gzip_member_are_padding(path: Path) -> None:
    half = len(CONTENT) // 2
    path.write_bytes(gzipped(CONTENT[:half]) + bytes(100_000) + gzipped(CONTENT[half:]) + bytes(1_000_000))
    info, whole = probe_and_read(str(path))
    assert (whole.data, whole.source_bytes) == (CONTENT, info.size_bytes)


def test_skippable_zstd_frames_are_skipped(path: Path) -> None:
    path.write_bytes(
        SKIPPABLE + zstandarded(CONTENT[:10]) + SKIPPABLE + zstandarded(CONTENT[10:]) + SKIPPABLE
    )
    info, whole = probe_and_read(str(path))
    assert info.compression == "zstd"
    assert (whole.data, whole.source_bytes) == (CONTENT, info.size_bytes)


@pytest.mark.parametrize("data", [b"a" * 1_000_000, _random.randbytes(1_000_000), b"abc"])
def test_every_kind_of_zstd_block_and_frame_is_known(path: Path, data: bytes) -> None:
    for checksum, size in itertools.product([True, False], repeat=2):
        compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
        path.write_bytes(compressor.compress(data))
        assert probe_and_read(str(path))[1].data == data


@pytest.mark.parametrize("missing", [1, 9, 100_000])
@pytest.mark.parametrize("compress", COMPRESSORS)
def test_a_compressed_file_that_is_cut_off_is_truncated(
    path: Path, compress: Compressor, missing: int
) -> None:
    path.write_bytes(compress(CONTENT)[:-missing])
    assert failure_of(path).code is FailureCode.SOURCE_TRUNCATED


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_a_small_truncated_file_is_reported_at_the_probe(path: Path, compress: Compressor) -> None:
    for length in range(5, len(compress(CONTENT[:300]))):
        path.write_bytes(compress(CONTENT[:300])[:length])
        with opened(str(path)) as source, pytest.raises(LoaderError) as caught:
            source.probe()
        assert caught.value.code is FailureCode.SOURCE_TRUNCATED


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("junk", [b"junkjunk", b"\0\0junkjunk", CONTENT[:100_000]])
def test_junk_behind_the_end_is_corrupt(path: Path, compress: Compressor, junk: bytes) -> None:
    path.write_bytes(compress(CONTENT) + junk)
    error = failure_of(path)
    assert error.code is FailureCode.SOURCE_CORRUPT
    assert str(path) in error.failure.message


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_one_wrong_bit_is_corrupt(path: Path, compress: Compressor) -> None:
    damaged = bytearray(compress(CONTENT))
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert failure_of(path).code is FailureCode.SOURCE_CORRUPT


@pytest.mark.parametrize("compress", [functools.partial(gzip.compress, compresslevel=9), zstandarded])
def test_a_bomb_is_refused_before_it_is_large(path: Path, compress: Compressor) -> None:
    path.write_bytes(compress(bytes(2 * RATIO_GRACE_BYTES)))
    with opened(str(path)) as source:
        assert source.probe().head == bytes(HEAD_BYTES)
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CORRUPT


def test_a_zstd_frame_that_asks_for_too_much_memory_is_refused(path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(compressor.compress(CONTENT) + compressor.flush())
    assert failure_of(path).code is FailureCode.SOURCE_CORRUPT


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("inner", COMPRESSORS)
def test_the_head_of_a_file_that_was_compressed_twice_is_named(
    path: Path, compress: Compressor, inner: Compressor
) -> None:
    path.write_bytes(compress(inner(CONTENT)))
    with opened(str(path)) as source:
        info = source.probe()
    with pytest.raises(LoaderError) as caught:
        read_header(info.head, is_whole=info.head_is_whole)
    assert caught.value.code is FailureCode.NOT_CSV
    assert "compressed twice" in caught.value.failure.message
