"""Text that people see. Text from outside is escaped: it can't end a line, move a cursor or change what surrounds it."""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator

import msgspec

# Longer values are cut: an error must be readable, and a row may be megabytes long.
VALUE_CHARACTERS = 200


def printable(text: str) -> str:
    """Escape, as Python does, characters that are neither spaces nor visible: line ends, ANSI sequences, bidi marks."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def printable_json(text: str) -> str:
    """Escape the same characters in a JSON document, whose meaning does not change."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON that is safe on a terminal."""
    return printable_json(msgspec.json.encode(value).decode()).encode() + b"\n"


def printable_lines(text: str, escape: Callable[[str], str] = printable) -> str:
    """Escape a text line by line."""
    return "\n".join(map(escape, text.split("\n")))


def printable_chunks(chunks: Iterable[bytes], escape: Callable[[str], str]) -> Iterator[bytes]:
    """Escape bytes line by line, wherever their chunks begin. Bytes that are not UTF-8 become \\xNN."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for chunk in chunks:
        yield printable_lines(decoder.decode(chunk), escape).encode()
    yield printable_lines(decoder.decode(b"", final=True), escape).encode()


def value_text(value: bytes) -> str:
    """Return a value as text that any log, terminal or Postgres can hold, cut. Bytes that are not UTF-8 become \\xNN."""
    # No character has more than four bytes. No text in Postgres can hold a NUL.
    text = value[: 4 * (VALUE_CHARACTERS + 1)].decode(errors="backslashreplace").replace("\0", r"\x00")
    return cut_text(text)


def cut_text(text: str) -> str:
    """Return a text with at most VALUE_CHARACTERS, and an ellipsis where it is cut."""
    return text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "…"


def warn(message: str) -> None:
    """Write a warning to stderr. A stderr that can't be written to is no failure."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"warning: {message}\n")
