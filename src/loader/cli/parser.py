"""The command line: its commands, their options, and the texts of `--help`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from loader.cli.program import Program, positive
from loader.contract import MAX_READ_TIMEOUT_SECONDS
from loader.embedded.server import default_data_folder
from loader.limits import RetryPolicy

EXAMPLES = {
    "": """
  loader check https://example.org/trips.csv          is it the right file? writes nothing
  loader run https://example.org/trips.csv            import it into the embedded PostgreSQL
  DATABASE_URL=postgresql://me@db/taxi loader run trips.csv.gz
  loader imports                                      list published and unfinished imports

exit codes: 0 published, 2 usage, 65 data, 66 source, 69 database unavailable, 70 defect of the loader,
  73 database out of space, 75 suspended or busy (run it again), 78 configuration, 130 SIGINT, 143 SIGTERM""",
    "run": """
  loader run https://example.org/fhvhv_tripdata_2024-01.csv
  loader run trips.csv.zst --max-rejects 0.1%         reject up to a thousandth of the rows
  curl -s https://example.org/trips.csv | loader run -
  loader run URL --mode replace                       replace all rows of trips, in one transaction
  loader run URL > receipt.txt 2> progress.log        a line at each phase and every ten seconds
  loader run URL --progress json | jq .               JSON lines, for programs

Ctrl-C or SIGTERM rolls the import back. After SIGHUP or a crash, the same command resumes the import from its
last commit. An import from stdin or a pipe starts over.""",
    "check": """
  loader check https://example.org/trips.csv""",
    "imports": """
  loader imports --json | jq .""",
    "rejects": """
  loader rejects 0190b2c4-... > bad_rows.csv          the original lines
  loader rejects 0190b2c4-... --json                  with line, column, value and reason""",
    "drop": """
  loader drop 0190b2c4-...                            an import that is not published
  loader drop 0190b2c4-... --published                a published import: its rows leave trips""",
    "gc": """
  loader gc --dry-run                                 list what would be removed""",
    "sample": """
  loader sample --rows 1000000 trips.csv              about 160 MB""",
    "postgres": """
  loader postgres                                     then, elsewhere: psql 'the URL it prints'""",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, of which `command` is the command's name; end the process if they are not valid."""
    program = make_program()
    options = program.parser.parse_args(arguments)
    if options.command == "run" and options.source is None and os.isatty(0):  # nobody types a job
        program.command("run").error("name the file to import: a URL, a path, or - for stdin")
    return options


def make_program() -> Program:
    """Return the parser of all commands."""
    program = Program(
        "loader",
        "Imports one huge CSV into Postgres: fast, monitored, cancellable, all or nothing.",
        EXAMPLES,
    )
    add = partial(_add, program)
    program.start_group("commands")
    _add_run_options(add("run", "import a file"))
    check = add("check", "show what a source is; writes nothing", database=False)
    check.add_argument("source", metavar="URL|PATH|-", help="the file")
    _add_source_options(check)
    imports = add("imports", "list the imports in the ledger")
    imports.add_argument("--json", action="store_true", help="one JSON object a line")
    sample = add("sample", "write generated trips, to try things out", database=False)
    sample.add_argument("out", metavar="OUT", help="the file to write; - for stdout")
    sample.add_argument(
        "--rows", type=positive, default=1_000_000, help="the number of rows (default %(default)s)"
    )
    sample.add_argument(
        "--seed", type=int, default=1, help="another number gives other rows (default %(default)s)"
    )
    add("postgres", "run the embedded PostgreSQL and print its URL, until Ctrl-C")
    program.start_group("maintenance")
    rejects = add("rejects", "write the rejected rows of an import")
    rejects.add_argument("import_id", metavar="ID", type=UUID, help="the import's id")
    rejects.add_argument("--json", action="store_true", help="one JSON object a line, with the reason")
    drop = add("drop", "remove an import: its rows and its entries in the ledger")
    drop.add_argument("import_id", metavar="ID", type=UUID, help="the import's id")
    drop.add_argument(
        "--published", action="store_true", help="even if it is published: its rows leave trips"
    )
    collect = add("gc", "remove the staging of killed, suspended and abandoned imports")
    collect.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    return program


def _add_run_options(run_parser: argparse.ArgumentParser) -> None:
    run_parser.add_argument(
        "source",
        metavar="URL|PATH|-",
        nargs="?",
        help="an http(s) URL, a path, or - for stdin; plain, gzip or zstd. Without it, a program writes the job to"
        " stdin: see docs/loader-contract.md",
    )
    option = run_parser.add_argument
    option(
        "--mode",
        choices=("append", "replace"),
        default="append",
        help="append to trips (default), or replace all its rows",
    )
    option(
        "--workers",
        type=positive,
        metavar="N",
        help="database connections that load (default: one a core, at most 4)",
    )
    option("--max-rejects", default="0", metavar="N|P%", help="bad rows that may be rejected (default 0)")
    option(
        "--import-id",
        type=UUID,
        metavar="UUID",
        help="the import's id (default: that of this file's unfinished import, or a new one)",
    )
    option("--force", action="store_true", help="import a file again that is published already")
    option(
        "--require-verified-length",
        action="store_true",
        help="refuse a source that announces no length, such as stdin, whose truncation can't be detected",
    )
    _add_source_options(run_parser)
    option(
        "--progress",
        choices=("auto", "bar", "json", "none"),
        default="auto",
        help="bar; json: JSON lines on stdout, for programs; none: the result only; auto (default): a bar on a terminal,"
        " else a line at each phase and every ten seconds",
    )
    option("--summary", type=Path, metavar="FILE", help="write the receipt to a file, as JSON")
    option(
        "--on-sigterm",
        choices=("roll_back", "suspend"),
        default="roll_back",
        help="the effect of SIGTERM (default roll_back); suspend if a scheduler evicts and restarts the loader",
    )


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ignore-etag",
        action="store_true",
        help="identify the file by its size, Last-Modified and ends, if the nodes of its server send different ETags",
    )
    parser.add_argument(
        "--read-timeout",
        type=_read_timeout,
        metavar="SECONDS",
        help=f"how long the server may send nothing, also before its first byte: 1 to {MAX_READ_TIMEOUT_SECONDS}"
        f" (default {RetryPolicy().read_timeout_seconds:.0f})",
    )


def _read_timeout(text: str) -> int:
    seconds = positive(text)
    if seconds > MAX_READ_TIMEOUT_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAX_READ_TIMEOUT_SECONDS}")
    return seconds


def _add(program: Program, name: str, summary: str, *, database: bool = True) -> argparse.ArgumentParser:
    parser = program.add(name, summary)
    if database:
        parser.add_argument(
            "--data-dir",
            type=Path,
            default=default_data_folder(),
            metavar="DIR",
            help="the data folder of the embedded PostgreSQL (default %(default)s)",
        )
    if database and name != "postgres":
        parser.add_argument(
            "--database-url",
            metavar="URL",
            help="PostgreSQL 15 or newer (default: the embedded one). DATABASE_URL is safer: `ps` does not show it",
        )
    return parser
