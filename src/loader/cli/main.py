"""The command line: what can be said, checked, and handed to the command that does it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn
from uuid import UUID

import msgspec

from loader.cli.formatting import Display, JsonDisplay, QuietDisplay
from loader.cli.program import Program, positive, run_and_leave
from loader.contract import FAILURE_KINDS, ExitCode, FailureCode, Job, Published, Receipt
from loader.embedded.server import default_data_folder, embedded_server
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS, Limits
from loader.pipeline.signals import SIGNALS

_EXAMPLES = {
    "": """
  loader check https://example.org/trips.csv          is it the right file? writes nothing
  loader run https://example.org/trips.csv            import it into the embedded PostgreSQL
  DATABASE_URL=postgresql://me@db/taxi loader run trips.csv.gz
  loader imports                                      what is published, what is begun

exit codes: 0 published, 2 usage, 65 data, 66 source, 69 database unavailable, 70 defect of the loader,
  73 database out of space, 75 suspended or busy (run it again), 78 configuration, 130 SIGINT, 143 SIGTERM""",
    "run": """
  loader run https://example.org/fhvhv_tripdata_2024-01.csv
  loader run trips.csv.zst --max-rejects 0.1%        set aside up to a thousandth of the rows
  curl -s https://example.org/trips.csv | loader run -
  loader run URL --mode replace                       in place of all that trips holds, in one moment
  loader run URL > log.jsonl                          JSON lines when it is not a terminal

Ctrl-C or SIGTERM rolls back; SIGHUP suspends: the same command goes on from what is committed, as it does
after a crash. What comes by stdin or a pipe begins anew.""",
    "check": """
  loader check https://example.org/trips.csv""",
    "imports": """
  loader imports --json | jq .""",
    "rejects": """
  loader rejects 0190b2c4-... > bad_rows.csv          the original lines
  loader rejects 0190b2c4-... --json                  with line, column, value and reason""",
    "drop": """
  loader drop 0190b2c4-...                            an import that is not published
  loader drop 0190b2c4-... --published                take a published one out of trips""",
    "gc": """
  loader gc --dry-run                                 what would go""",
    "sample": """
  loader sample --rows 1000000 trips.csv              about 160 MB""",
    "postgres": """
  loader postgres                                     then, elsewhere: psql 'the URL it prints'""",
}


def main(arguments: Sequence[str] | None = None, limits: Limits = DEFAULT_LIMITS) -> NoReturn:
    """Run a command and end the process with its exit code."""
    options = _parser().parse_args(arguments)
    run_and_leave(lambda: _dispatch(options, limits))


def _dispatch(options: argparse.Namespace, limits: Limits) -> ExitCode:
    if options.command == "run":
        return _run(options, limits)
    from loader.cli import commands

    match options.command:
        case "check":
            commands.check(options.source)
        case "sample":
            commands.sample(options.out, options.rows, options.seed)
        case "postgres":
            commands.postgres(options.data_dir)
        case _:
            with _opener(options)() as database_url:
                _dispatch_ledger(options, database_url, limits)
    return ExitCode.PUBLISHED


def _dispatch_ledger(options: argparse.Namespace, database_url: str, limits: Limits) -> None:
    from loader.cli import commands

    match options.command:
        case "imports":
            commands.imports(database_url, as_json=options.json)
        case "rejects":
            commands.rejects(database_url, options.import_id, as_json=options.json)
        case "drop":
            commands.drop(database_url, options.import_id, limits, published=options.published)
        case _:
            commands.collect(database_url, limits, dry_run=options.dry_run)


def _run(options: argparse.Namespace, limits: Limits) -> ExitCode:
    is_supervised = options.source is None
    job = _job_from_stdin() if is_supervised else _job_from(options)
    summary = None if options.summary is None else _open_summary(options.summary)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # but for the time that `run` watches for them
    from loader.pipeline.run import run

    shown = _display("json" if is_supervised else options.progress)
    on_published = None if summary is None else partial(_write_summary, summary)
    end = run(
        job,
        _opener(options, job.database_url),
        shown.show,
        is_supervised=is_supervised,
        on_published=on_published,
        limits=limits,
    )
    return ExitCode.PUBLISHED if isinstance(end, Published) else FAILURE_KINDS[end.failure.code].exit_code


def _display(style: str) -> Display:
    """Return the display of a style; auto: a bar on a terminal, else JSON lines."""
    if style == "auto":
        style = "bar" if sys.stdout.isatty() else "json"
    if style == "bar":
        from loader.cli.progress_bar import BarDisplay

        return BarDisplay()
    return JsonDisplay() if style == "json" else QuietDisplay()


def _open_summary(path: Path) -> BinaryIO:
    """Open the file before anything is loaded: that it can't be written must not be found out afterwards."""
    try:
        return path.open("wb")
    except OSError as error:
        raise LoaderError(
            FailureCode.USAGE,
            f"The summary can't be written to {path}: {error.strerror}.",
            "Name a file in a folder that you may write to.",
        ) from error


