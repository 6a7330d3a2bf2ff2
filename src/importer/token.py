"""The token that a service may require of its clients, as its file or a variable has it."""

from __future__ import annotations

import re
from pathlib import Path

# https://www.rfc-editor.org/rfc/rfc6750.html#section-2.1
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class InvalidToken(Exception):
    """A token can't be read or sent; the text says which one and does not quote it."""


def read_token(path: Path) -> str:
    """Return the token in a file. Raises InvalidToken."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidToken(f"The token file {path} can't be read: {error.strerror}.") from error
    return valid_token(content.decode("latin-1"), f"The token file {path}")


def valid_token(text: str, origin: str) -> str:
    """Return the token without white space around it; `origin`: where it is from. Raises InvalidToken."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise InvalidToken(f"{origin} must have one token of letters, digits and -._~+/ and nothing else.")
    return token
