"""The command line: its commands, their options, and the texts of `--help`."""

from __future__ import annotations

import argparse
import os
from functools import partial
from uuid import UUID

from importer.model import State
from loader.cli.program import Program, positive

_DEFAULT_SERVER = "http://127.0.0.1:8000"

EXAMPLES = {
    "": """
  importer serve                                      at http://127.0.0.1:8000; the API is documented at /schema
  importer submit https://example.org/trips.csv --watch
  importer list                                       all imports, newest first
  IMPORTER_URL=http://importer:8000 importer list     the imports of a service on another machine

exit codes: 0 done, 2 usage, or refused by the service, 69 no service or no database, 70 defect, 73 disk full,
  75 control DB locked (start it again), 78 configuration, 130 SIGINT. `watch` and `submit --watch` exit as the
  import's loader does: 0 published, 65 data, 66 source, 69 database unavailable, 70 defect of the loader,
  73 database out of space, 75 busy (retry it), 78 configuration, 143 cancelled""",
    "serve": """
  importer serve
  importer serve --host 0.0.0.0 --port 8080
  DATABASE_URL=postgresql://me@db/taxi importer serve
  IMPORTER_ALLOWED_HOSTS=files.internal,10.0.0.0/8 importer serve

Ctrl-C or SIGTERM stops the service. Running imports keep what is committed and resume at the next start.
docs/configuration.md lists all settings.""",
    "submit": """
  importer submit https://example.org/fhvhv_tripdata_2024-01.csv --watch
  importer submit URL --max-rejects 0.1%              reject up to 0.1 % of the rows
  importer submit URL --label 2024-01                 a name, shown by `importer list`
  importer submit URL --replace                       replace all rows of trips in one transaction
  importer submit URL --workers 8                     load with eight database connections
  importer submit URL --idempotency-key 2024-01       submitted twice, it is one import""",
    "status": """
  importer status 0190b2c4-...
  importer status 0190b2c4-... --json | jq .progress""",
    "watch": """
  importer watch 0190b2c4-...                         until the import has ended; Ctrl-C does not cancel it
  importer watch 0190b2c4-... --json                  one JSON object per change, each on a line""",
    "list": """
  importer list --state queued,running
  importer list --label 'January, second try'
  importer list --json | jq -r .id""",
    "cancel": """
  importer cancel 0190b2c4-...
  importer cancel 0190b2c4-... --wait                 until its rows are removed; exit 2 if it was published first""",
    "retry": """
  importer retry 0190b2c4-...                         resumes from what is committed
  importer retry 0190b2c4-... --url 'https://example.org/trips.csv?signature=new'
                                                      with a new URL, because the old one has expired
  importer retry 0190b2c4-... --max-rejects 0.1%      with other limits: of rejects, or --workers""",
    "rejects": """
  importer rejects 0190b2c4-... > bad_rows.csv        a header and the original lines
  importer rejects 0190b2c4-... --json                with line, column, value and reason""",
    "remove": """
  importer remove 0190b2c4-...                        asks, removes its rows from trips, then its record
  importer remove 0190b2c4-... --yes                  does not ask""",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; `options.command` is the name of the command."""
    program = Program(
        "importer",
        "Imports huge CSV files from URLs into Postgres: all rows of a file or none, with progress and cancel.",
        EXAMPLES,
    )
    program.start_group("service")
    _add_serve_options(program.add("serve", "run the service"))
    add = partial(_add, program)
    program.start_group("imports")
    _add_submit_options(add("submit", "submit an import"))
    listing = add("list", "list the imports, newest first")
    listing.add_argument(
        "--state",
        type=_states,
        default=[],
        metavar="STATE,…",
        help=f"only imports in these states: {', '.join(State)}",
    )
    listing.add_argument("--label", metavar="TEXT", help="only imports with this label")
    for name, summary in (
        ("status", "show the state and progress of an import"),
        ("watch", "show the progress of an import until it has ended, also across a restart of the service"),
        ("cancel", "cancel an import and remove the rows that it has loaded"),
        ("retry", "retry an import that failed or was cancelled"),
        ("rejects", "write the rejected rows of an import"),
        ("remove", "remove an import that has ended, with its rows"),
    ):
        if name == "rejects":
            program.start_group("maintenance")
        command = add(name, summary)
        command.add_argument("import_id", metavar="ID", type=UUID, help="the id of the import")
        if name == "cancel":
            command.add_argument("--wait", action="store_true", help="wait until its rows are removed")
        if name == "retry":
            command.add_argument(
                "--url", help="another URL of the same file, such as one with a new signature"
            )
            command.add_argument("--max-rejects", metavar="N|P%", help="other rows that may be rejected")
            command.add_argument(
                "--workers", type=positive, metavar="N", help="another number of database connections"
            )
        if name == "remove":
            command.add_argument(
                "--yes", action="store_true", help="do not ask before its rows are removed from trips"
            )
    return program.parser


def _add(program: Program, name: str, summary: str) -> argparse.ArgumentParser:
    parser = program.add(name, summary)
    parser.add_argument(
        "--server",
        metavar="URL",
        default=os.environ.get("IMPORTER_URL") or _DEFAULT_SERVER,
        help=f"the URL of the service (default: IMPORTER_URL, else {_DEFAULT_SERVER})",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token that the service requires (default: the token in IMPORTER_TOKEN, else the file that"
        " IMPORTER_TOKEN_FILE names)",
    )
    parser.add_argument("--json", action="store_true", help="print the JSON of the API, for programs")
    return parser


def _states(text: str) -> list[State]:
    names = text.split(",")
    if unknown := [name for name in names if name not in set(State)]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!a} is none of {', '.join(State)}")
    return [State(name) for name in names]


def _add_serve_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--host", help="the address to listen at (default: IMPORTER_HOST, else 127.0.0.1)")
    option("--port", help="the port; 0: any free port (default: IMPORTER_PORT, else 8000)")
    option(
        "--workers",
        metavar="N",
        help="database connections of each import (default: IMPORTER_WORKERS, else one per core, at most 4)",
    )
    option(
        "--data-dir",
        metavar="DIR",
        help="the folder of the control DB and the embedded PostgreSQL (default: IMPORTER_DATA_DIR)",
    )


def _add_submit_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("url", metavar="URL", help="the http(s) URL of the file: plain, gzip or zstd")
    option(
        "--watch",
        action="store_true",
        help="show its progress until it has ended, and exit as its loader does",
    )
    option("--label", metavar="TEXT", help="your name for the import, at most 200 characters")
    option("--replace", action="store_true", help="replace all rows of trips instead of appending")
    option(
        "--workers",
        type=positive,
        metavar="N",
        help="database connections that load in parallel (default: the service's setting)",
    )
    option("--max-rejects", default="0", metavar="N|P%", help="rows that may be rejected (default 0)")
    option("--force", action="store_true", help="import the file even if it is published already")
    option(
        "--require-verified-length",
        action="store_true",
        help="refuse a file without an announced length: a truncated download can't be detected",
    )
    option(
        "--ignore-etag",
        action="store_true",
        help="identify the file by its size, Last-Modified and ends, if the nodes of its server send different ETags",
    )
    option("--idempotency-key", metavar="KEY", help="submitting twice with the same key makes one import")
