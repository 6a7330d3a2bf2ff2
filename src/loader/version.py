"""The versions of the program and of what it runs on, for `--version` and bug reports."""

from __future__ import annotations

import platform
import sqlite3
import ssl
from importlib import metadata

import psycopg


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the C libraries that read data from outside."""
    return {
        "version": metadata.version("large-file-importer"),
        "python": platform.python_version(),
        "libpq": psycopg.pq.version_pretty(psycopg.pq.version()),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
    }
