"""Constants that the parts of the kernel share: the bytes that structure a file, and the status of a call."""

from __future__ import annotations

COMMA, QUOTE, NEWLINE, RETURN = b',"\n\r'

# Why a call of the kernel returned. The negative ones are also returned instead of the position behind a field.
ENDED = 0
DECLINED = -1  # `rows.py` has to encode the row
FULL = -2  # the output has no room for the next row
