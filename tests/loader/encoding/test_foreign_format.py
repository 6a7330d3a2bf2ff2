"""Files that are no CSV in UTF-8 are named, each with what to do next; real ones, as programs write them."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest
import zstandard

from loader.encoding.foreign_format import foreign_format

CSV = b"hvfhs_license_num,dispatching_base_num\nHV0003,B03404\n" * 100


def tar(kind: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        entry = tarfile.TarInfo("trips.csv")
        entry.size = len(CSV)
        archive.addfile(entry, io.BytesIO(CSV))
    return out.getvalue()


def zip_of(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            content = "application/vnd.oasis.opendocument.spreadsheet" if name == "mimetype" else "x"
            archive.writestr(name, content)
    return out.getvalue()


FILES: dict[str, tuple[bytes, str, str]] = {
    "tar, POSIX": (tar(tarfile.USTAR_FORMAT), "a tar archive", "tar -xf"),
    "tar, GNU": (tar(tarfile.GNU_FORMAT), "a tar archive", "tar -xf"),
    "tar, pax": (tar(tarfile.PAX_FORMAT), "a tar archive", "tar -xf"),
    "gzip": (gzip.compress(CSV), "compressed twice", "gunzip -c"),
    "zstd": (zstandard.ZstdCompressor().compress(CSV), "compressed twice", "zstd -dc"),
    "bzip2": (b"BZh91AY&SY", "bzip2", "bunzip2"),
    "xz": (b"\xfd7zXZ\0\0\4", "xz", "xz -dc"),
    "zip": (zip_of("trips.csv"), "a zip archive", "unzip"),
    "empty zip": (zip_of(), "a zip archive", "unzip"),
    "XLSX": (zip_of("[Content_Types].xml", "xl/workbook.xml"), "XLSX", "CSV in UTF-8"),
    "XLSX with another first entry": (zip_of("_rels/.rels", "xl/workbook.xml"), "XLSX", "CSV in UTF-8"),
    "ODS": (zip_of("mimetype", "content.xml"), "OpenDocument", "CSV in UTF-8"),
    "XLS": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(20), "XLS", "CSV in UTF-8"),
    "Parquet": (b"PAR1\x15\x04\x15", "Parquet", "duckdb -c \"COPY (FROM 'FILE.parquet') TO 'FILE.csv'\""),
    "SQLite": (b"SQLite format 3\0", "SQLite", "sqlite3"),
    "HTML": (b"\n<!DOCTYPE html>\n<html>", "HTML", "browser"),
    "HTML behind a mark": (b"\xef\xbb\xbf<html>", "HTML", "browser"),
    "a part of HTML": (b"<h1>Not here</h1>", "HTML", "browser"),
    "XHTML": (b'<?xml version="1.0"?>\n<html>', "HTML", "browser"),
    "XML": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', "XML", "signed URL"),
    "JSON": (b'{"error": "no"}', "JSON", "curl"),
    "JSON, indented": (b'[\n  {\n    "error": "no"', "JSON", "curl"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16", "iconv -f UTF-16 "),
    "UTF-16, big-endian": (b"\xfe\xff" + "a,b\n".encode("utf-16-be"), "UTF-16", "iconv -f UTF-16 "),
    "UTF-16LE without a mark": (CSV.decode().encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE"),
    "UTF-16BE without a mark": (CSV.decode().encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE"),
    "UTF-32": ("a,b\n".encode("utf-32"), "UTF-32", "iconv -f UTF-32"),
}


@pytest.mark.parametrize(("content", "name", "hint"), FILES.values(), ids=FILES)
def test_a_file_in_another_format_is_named_with_what_to_do(content: bytes, name: str, hint: str) -> None:
    found = foreign_format(content)
    assert found is not None
    assert name in found.name
    assert hint in found.hint


@pytest.mark.parametrize(
    "head",
    [
        b"",
        CSV,
        b"\xef\xbb\xbf" + CSV,
        b"[id],{name}\n1,2\n",
        b"<5 miles,>5 miles\n",
        b"a\0b\0\n",
        b"\0" * 600,
        "fährten,ausgänge\n".encode(),
    ],
)
def test_what_may_be_a_csv_is_no_other_format(head: bytes) -> None:
    assert foreign_format(head) is None
