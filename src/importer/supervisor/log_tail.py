"""The end of a loader's stderr, without the secrets of its job."""

from __future__ import annotations

import contextlib
from urllib.parse import parse_qsl, unquote, urlsplit

from loader.contract import Job
from loader.postgres.database_url import parse_url

# Room for some tracebacks.
LOG_BYTES = 64 * 1024
# Shorter values in a URL's query, such as a version or a region, are no secrets and may appear anywhere.
_MIN_SECRET_LENGTH = 6


class LogTail:
    """The last LOG_BYTES that were added."""

    def __init__(self, job: Job | None, database_url: str) -> None:
        secrets = sorted(_secrets(job, database_url), key=len, reverse=True)
        self._secrets = [secret.encode() for secret in secrets]
        self._bytes = bytearray()

    def add(self, line: bytes) -> None:
        """Add a line, with secrets replaced by ***."""
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        self._bytes += line
        del self._bytes[:-LOG_BYTES]

    def text(self) -> str:
        """Return the tail; bytes that are not UTF-8 are replaced."""
        return self._bytes.decode(errors="replace")


def _secrets(job: Job | None, database_url: str) -> set[str]:
    """Return the texts that a traceback could quote. The loader's own messages contain none."""
    secrets = {database_url, parse_url(database_url).get("password", "")}
    if job is not None:
        secrets.add(job.source)
        with contextlib.suppress(ValueError):  # not a URL: the loader reports that
            source = urlsplit(job.source)
            credentials, _, _ = source.netloc.rpartition("@")
            values = (value for _, value in parse_qsl(source.query) if len(value) >= _MIN_SECRET_LENGTH)
            secrets |= {source.query, credentials, *credentials.split(":", 1), *values}
    return {form for secret in secrets for form in (secret, unquote(secret)) if form}
