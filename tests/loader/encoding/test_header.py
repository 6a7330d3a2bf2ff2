"""The head of the file: the headers that are accepted, and the messages about the others."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from loader.contract import FailureCode
from loader.encoding.header import first_records, read_header
from loader.errors import LoaderError
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS

OLD_COUNT, *_, NEW_COUNT = LAYOUT_COLUMN_COUNTS
NAMES = [column.header for column in COLUMNS]
OLD = ",".join(NAMES[:OLD_COUNT]).encode()
NEW = ",".join(NAMES).encode()
ROW = b",".join([b""] * OLD_COUNT)


def refusal(head: bytes) -> LoaderError:
    with pytest.raises(LoaderError) as caught:
        read_header(head, is_whole=True)
    return caught.value


@pytest.mark.parametrize(
    "line",
    [
        OLD,
        OLD + b"\r",
        b"\xef\xbb\xbf" + OLD,
        OLD.upper(),
        OLD.replace(b",", b" , "),
        b",".join(b'"%s"' % name.encode() for name in NAMES[:OLD_COUNT]),
    ],
)
def test_the_names_in_any_usual_spelling_are_accepted(line: bytes) -> None:
    header = read_header(line + b"\n" + ROW, is_whole=True)
    assert (header.column_count, header.data_start, header.notes) == (OLD_COUNT, len(line) + 1, [])


def test_the_newer_layout_is_accepted() -> None:
    assert read_header(NEW + b"\n" + ROW + b",", is_whole=True).column_count == NEW_COUNT


def test_one_unexpected_name_is_accepted_with_a_note() -> None:
    header = read_header(OLD.replace(b"tips", b"gratuity") + b"\n" + ROW, is_whole=True)
    assert header.notes == ["Column 18 is called 'gratuity' in the file and was read as 'tips'."]


def test_two_unexpected_names_are_refused_and_shown_with_the_expected_ones() -> None:
    error = refusal(OLD.replace(b"tips", b"gratuity").replace(b"bcf", b"fund") + b"\n" + ROW)
    assert error.code is FailureCode.HEADER_MISMATCH
    lines = [line.split() for line in str(error).splitlines()[1:]]
    assert lines == [["expected", "found"], ["14", "bcf", "fund"], ["18", "tips", "gratuity"]]
    failure = error.failure
    assert (failure.line, failure.byte_offset, failure.column, failure.value) == (1, 0, "bcf", "fund")


@pytest.mark.parametrize("names", [NAMES[: OLD_COUNT - 1], [*NAMES, "more"], ["a"]])
def test_another_number_of_columns_is_refused(names: list[str]) -> None:
    assert refusal(",".join(names).encode() + b"\nx").code is FailureCode.HEADER_MISMATCH


def test_of_very_many_unexpected_names_the_message_shows_some() -> None:
    message = str(refusal(b"," * 200_000 + b"\nx"))
    assert "200001 columns" in message
    assert len(message) < 3_000


@pytest.mark.parametrize("name", [b'"request_datetime"', b'request"_"datetime', b'"x\ry"', b"x" * 200_000])
def test_a_name_is_read_as_a_field_is(name: bytes) -> None:
    line = OLD.replace(b"request_datetime", name)
    assert read_header(line + b"\n" + ROW, is_whole=True).column_count == OLD_COUNT


def test_a_nul_byte_in_a_row_does_not_affect_the_header() -> None:
    assert read_header(OLD + b"\n" + ROW + b"\0\n", is_whole=True).column_count == OLD_COUNT


@pytest.mark.parametrize("head", [b"", b"\n", OLD, OLD + b"\n"])
def test_a_file_without_rows_is_refused(head: bytes) -> None:
    assert refusal(head).code is FailureCode.EMPTY_FILE


@pytest.mark.parametrize(
    "head",
    [
        b"<!DOCTYPE html><html>\n<body>",
        b'{"error": "no"}\nx',
        OLD.decode().encode("utf-16"),
        OLD.decode().encode("utf-16-le"),
        b"PK\x03\x04rest\nx",
        b"\xff\x80,\nx",
        OLD.replace(b",", b"\0", 1) + b"\nx",
        OLD.replace(b"\n", b"\r") + b"\r" + ROW + b"\r",  # lines that end in CR alone
        OLD + b"\r\r\n" + ROW,
        b'"' + OLD + b"\nx",
    ],
)
def test_a_file_in_another_format_is_not_csv(head: bytes) -> None:
    failure = refusal(head).failure
    assert (failure.code, failure.line, failure.byte_offset) == (FailureCode.NOT_CSV, 1, 0)
    assert failure.value
    assert failure.value[0] == head.decode(errors="backslashreplace")[0]


@pytest.mark.parametrize(
    ("separator", "name", "shown"),
    [(b";", "semicolons", ";"), (b"\t", "tabs", r"\t"), (b"|", "vertical bars", "|")],
)
@pytest.mark.parametrize("names", [OLD, b"VendorID,pickup"], ids=["trips", "another table"])
def test_another_separator_is_named_with_a_way_to_convert_it(
    separator: bytes, name: str, shown: str, names: bytes
) -> None:
    error = refusal(names.replace(b",", separator) + b"\r\nx")
    assert error.code is FailureCode.HEADER_MISMATCH
    assert name in error.failure.message
    assert f'delimiter="{shown}"' in error.failure.hint


def test_the_conversion_in_the_hint_makes_a_file_with_commas() -> None:
    command = refusal(OLD.replace(b",", b"\t") + b"\nx").failure.hint.split("`")[1]
    program = command.split(" < FILE")[0].replace("python3", shlex.quote(sys.executable))
    given = b'a\tb "c", d\t\r\n"e\tf"\t007\t1.50\n'
    result = subprocess.run(program, shell=True, input=given, stdout=subprocess.PIPE, check=True)
    assert result.stdout == b'a,"b ""c"", d",\r\ne\tf,007,1.50\r\n'


@pytest.mark.parametrize(
    ("line", "is_separated_by_commas"),
    [(b"sep=,", True), (b"sep=;", False), (b'"sep=;"', False), (b"SEP=\t", False)],
)
def test_a_line_for_excel_is_named(line: bytes, is_separated_by_commas: bool) -> None:
    for start in (b"", b"\xef\xbb\xbf"):
        failure = refusal(start + line + b"\r\n" + OLD + b"\n" + ROW).failure
        assert failure.code is FailureCode.HEADER_MISMATCH
        assert "only Excel reads" in failure.message
        assert "tail -n +2" in failure.hint
        assert ("delimiter=" not in failure.hint) == is_separated_by_commas


@pytest.mark.parametrize(
    ("head", "command"),
    [
        ("fährte,ausgang\n1,2\n".encode("windows-1252"), "iconv -f WINDOWS-1252"),
        (OLD + b"\r" + ROW + b"\r", r"tr '\r' '\n'"),
    ],
    ids=["windows-1252", "carriage returns"],
)
def test_another_encoding_or_line_end_has_a_command_that_converts_it(head: bytes, command: str) -> None:
    error = refusal(head)
    assert error.code is FailureCode.NOT_CSV
    assert command in error.failure.hint


def test_a_head_without_a_line_end_is_not_csv() -> None:
    with pytest.raises(LoaderError) as caught:
        read_header(b"x" * 1000, is_whole=False)
    assert caught.value.code is FailureCode.NOT_CSV


def test_the_first_records_are_whole_ones_with_their_offsets() -> None:
    head = OLD + b'\na\r\n"b\nc"\nd'
    header = read_header(head, is_whole=False)
    start = header.data_start
    whole = [(start, b"a"), (start + 3, b'"b\nc"')]
    assert list(first_records(head, header, is_whole=False)) == whole
    assert list(first_records(head, header, is_whole=True)) == [*whole, (start + 9, b"d")]


@pytest.mark.parametrize(("end", "kept"), [(b"\n", b""), (b"\r\n", b""), (b"\r", b"\r")])
def test_the_line_end_of_an_unclosed_last_record_is_removed(end: bytes, kept: bytes) -> None:
    head = OLD + b'\n"a' + end
    header = read_header(head, is_whole=True)
    assert list(first_records(head, header, is_whole=True)) == [(header.data_start, b'"a' + kept)]
