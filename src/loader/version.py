"""What both programs run on: the first thing that is asked when something is odd."""

from __future__ import annotations

import platform
import sqlite3
import ssl
from importlib import metadata

import psycopg


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the libraries in C that read what comes from outside."""
    return {
        "version": metadata.version("large-file-importer"),
        "python": platform.python_version(),
        "libpq": psycopg.pq.version_pretty(psycopg.pq.version()),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
    }
