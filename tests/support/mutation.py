"""Damaged files of trips: real rows in a dialect, with a few edits of bytes, fields, quotes, lines and line ends.

All choices come from one `Random`. A seed determines a file, and with its own `Random` Hypothesis shrinks a failing file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random

from loader.cli.sample import write_sample
from loader.schema import COLUMNS, LAYOUT_COLUMN_COUNTS
from tests.support.boundary_values import BOUNDARY_VALUES
from tests.support.dialects import BYTE_ORDER_MARK, DIALECTS

_POOL_ROWS = 400
_MAX_ROWS = 60
_MAX_EDITS = 5

Edit = Callable[[Random, bytes], bytes]


def _pool() -> tuple[bytes, list[bytes]]:
    out = io.BytesIO()
    write_sample(out, _POOL_ROWS, seed=3)
    header, *rows = out.getvalue().splitlines(keepends=True)
    return header, rows


HEADER, ROWS = _pool()
NULL_ROW = b"," * (LAYOUT_COLUMN_COUNTS[0] - 1)

# Tokens that parsers of CSV, text, numbers or timestamps treat specially.
_TOKENS = [
    b'"', b'"', b'""', b'"""', b",", b",,", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\\.", b"\\.\n",
    b"\\N", b"\\", b"\0", b"\xff", b"\xc3", b"\xa9", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf0\x9f\x9a\x95", b"\xe2\x80\xa8",
    BYTE_ORDER_MARK, b" ", b"\t", b"0", b"-", b"+", b".", b"e", b"E9", b":", b"T", b"Z", b"_", b"0x1", b"NaN", b"infinity",
    b"'", b";", b"\x1a", b"\x7f", b'","', b'"\n"', b'\n"', b'"\n', b"now", b"1_0", b"24:00:00", b"\x0b", b"\x0c", b"\x85",
]  # fmt: skip


def mutated_file(random: Random) -> bytes:
    """Return a file of a header and up to _MAX_ROWS rows in a dialect, with up to _MAX_EDITS edits behind the header."""
    rows = random.choices(ROWS, k=random.randint(1, _MAX_ROWS))
    csv = HEADER + b"".join(rows)
    if random.random() < 0.5:
        csv = random.choice(DIALECTS)(csv)
    header, newline, data = csv.partition(b"\n")
    if random.random() < 0.1:
        header = random.choice(_HEADER_EDITS)(random, header)
    for _ in range(random.randint(0, _MAX_EDITS)):
        data = random.choice(_EDITS)(random, data)
    return header + newline + data


def _position(random: Random, data: bytes) -> int:
    return random.randint(0, len(data))


def _lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")


def _insert_token(random: Random, data: bytes) -> bytes:
    at = _position(random, data)
    return data[:at] + random.choice(_TOKENS) + data[at:]


def _replace_bytes(random: Random, data: bytes) -> bytes:
    at = _position(random, data)
    return data[:at] + random.choice(_TOKENS) + data[at + random.randint(0, 8) :]


def _delete_bytes(random: Random, data: bytes) -> bytes:
    at = _position(random, data)
    return data[:at] + data[at + random.choice([1, 1, 2, 10, 200]) :]


def _flip_bit(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def _random_bytes(random: Random, data: bytes) -> bytes:
    at = _position(random, data)
    return data[:at] + bytes(random.choices(range(256), k=random.randint(1, 6))) + data[at:]


def _repeat_bytes(random: Random, data: bytes) -> bytes:
    start = _position(random, data)
    piece = data[start : start + random.randint(1, 400)]
    at = _position(random, data)
    return data[:at] + piece + data[at:]


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: _position(random, data)]


def _long_piece(random: Random, data: bytes) -> bytes:
    at = _position(random, data)
    piece = random.choice(
        [b"x", b"0", b"9", b" ", b",", b'"', b"\n", b"\0", b"\xff", b"\xc3\xa9", b'""', b'",']
    )
    return data[:at] + piece * random.choice([9, 20, 300, 900, 2_500, 9_000]) + data[at:]


