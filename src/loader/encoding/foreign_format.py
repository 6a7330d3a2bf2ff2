"""What a file is if it is no CSV in UTF-8: recognized by its first bytes, each format with what to do next."""

from __future__ import annotations

import re

import msgspec


class ForeignFormat(msgspec.Struct, frozen=True):
    """A format that is no CSV in UTF-8."""

    name: str  # as in "it looks like …"
    hint: str


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOOK = "Open the URL in a browser, or look at it with `curl -r 0-500 URL`"
_DECOMPRESS = "The loader reads plain CSV, gzip and zstd. Decompress it first"
_TO_UTF_8 = "Convert it: `iconv -f {} -t UTF-8 FILE > NEW_FILE`."
_EXPORT = "Open it and save the sheet as CSV in UTF-8, separated by commas."

# By the bytes at the start of a file; of two that fit, the first counts.
_BY_MAGIC = {
    # a file that is compressed once never comes here
    b"\x1f\x8b\x08": ForeignFormat(
        "gzip data within compressed data: the file was compressed twice",
        "Decompress it once, `gunzip -c FILE > NEW_FILE`, and import the result.",
    ),
    b"\x28\xb5\x2f\xfd": ForeignFormat(
        "zstd data within compressed data: the file was compressed twice",
        "Decompress it once, `zstd -dc FILE > NEW_FILE`, and import the result.",
    ),
    b"BZh": ForeignFormat("a bzip2 file", f"{_DECOMPRESS}: `bunzip2 -c FILE > NEW_FILE`."),
    b"\xfd7zXZ\0": ForeignFormat("an xz file", f"{_DECOMPRESS}: `xz -dc FILE > NEW_FILE`."),
    b"\x04\x22\x4d\x18": ForeignFormat("an lz4 file", f"{_DECOMPRESS}: `lz4 -dc FILE > NEW_FILE`."),
    b"\x1f\x9d": ForeignFormat("a file of compress (.Z)", f"{_DECOMPRESS}: `gzip -dc FILE > NEW_FILE`."),
    b"7z\xbc\xaf\x27\x1c": ForeignFormat(
        "a 7z archive", "Extract the CSV from it, `7z x FILE`, and import that."
    ),
    b"Rar!\x1a\x07": ForeignFormat("a rar archive", "Extract the CSV from it, and import that."),
    b"PAR1": ForeignFormat(
        "a Parquet file",
        "Convert it to CSV, for example with DuckDB: `duckdb -c \"COPY (FROM 'FILE.parquet') TO 'FILE.csv'\"`.",
    ),
    b"ARROW1\0": ForeignFormat("an Arrow file", "Convert it to CSV, for example with pyarrow."),
    b"Obj\x01": ForeignFormat("an Avro file", "Convert it to CSV."),
    b"SQLite format 3\0": ForeignFormat(
        "an SQLite database",
        'Export the table: `sqlite3 -header -csv FILE "SELECT * FROM trips" > FILE.csv`.',
    ),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ForeignFormat("an Excel workbook (XLS)", _EXPORT),
    b"%PDF": ForeignFormat("a PDF file", f"{_LOOK}: it must be the CSV."),
    # UTF-32 LE begins like UTF-16 LE
    b"\xff\xfe\0\0": ForeignFormat("UTF-32 text", _TO_UTF_8.format("UTF-32")),
    b"\0\0\xfe\xff": ForeignFormat("UTF-32 text", _TO_UTF_8.format("UTF-32")),
    b"\xff\xfe": ForeignFormat("UTF-16 text", _TO_UTF_8.format("UTF-16")),
    b"\xfe\xff": ForeignFormat("UTF-16 text", _TO_UTF_8.format("UTF-16")),
}
# Local header, end of an empty archive, marker of a split one (APPNOTE.TXT, 4.3).
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_XLSX = ForeignFormat("an Excel workbook (XLSX)", _EXPORT)
_OPEN_DOCUMENT = ForeignFormat("an OpenDocument spreadsheet", _EXPORT)
_ZIP = ForeignFormat(
    "a zip archive", "Extract the CSV from it, `unzip FILE`, and import that, or compress it as gzip."
)
_TAR = ForeignFormat(
    "a tar archive",
    "Extract the CSV from it, `tar -xf FILE`, and import that. `tar -xOf FILE NAME | loader run -` needs no second file.",
)
# "ustar" in the header of the first entry (POSIX, pax; GNU tar writes it, too).
_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257
_HTML = ForeignFormat(
    "HTML, such as a login or error page",
    f"{_LOOK}. A login may be needed, or a link to the file itself.",
)
_XML = ForeignFormat(
    "XML, such as the error message of a storage service", f"{_LOOK}. A signed URL may have expired."
)
_JSON = ForeignFormat("JSON, perhaps an error message", f"{_LOOK}. If it is the data, convert it to CSV.")
# What may follow the first bracket; a CSV may have a first name such as `[id]`.
_JSON_START = re.compile(rb'\{\s*["}]|\[\s*[\[{"\]]')
_MARKUP_START = re.compile(rb"<[a-zA-Z!?/]")
_XML_STARTS = (b"<?xml", b"<Error>")  # the second: of storage services without a declaration
_HTML_ELEMENT, _SEARCHED_BYTES = b"<html", 2000
# UTF-16 without byte order mark: of a Latin text every other byte is zero. This many characters show it.
_SHOWN_BY_CHARACTERS = 8


def foreign_format(head: bytes) -> ForeignFormat | None:
    """Return what the first bytes of a file, decompressed, show it to be; None: perhaps a CSV."""
    for magic, found in _BY_MAGIC.items():
        if head.startswith(magic):
            return found
    if head.startswith(_ZIP_MAGICS):
        return _zip_format(head)
    if head[_TAR_MAGIC_OFFSET:].startswith(_TAR_MAGIC):
        return _TAR
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if _MARKUP_START.match(text):
        is_xml = text.startswith(_XML_STARTS) and _HTML_ELEMENT not in text[:_SEARCHED_BYTES].lower()
        return _XML if is_xml else _HTML
    if _JSON_START.match(text):
        return _JSON
    return _utf_16(head[: 2 * _SHOWN_BY_CHARACTERS])


def _zip_format(head: bytes) -> ForeignFormat:
    """Tell a spreadsheet from other zip archives, by the names of its first entries."""
    if head[30:].startswith(b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet"):
        return _OPEN_DOCUMENT
    return _XLSX if b"[Content_Types].xml" in head or b"xl/workbook" in head else _ZIP


def _utf_16(start: bytes) -> ForeignFormat | None:
    for encoding, zeros, others in (
        ("UTF-16LE", start[1::2], start[::2]),
        ("UTF-16BE", start[::2], start[1::2]),
    ):
        if len(zeros) == _SHOWN_BY_CHARACTERS and not any(zeros) and all(others):
            return ForeignFormat("UTF-16 text without byte order mark", _TO_UTF_8.format(encoding))
    return None
