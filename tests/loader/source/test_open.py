from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from loader.buffers import SEGMENT_BYTES
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.source.open import Source, shown_location
from tests.support.http_server import HttpServer
from tests.support.paths import ROOT
from tests.support.source_reading import HEAD_BYTES, opened, probe_and_read, read

CONTENT = random.Random(3).randbytes(SEGMENT_BYTES + 2_000_003)

READ_STDIN = """
import hashlib
from tests.support.source_reading import probe_and_read
info, whole = probe_and_read("-")
print(info.location, info.size_bytes, info.validator, info.resumable, len(info.head), info.head_is_whole,
      whole.length_verified, hashlib.sha256(whole.data).hexdigest())
"""


def failure_of(location: str) -> LoaderError:
    with pytest.raises(LoaderError) as caught:
        probe_and_read(location)
    return caught.value


def test_white_space_around_a_url_is_no_part_of_it_but_around_a_path_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown_location(" https://example.org/trips.csv\n") == "https://example.org/trips.csv"
    with HttpServer(CONTENT[:1000]) as server:
        assert probe_and_read(f"\t{server.url} ")[1].data == CONTENT[:1000]
    monkeypatch.chdir(tmp_path)
    Path(" trips.csv").write_bytes(CONTENT[:1000])
    assert probe_and_read(" trips.csv")[1].data == CONTENT[:1000]


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    path = tmp_path / "trips.csv"
    path.write_bytes(CONTENT)
    return path


def test_a_path_arrives_whole(trips: Path) -> None:
    info, whole = probe_and_read(str(trips))
    assert (info.location, info.size_bytes, info.compression) == (str(trips), len(CONTENT), None)
    assert info.resumable
    assert (info.head, info.head_is_whole) == (CONTENT[:HEAD_BYTES], False)
    assert (whole.data, whole.source_bytes, whole.length_verified) == (CONTENT, len(CONTENT), True)


def test_a_relative_path_is_shown_as_an_absolute_one(trips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trips.parent)
    assert probe_and_read("trips.csv")[0].location == str(trips)


def test_a_part_of_a_path_can_be_read(trips: Path) -> None:
    with opened(str(trips)) as source:
        source.probe()
        assert read(source, 9_000_000).data == CONTENT[9_000_000:]
        assert read(source, 5, 6).data == CONTENT[5:6]
        assert read(source, 0, len(CONTENT) + 10).data == CONTENT
        assert read(source, len(CONTENT)).data == b""


def test_the_validator_of_a_path_changes_with_the_file(trips: Path) -> None:
    before = probe_and_read(str(trips))[0].validator
    assert before == probe_and_read(str(trips))[0].validator
    os.utime(trips, (1, 1))
    assert before != probe_and_read(str(trips))[0].validator


@pytest.mark.parametrize("size", [100, len(CONTENT) + 100])
def test_a_path_that_is_written_to_is_source_changed(trips: Path, size: int) -> None:
    with opened(str(trips)) as source:
        source.probe()
        os.truncate(trips, size)
        with pytest.raises(LoaderError) as caught:
            read(source)
    assert caught.value.code is FailureCode.SOURCE_CHANGED


def test_a_path_that_is_replaced_is_read_to_its_end(trips: Path) -> None:
    with opened(str(trips)) as source:
        source.probe()
        trips.unlink()
        trips.write_bytes(b"another file")
        assert read(source).data == CONTENT


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    error = failure_of(str(tmp_path / "no.csv"))
    assert error.code is FailureCode.SOURCE_NOT_FOUND
    assert str(tmp_path / "no.csv") in error.failure.message
    assert failure_of("\0").code is FailureCode.SOURCE_NOT_FOUND


def test_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    assert failure_of(str(tmp_path)).code is FailureCode.USAGE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_path_without_the_right_to_read_is_forbidden(trips: Path) -> None:
    trips.chmod(0)
    assert failure_of(str(trips)).code is FailureCode.SOURCE_FORBIDDEN


def test_a_path_that_can_not_be_opened_is_unreachable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert failure_of(str(tmp_path / "socket")).code is FailureCode.SOURCE_UNREACHABLE


def test_an_empty_path_is_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    assert failure_of(str(tmp_path / "empty.csv")).code is FailureCode.EMPTY_FILE
    assert failure_of(os.devnull).code is FailureCode.EMPTY_FILE


def test_a_name_of_any_bytes_is_shown_on_one_line_of_valid_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/a\n\xffb.csv"
    Path(os.fsdecode(path)).write_bytes(b"x")
    info, whole = probe_and_read(os.fsdecode(path))
    assert info.location == str(tmp_path / r"a\n\udcffb.csv")
    assert whole.data == b"x"


def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(CONTENT))
    writer.start()
    info, whole = probe_and_read(str(pipe))
    writer.join()
    assert (info.size_bytes, info.validator, info.resumable) == (None, None, False)
    assert (whole.data, whole.source_bytes, whole.length_verified) == (CONTENT, len(CONTENT), False)


@contextlib.contextmanager
def opened_pipe(folder: Path) -> Generator[Source]:
    """Yield the probed source of a pipe that a million bytes come by."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(CONTENT[:1_000_000]))
    writer.start()
    with opened(str(pipe)) as source:
        source.probe()
        yield source
    writer.join()


def test_a_stream_can_be_read_further_on_but_not_back(tmp_path: Path) -> None:
    with opened_pipe(tmp_path) as source:
        assert read(source, 10, 20).data == CONTENT[10:20]
        assert read(source, 500_000, 500_010).data == CONTENT[500_000:500_010]
        with pytest.raises(ValueError, match="can't go back"):
            read(source, 10, 20)
        assert read(source, 1_000_000).data == b""


@pytest.mark.parametrize(("start", "end"), [(1_000_001, None), (999_000, 1_000_001)])
def test_a_stream_that_ends_before_bytes_that_it_had_is_truncated(
    tmp_path: Path, start: int, end: int | None
) -> None:
    with opened_pipe(tmp_path) as source, pytest.raises(LoaderError) as caught:
        read(source, start, end)
    assert caught.value.code is FailureCode.SOURCE_TRUNCATED
    assert "ends after 1,000,000 bytes" in caught.value.failure.message


@pytest.mark.parametrize("length", [len(CONTENT), HEAD_BYTES + 1, HEAD_BYTES, 10])
def test_stdin_is_a_stream(length: int) -> None:
    content = CONTENT[:length]
    answer = subprocess.run(
        [sys.executable, "-c", READ_STDIN],
        input=content,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    head = f"{min(length, HEAD_BYTES)} {length <= HEAD_BYTES}"
    digest = hashlib.sha256(content).hexdigest()
    assert answer.stdout.decode().strip() == f"- None None False {head} False {digest}"
