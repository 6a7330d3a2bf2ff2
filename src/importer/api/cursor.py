"""The cursors of pages. They are opaque to clients, so that their content may change."""

from __future__ import annotations

import base64
import binascii

from importer.api.problems import FieldError, invalid_fields

_BYTES = 8  # an integer of SQLite


def encode(position: int) -> str:
    """Return the cursor of the page after the entry at this position."""
    return base64.urlsafe_b64encode(position.to_bytes(_BYTES, signed=True)).decode().rstrip("=")


def decode(cursor: str) -> int | None:
    """Return the position of a cursor; None: it is empty, for the first page. Raises INVALID_REQUEST."""
    if not cursor:
        return None
    try:
        position = int.from_bytes(base64.b64decode(f"{cursor}=", b"-_", validate=True), signed=True)
        if encode(position) == cursor:
            return position
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise invalid_fields([FieldError("cursor", "Expected the `next_cursor` of a page")])
