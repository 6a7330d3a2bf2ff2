"""What the parts of the kernel tell each other: the bytes that structure a file, and what can stand in for a position."""

from __future__ import annotations

COMMA, QUOTE, NEWLINE, RETURN = b',"\n\r'

# How a call of the kernel ended. The negative ones are also returned in place of the position behind a field.
ENDED = 0
DECLINED = -1  # a row, a field that is not compiled: rows.py decides
FULL = -2  # the output has no room for the next row