def _on_line(edit: Edit) -> Edit:
    def edited(random: Random, data: bytes) -> bytes:
        lines = _lines(data)
        index = random.randrange(len(lines))
        lines[index] = edit(random, lines[index])
        return b"\n".join(lines)

    return edited


def _boundary_value(random: Random, line: bytes) -> bytes:
    fields = line.split(b",")
    index = random.randrange(min(len(fields), len(COLUMNS)))
    field = random.choice(BOUNDARY_VALUES[COLUMNS[index].kind])
    fields[index] = b'"%b"' % field.replace(b'"', b'""') if random.random() < 0.3 else field
    return b",".join(fields)


def _quoted_field(random: Random, line: bytes) -> bytes:
    fields = line.split(b",")
    index = random.randrange(len(fields))
    inner = fields[index] + random.choice(
        [b"", b'""', b"\n", b"\r\n", b"\r", b",", b"\n\n", b"\xc3\xa9", b"\\."]
    )
    fields[index] = b'"%b"' % inner
    return b",".join(fields)


def _drop_field(random: Random, line: bytes) -> bytes:
    fields = line.split(b",")
    del fields[random.randrange(len(fields))]
    return b",".join(fields)


def _double_field(random: Random, line: bytes) -> bytes:
    fields = line.split(b",")
    index = random.randrange(len(fields))
    fields.insert(index, fields[index])
    return b",".join(fields)


def _swap_fields(random: Random, line: bytes) -> bytes:
    fields = line.split(b",")
    one, other = random.randrange(len(fields)), random.randrange(len(fields))
    fields[one], fields[other] = fields[other], fields[one]
    return b",".join(fields)


def _spaced_fields(_: Random, line: bytes) -> bytes:
    return line.replace(b",", b" , ")


def _utf16(_: Random, line: bytes) -> bytes:
    return line.decode("latin-1").encode("utf-16")


def _other_line(random: Random, _: bytes) -> bytes:
    return random.choice(
        [b"", b"\r", b" ", b"\\.", b"\\.\r", b",", b'"', b'""', b"\0", b"EOF", HEADER.strip(), NULL_ROW]
    )


def _crlf(_: Random, line: bytes) -> bytes:
    return line + b"\r"


def _add_line(random: Random, data: bytes) -> bytes:
    lines = _lines(data)
    lines.insert(random.randint(0, len(lines)), _other_line(random, b""))
    return b"\n".join(lines)


def _carriage_returns_alone(_: Random, data: bytes) -> bytes:
    return data.replace(b"\n", b"\r")


def _mixed_line_ends(random: Random, data: bytes) -> bytes:
    return b"".join(line + random.choice([b"\n", b"\r\n"]) for line in _lines(data))


def _no_final_newline(_: Random, data: bytes) -> bytes:
    return data.rstrip(b"\r\n")


_EDITS: list[Edit] = [
    _insert_token, _insert_token, _replace_bytes, _delete_bytes, _flip_bit, _random_bytes, _repeat_bytes, _truncate,
    _long_piece, _add_line, _carriage_returns_alone, _mixed_line_ends, _no_final_newline,
    *map(_on_line, [
        *[_boundary_value] * 8, _quoted_field, _quoted_field, _drop_field, _double_field, _swap_fields, _spaced_fields,
        _utf16, _other_line, _crlf,
    ]),
]  # fmt: skip


def _rename(random: Random, header: bytes) -> bytes:
    names = header.split(b",")
    for _ in range(random.randint(1, 2)):
        names[random.randrange(len(names))] = random.choice(
            [b"other", b"", b'"a,b"', b"\xc3\xa9", b"x" * 200]
        )
    return b",".join(names)


_HEADER_EDITS: list[Edit] = [
    _insert_token, _replace_bytes, _delete_bytes, _flip_bit, _random_bytes, _truncate, _long_piece, _drop_field,
    _double_field, _swap_fields, _spaced_fields, _quoted_field, _utf16, _crlf, _rename, _rename,
]  # fmt: skip