def _write_summary(summary: BinaryIO, receipt: Receipt) -> None:
    """Write the receipt; the import is published, so that a full disk is no failure."""
    try:
        with summary:
            summary.write(msgspec.json.format(msgspec.json.encode(receipt)) + b"\n")
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"warning: the summary could not be written: {error.strerror}\n")


def _job_from(options: argparse.Namespace) -> Job:
    return Job(
        source=options.source,
        import_id=None if options.import_id is None else str(options.import_id),
        mode=options.mode,
        workers=options.workers,
        max_rejects=options.max_rejects,
        force=options.force,
        require_verified_length=options.require_verified_length,
        on_sigterm=options.on_sigterm,
    )


def _job_from_stdin() -> Job:
    line = sys.stdin.buffer.readline()
    try:
        return msgspec.json.decode(line, type=Job)
    except msgspec.DecodeError as error:
        raise LoaderError(
            FailureCode.USAGE,
            f"The job on stdin is not valid: {error}.",
            "Write one JSON object on one line; docs/loader-contract.md has its fields.",
        ) from error


def _opener(
    options: argparse.Namespace, database_url: str | None = None
) -> Callable[[], AbstractContextManager[str]]:
    """Return what opens the database: the job's, the option's, the environment's, or the embedded one."""
    url = database_url or options.database_url or os.environ.get("DATABASE_URL")
    data_folder: Path = options.data_dir

    def open_database() -> AbstractContextManager[str]:
        return nullcontext(url) if url else embedded_server(data_folder)

    return open_database


def _parser() -> argparse.ArgumentParser:
    program = Program(
        "loader", "Imports one huge CSV into Postgres: fast, watched, cancellable, all or nothing.", _EXAMPLES
    )
    add = partial(_add, program)
    _add_run_options(add("run", "import a file"))
    check = add("check", "look at a source and say what it is; writes nothing", database=False)
    check.add_argument("source", metavar="URL|PATH|-", help="the file")
    imports = add("imports", "list the imports that the ledger knows")
    imports.add_argument("--json", action="store_true", help="one JSON object a line")
    rejects = add("rejects", "write the rows that an import set aside")
    rejects.add_argument("import_id", metavar="ID", type=UUID, help="the import's id")
    rejects.add_argument("--json", action="store_true", help="one JSON object a line, with the reason")
    drop = add("drop", "remove an import: its rows and what the ledger says of it")
    drop.add_argument("import_id", metavar="ID", type=UUID, help="the import's id")
    drop.add_argument("--published", action="store_true", help="even a published one: its rows leave trips")
    collect = add("gc", "remove staging that no loader holds: of killed, suspended and abandoned imports")
    collect.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    sample = add("sample", "write realistic trips, for trying things out", database=False)
    sample.add_argument("out", metavar="OUT", help="the file to write; - for stdout")
    sample.add_argument("--rows", type=positive, default=1_000_000, help="how many (default %(default)s)")
    sample.add_argument(
        "--seed", type=int, default=1, help="other rows for another number (default %(default)s)"
    )
    add("postgres", "keep the embedded PostgreSQL up and print its URL, until Ctrl-C")
    return program.parser


def _add_run_options(run_parser: argparse.ArgumentParser) -> None:
    run_parser.add_argument(
        "source",
        metavar="URL|PATH|-",
        nargs="?",
        help="http(s) address, path, or - for stdin; plain, gzip or zstd. Without it a job is read from stdin,"
        " see docs/loader-contract.md",
    )
    option = run_parser.add_argument
    option(
        "--mode",
        choices=("append", "replace"),
        default="append",
        help="add to trips (default), or replace all in it",
    )
    option(
        "--workers",
        type=positive,
        metavar="N",
        help="connections that load (default: one a core, at most 4)",
    )
    option("--max-rejects", default="0", metavar="N|P%", help="bad rows that may be set aside (default 0)")
    option(
        "--import-id",
        type=UUID,
        metavar="UUID",
        help="the import's id (default: the unfinished one of this file, or new)",
    )
    option("--force", action="store_true", help="import even if this very file is published already")
    option(
        "--require-verified-length",
        action="store_true",
        help="refuse a source whose end nothing announces, such as stdin: it could be cut off unseen",
    )
    option(
        "--progress",
        choices=("auto", "bar", "json", "none"),
        default="auto",
        help="how to show it (default: bar on a terminal, else json)",
    )
    option("--summary", type=Path, metavar="FILE", help="write the receipt there, as JSON")
    option(
        "--on-sigterm",
        choices=("roll_back", "suspend"),
        default="roll_back",
        help="what SIGTERM means; suspend where a scheduler evicts and starts again",
    )


def _add(program: Program, name: str, summary: str, *, database: bool = True) -> argparse.ArgumentParser:
    parser = program.add(name, summary)
    if database:
        parser.add_argument(
            "--data-dir",
            type=Path,
            default=default_data_folder(),
            metavar="DIR",
            help="where the embedded PostgreSQL lives (default %(default)s)",
        )
    if database and name != "postgres":
        parser.add_argument(
            "--database-url",
            metavar="URL",
            help="PostgreSQL 15 or newer; better in DATABASE_URL, where `ps` does not show it"
            " (default: the embedded one)",
        )
    return parser
