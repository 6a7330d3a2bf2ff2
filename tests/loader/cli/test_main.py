"""The command line: the commands other than `run`, and the output of `run` for people and programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loader.contract import FailureCode
from tests.support.http_server import HttpServer
from tests.support.loader_process import LoaderProcess, assert_nothing_is_left, leftovers, query, row_count

BAD_ROW = b"not,a,trip\n"


def output_of(folder: Path, *arguments: str, database_url: str) -> str:
    """Return what a command writes to stdout; assert that it succeeds."""
    loader = LoaderProcess(folder, *arguments, database_url=database_url)
    assert loader.wait() == 0, loader.stderr
    return loader.stdout


def test_check_shows_the_file_and_writes_nothing(sample: bytes, database_url: str, tmp_path: Path) -> None:
    with HttpServer(sample) as server:
        shown = output_of(tmp_path, "check", server.url + "?signature=canary", database_url=database_url)
    assert f"{len(sample):,} bytes" in shown
    assert '"v1"' in shown
    assert "pickup_datetime" in shown
    assert "timestamp without time zone" in shown
    assert "The first 100 rows can be stored." in shown
    assert "database    embedded, in /" in shown
    assert "canary" not in shown
    assert query(database_url, "SELECT to_regnamespace('loader'), to_regclass('trips')") == [(None, None)]


def test_check_reports_rows_that_can_not_be_stored(sample: bytes, database_url: str, tmp_path: Path) -> None:
    header, rest = sample.split(b"\n", 1)
    path = tmp_path / "bad.csv"
    path.write_bytes(header + b"\n" + BAD_ROW + rest)
    shown = output_of(tmp_path, "check", str(path), database_url=database_url)
    assert "1 of the first 100 rows can NOT be stored" in shown
    assert "line 2" in shown


def test_check_shows_rows_of_any_bytes(sample: bytes, database_url: str, tmp_path: Path) -> None:
    header, rest = sample.split(b"\n", 1)
    path = tmp_path / "odd.csv"
    odd_rows = b"a\rb,\xff\0\n" + b'"x""\n,y",' + b"z" * 140_000 + b"\n\n"
    path.write_bytes(header + b"\n" + odd_rows + rest)
    shown = output_of(tmp_path, "check", str(path), database_url=database_url)
    assert "3 of the first" in shown
    assert "zzz" in shown


def test_rejects_are_kept_with_their_original_bytes(sample: bytes, database_url: str, tmp_path: Path) -> None:
    lines = sample.splitlines(keepends=True)
    lines[5000:5000] = [b"bad \xff,\x00\n"]
    path = tmp_path / "trips.csv"
    path.write_bytes(b"".join(lines) + BAD_ROW)
    loader = LoaderProcess(
        tmp_path, "run", str(path), "--max-rejects", "2", database_url=database_url, small=True
    )
    receipt = loader.receipt()
    assert (receipt.rows_rejected, receipt.rows_published) == (2, len(lines) - 2)
    assert receipt.rows_parsed == receipt.rows_published + 2
    originals = LoaderProcess(tmp_path, "rejects", receipt.import_id, database_url=database_url)
    assert originals.wait() == 0
    assert originals.output == b"bad \xff,\x00\n" + BAD_ROW
    listed = output_of(tmp_path, "rejects", receipt.import_id, "--json", database_url=database_url)
    first, second = map(json.loads, listed.splitlines())
    assert (first["line"], first["byte_offset"]) == (5001, sum(map(len, lines[:5000])))
    assert (second["line"], second["reason"]) == (
        len(lines) + 1,
        f"wrong number of fields: {BAD_ROW.count(b',') + 1} instead of 24",
    )


def test_imports_lists_what_is_published(sample: bytes, database_url: str, tmp_path: Path) -> None:
    assert output_of(tmp_path, "imports", "--json", database_url=database_url) == ""
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    receipt = LoaderProcess(tmp_path, "run", str(path), database_url=database_url).receipt()
    (entry,) = map(
        json.loads, output_of(tmp_path, "imports", "--json", database_url=database_url).splitlines()
    )
    assert (entry["id"], entry["state"], entry["rows"]) == (
        receipt.import_id,
        "published",
        receipt.rows_published,
    )
    table = output_of(tmp_path, "imports", database_url=database_url)
    assert receipt.import_id in table
    assert str(path) in table


def test_drop_removes_a_published_import_only_with_the_option(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    receipt = LoaderProcess(tmp_path, "run", str(path), database_url=database_url).receipt()
    refused = LoaderProcess(tmp_path, "drop", receipt.import_id, database_url=database_url)
    assert refused.wait() == 2
    assert row_count(database_url) == receipt.rows_published
    output_of(tmp_path, "drop", receipt.import_id, "--published", database_url=database_url)
    assert row_count(database_url) == 0
    assert query(database_url, "SELECT count(*) FROM loader.import") == [(0,)]
    assert_nothing_is_left(database_url)


def test_replace_shows_the_new_file_in_place_of_all_others(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_bytes(sample)
        LoaderProcess(tmp_path, "run", str(tmp_path / name), database_url=database_url).receipt()
    new = tmp_path / "new.csv"
    new.write_bytes(b"".join(sample.splitlines(keepends=True)[:101]))
    LoaderProcess(tmp_path, "run", str(new), "--mode", "replace", database_url=database_url).receipt()
    assert row_count(database_url) == 100
    assert leftovers(database_url) == {}


def test_a_pipe_is_imported_without_a_validator(sample: bytes, database_url: str, tmp_path: Path) -> None:
    loader = LoaderProcess(tmp_path, "run", "-", database_url=database_url, small=True, stdin=subprocess.PIPE)
    assert loader.process.stdin is not None
    loader.process.stdin.write(sample)
    loader.process.stdin.close()
    receipt = loader.receipt()
    assert (receipt.source, receipt.validator, receipt.length_verified) == ("-", None, False)
    assert receipt.source_bytes == receipt.data_bytes == len(sample)
    assert receipt.rows_published == row_count(database_url) == sample.count(b"\n") - 1


def test_the_summary_is_the_receipt(sample: bytes, database_url: str, tmp_path: Path) -> None:
    path, summary = tmp_path / "trips.csv", tmp_path / "summary.json"
    path.write_bytes(sample)
    loader = LoaderProcess(tmp_path, "run", str(path), "--summary", str(summary), database_url=database_url)
    assert json.loads(summary.read_text() if loader.receipt() else "")["rows_published"] == row_count(
        database_url
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_summary_on_a_full_disk_is_a_warning(sample: bytes, database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    loader = LoaderProcess(tmp_path, "run", str(path), "--summary", "/dev/full", database_url=database_url)
    import_id = loader.receipt().import_id
    assert "summary" in loader.stderr
    assert row_count(database_url) == sample.count(b"\n") - 1
    rejects = LoaderProcess(tmp_path, "rejects", import_id, "--json", database_url=database_url)
    assert (rejects.wait(), rejects.output, rejects.stderr) == (0, b"", "")


def test_a_summary_that_can_not_be_written_fails_before_the_load(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    loader = LoaderProcess(
        tmp_path, "run", str(path), "--summary", str(tmp_path / "no" / "x"), database_url=database_url
    )
    assert loader.wait() == 2
    assert FailureCode.USAGE in loader.stderr
    assert row_count(database_url) == 0


def on_terminal(folder: Path, *arguments: str, database_url: str | None = None) -> tuple[int, str]:
    """Run a command at a terminal; return its exit code and what it writes."""
    ours, theirs = os.openpty()
    loader = LoaderProcess(
        folder, *arguments, database_url=database_url, stdin=theirs, stdout=theirs, redirected="2>&1"
    )
    code = loader.wait()
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    return code, shown


def test_a_terminal_shows_a_bar_and_a_receipt(sample: bytes, database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    code, shown = on_terminal(tmp_path, "run", str(path), "--progress", "auto", database_url=database_url)
    assert code == 0
    assert "━" in shown
    assert "parsed - 0 rejected" in shown
    assert "published" in shown


def test_a_run_with_nothing_at_a_terminal_prints_its_usage(tmp_path: Path) -> None:
    code, shown = on_terminal(tmp_path, "run", "--progress", "auto")
    assert code == 2
    assert shown.startswith("usage: loader run ")
    assert "loader run: error: name the file to import: a URL, a path, or - for stdin" in shown


def test_a_pipe_gets_a_line_per_phase_and_the_receipt(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample)
    loader = LoaderProcess(tmp_path, "run", str(path), "--progress", "auto", database_url=database_url)
    assert loader.wait() == 0
    assert "12,000 parsed - 0 rejected = 12,000 copied = 12,000 published" in loader.stdout
    lines = [line.split(" ", 2)[2] for line in loader.stderr.splitlines()]  # after date and time
    assert lines[0] == "probing"
    assert f": {path} (1.91 MB), database embedded, in /" in lines[1]
    assert re.fullmatch(r"loading [\d.]+% .+ of 1\.91 MB · [\d,]+ rows.*", lines[2])
    assert lines[3].startswith("publishing 99.9% ")


def test_a_pipe_gets_a_readable_error_with_its_next_step(
    sample: bytes, database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "trips.csv"
    path.write_bytes(sample + BAD_ROW)
    loader = LoaderProcess(tmp_path, "run", str(path), "--progress", "auto", database_url=database_url)
    assert loader.wait() == 65
    assert loader.stdout == ""
    assert "\nbad_row: " in loader.stderr
    assert "\n  next: " in loader.stderr
    assert "{" not in loader.stderr


def test_the_version_lists_the_libraries_that_read_from_the_network(
    database_url: str, tmp_path: Path
) -> None:
    shown = output_of(tmp_path, "--version", database_url=database_url)
    names = [line.split()[0] for line in shown.splitlines()]
    assert names == ["version", "python", "libpq", "openssl", "sqlite"]


def test_the_help_lists_what_removes_imports_under_maintenance(tmp_path: Path, database_url: str) -> None:
    shown = output_of(tmp_path, "--help", database_url=database_url)
    groups = dict(section.split(":\n", 1) for section in shown.split("\n\n") if ":\n" in section)
    names = {title: [line.split()[0] for line in text.splitlines()] for title, text in groups.items()}
    assert names["commands"] == ["run", "check", "imports", "sample", "postgres"]
    assert names["maintenance"] == ["rejects", "drop", "gc"]
