"""The service's token: every request but GET /health/live must have it, if the operator has set one.

Programs send it as `Authorization: Bearer TOKEN` (RFC 6750). A browser can't do so when it opens a page: the pages at
/schema also take it as the password of HTTP Basic, with any user name.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re

from litestar.types import HTTPScope

from importer.api.problems import ProblemCode, RequestProblem

_PAGES = re.compile(r"/(schema(/.*)?)?")
_OPEN_PATH = "/health/live"  # for probes, which have no token
_REALM = 'realm="importer"'


class TokenCheck:
    """The check of one token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def __call__(self, scope: HTTPScope) -> None:
        """Raise RequestProblem, UNAUTHORIZED, if the request needs the token and does not have it."""
        path = scope["path"]
        if path == _OPEN_PATH:
            return
        is_page = _PAGES.fullmatch(path) is not None
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(sent) == 1 and hmac.compare_digest(_credentials(sent[0], is_page=is_page), self._token):
            return
        bearer = f'Bearer {_REALM}, error="invalid_token"' if sent else f"Bearer {_REALM}"
        raise RequestProblem(
            ProblemCode.UNAUTHORIZED,
            "The Authorization header does not have the service's token."
            if sent
            else "The request has no Authorization header.",
            headers={"WWW-Authenticate": f"Basic {_REALM}, {bearer}" if is_page else bearer},
        )


def _credentials(header: bytes, *, is_page: bool) -> bytes:
    """Return the token that a header has, or nothing."""
    scheme, _, credentials = header.partition(b" ")
    match scheme.lower():
        case b"bearer":
            return credentials.strip()
        case b"basic" if is_page:
            try:
                return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return b""
