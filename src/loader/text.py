"""Text from outside, fit to be shown to people: it can't end a line, move a cursor or change what stands around it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator

import msgspec


def printable(text: str) -> str:
    """Escape, as Python does, whatever is neither a space nor drawn: line ends, ANSI sequences, marks that reverse text."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def printable_json(text: str) -> str:
    """Escape the same in a JSON document, which means the same then."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON, which may be shown on a terminal."""
    return printable_json(msgspec.json.encode(value).decode()).encode() + b"\n"


def printable_lines(text: str, escape: Callable[[str], str] = printable) -> str:
    """Escape a text line by line."""
    return "\n".join(map(escape, text.split("\n")))


def printable_chunks(chunks: Iterable[bytes], escape: Callable[[str], str]) -> Iterator[bytes]:
    """Escape bytes that are mostly UTF-8, line by line, wherever their chunks begin; what can't be decoded as \\xNN."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for chunk in chunks:
        yield printable_lines(decoder.decode(chunk), escape).encode()
    yield printable_lines(decoder.decode(b"", final=True), escape).encode()
