"""The entry point of `loader`: parses the command line and runs the command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

import msgspec

from loader.cli.display import Display, JsonDisplay, QuietDisplay
from loader.cli.parser import parse
from loader.cli.program import progress_display, run_and_exit
from loader.contract import FAILURE_KINDS, ExitCode, FailureCode, Job, Published, Receipt
from loader.embedded.server import embedded_server
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS, Limits
from loader.pipeline.signals import SIGNALS
from loader.text import warn


def main(arguments: Sequence[str] | None = None, limits: Limits = DEFAULT_LIMITS) -> NoReturn:
    """Run a command and end the process with its exit code."""
    options = parse(arguments)
    run_and_exit(lambda: _dispatch(options, limits))


def _dispatch(options: argparse.Namespace, limits: Limits) -> ExitCode:
    if options.command == "run":
        return _run(options, limits)
    from loader.cli import commands

    match options.command:
        case "check":
            commands.check(
                options.source,
                limits.with_read_timeout(options.read_timeout),
                ignore_etag=options.ignore_etag,
            )
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
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # `run` unblocks them while it watches for them
    from loader.pipeline.run import run

    display = _display(options.progress)
    on_published = None if summary is None else partial(_write_summary, summary)
    end = run(
        job,
        _opener(options, job.database_url),
        display.show,
        is_supervised=is_supervised,
        on_published=on_published,
        limits=limits,
    )
    return ExitCode.PUBLISHED if isinstance(end, Published) else FAILURE_KINDS[end.failure.code].exit_code


def _display(style: str) -> Display:
    match style:
        case "auto":
            return progress_display()
        case "bar":
            from loader.cli.progress_bar import BarDisplay

            return BarDisplay()
        case "json":
            return JsonDisplay()
        case _:
            return QuietDisplay()


def _open_summary(path: Path) -> BinaryIO:
    """Open the file before anything is loaded, so that an unusable path fails at once."""
    try:
        return path.open("wb")
    except OSError as error:
        raise LoaderError(
            FailureCode.USAGE,
            f"The summary can't be written to {path}: {error.strerror}.",
            "Name a file in a folder that you may write to.",
        ) from error


def _write_summary(summary: BinaryIO, receipt: Receipt) -> None:
    """Write the receipt. The import is published by then, so a full disk is no failure."""
    try:
        with summary:
            summary.write(msgspec.json.format(msgspec.json.encode(receipt)) + b"\n")
    except OSError as error:
        warn(f"the summary could not be written: {error.strerror}")


def _job_from(options: argparse.Namespace) -> Job:
    return Job(
        source=options.source,
        import_id=None if options.import_id is None else str(options.import_id),
        mode=options.mode,
        workers=options.workers,
        max_rejects=options.max_rejects,
        force=options.force,
        require_verified_length=options.require_verified_length,
        ignore_etag=options.ignore_etag,
        read_timeout_seconds=options.read_timeout,
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
    """Return what opens the database of the job, else of the option, of the environment, or the embedded one."""
    url = database_url or options.database_url or os.environ.get("DATABASE_URL")
    data_folder: Path = options.data_dir

    def open_database() -> AbstractContextManager[str]:
        return nullcontext(url) if url else embedded_server(data_folder)

    return open_database
