"""The command line of the service: `serve` runs it, the other commands are its client for people."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

from importer.model import State
from loader.cli.program import Program, run_and_leave
from loader.contract import ExitCode

if TYPE_CHECKING:
    from importer.cli.commands import Commands

DEFAULT_SERVER = "http://127.0.0.1:8000"

_EXAMPLES = {
    "": """
  importer serve                                      at http://127.0.0.1:8000; its API to try out is at /schema
  importer submit https://example.org/trips.csv --watch
  importer list                                       all imports, newest first
  IMPORTER_URL=http://importer:8000 importer list     those of another machine

exit codes: 0 done, 2 usage, or refused by the service, 69 no service or no database, 70 defect, 73 disk full,
  75 control DB locked (start it again), 78 configuration, 130 SIGINT. `watch` and `submit --watch` end as the
  import does: 0 published, 65 data, 66 source, 69 database unavailable, 70 defect of the loader, 73 database out
  of space, 75 busy (retry it), 78 configuration, 143 cancelled""",
    "serve": """
  importer serve
  importer serve --host 0.0.0.0 --port 8080
  DATABASE_URL=postgresql://me@db/taxi importer serve
  IMPORTER_ALLOWED_HOSTS=files.internal,10.0.0.0/8 importer serve

Ctrl-C or SIGTERM stops it; imports that run keep what is committed, and go on when it is started again.
All settings are in docs/configuration.md.""",
    "submit": """
  importer submit https://example.org/fhvhv_tripdata_2024-01.csv --watch
  importer submit URL --max-rejects 0.1%              set aside up to a thousandth of the rows
  importer submit URL --replace                       in place of all that trips holds, in one moment
  importer submit URL --idempotency-key 2024-01       sent twice, it is one import""",
    "status": """
  importer status 0190b2c4-...
  importer status 0190b2c4-... --json | jq .progress""",
    "watch": """
  importer watch 0190b2c4-...                         until it has ended; Ctrl-C ends the watching only
  importer watch 0190b2c4-... --json                  one JSON object a line, at each change""",
    "list": """
  importer list --state failed
  importer list --json | jq -r .id""",
    "cancel": """
  importer cancel 0190b2c4-...
  importer cancel 0190b2c4-... --wait                 until nothing of it is left; exit 2 if it was published first""",
    "retry": """
  importer retry 0190b2c4-...                         it goes on from what is committed
  importer retry 0190b2c4-... --url 'https://example.org/trips.csv?signature=new'
                                                      the same, where the URL that it was submitted with has expired""",
    "rejects": """
  importer rejects 0190b2c4-... > bad_rows.csv        a header and the original lines
  importer rejects 0190b2c4-... --json                with line, column, value and reason""",
    "remove": """
  importer remove 0190b2c4-...                        its rows leave trips, and it is forgotten""",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    options = _parser().parse_args(arguments)
    run_and_leave(partial(_serve if options.command == "serve" else _ask, options))


def _serve(options: argparse.Namespace) -> ExitCode:
    # what only the service needs takes half a second to import
    from importer.server.server import CannotStart, Defective, serve
    from importer.settings import InvalidSettings, Settings
    from importer.store.errors import StoreBusy, StoreError, StoreFull

    given = {
        "IMPORTER_HOST": options.host,
        "IMPORTER_PORT": options.port,
        "IMPORTER_WORKERS": options.workers,
        "IMPORTER_DATA_DIR": options.data_dir,
    }
    overridden = {name: value for name, value in given.items() if value is not None}
    try:
        serve(Settings.from_environment({**os.environ, **overridden}), _announce)
    except InvalidSettings as error:
        return _tell(
            "settings", str(error), "docs/configuration.md lists all of them.", ExitCode.CONFIGURATION
        )
    except StoreFull as error:
        return _tell("start", error.message, error.hint, ExitCode.OUT_OF_SPACE)
    except StoreBusy as error:
        return _tell("start", error.message, error.hint, ExitCode.SUSPENDED)
    except (CannotStart, StoreError) as error:  # a restart is of no use
        return _tell("start", error.message, error.hint, ExitCode.CONFIGURATION)
    except Defective:
        return _tell(
            "internal_error",
            "A part of the service has failed; its log has the traceback.",
            "Start it again, which goes on with all imports, and report the traceback.",
            ExitCode.INTERNAL,
        )
    return ExitCode.PUBLISHED


def _announce(url: str) -> None:
    sys.stdout.write(f"importer serves {url}; its API, to read and to try out: {url}/schema\n")
    sys.stdout.flush()


def _ask(options: argparse.Namespace) -> ExitCode:
    from importer.cli.client import Client, RequestFailed
    from importer.cli.commands import Commands

    try:
        with Client(options.server) as client:
            return _run(options, Commands(client, as_json=options.json))
    except RequestFailed as error:
        return _tell(error.code, error.message, error.hint, error.exit_code)


def _run(options: argparse.Namespace, commands: Commands) -> ExitCode:
    match options.command:
        case "submit":
            return commands.submit(_new_import(options), options.idempotency_key, watch=options.watch)
        case "status":
            return commands.status(options.import_id)
        case "watch":
            return commands.watch(options.import_id)
        case "list":
            return commands.list(options.state)
        case "cancel":
            return commands.cancel(options.import_id, wait=options.wait)
        case "retry":
            return commands.retry(options.import_id, options.url)
        case "rejects":
            return commands.rejects(options.import_id)
        case _:
            return commands.remove(options.import_id)


def _new_import(options: argparse.Namespace) -> dict[str, object]:
    mode = "replace" if options.replace else "append"
    return {
        "url": options.url,
        "mode": mode,
        "max_rejects": options.max_rejects,
        "force": options.force,
        "require_verified_length": options.require_verified_length,
    }


def _tell(code: str, message: str, hint: str, exit_code: ExitCode) -> ExitCode:
    sys.stderr.write(f"{code}: {message}\n  next: {hint}\n")
    return exit_code


def _parser() -> argparse.ArgumentParser:
    program = Program(
        "importer",
        "Takes the URLs of huge CSVs, and loads each into Postgres: watched, cancellable, all or nothing.",
        _EXAMPLES,
    )
    _add_serve_options(program.add("serve", "run the service"))
    add = partial(_add, program)
    _add_submit_options(add("submit", "have a file imported"))
    add("list", "list the imports, newest first").add_argument(
        "--state", type=State, choices=list(State), metavar="STATE", help="only those in it: %(choices)s"
    )
    for name, summary in (
        ("status", "say where an import stands"),
        ("watch", "show an import until it has ended, also while the service restarts"),
        ("cancel", "end an import without rows, and take back what was loaded"),
        ("retry", "try an import again that failed or was cancelled"),
        ("rejects", "write the rows that an import set aside"),
        ("remove", "remove an import that has ended, its rows included"),
    ):
        command = add(name, summary)
        command.add_argument("import_id", metavar="ID", type=UUID, help="the import's id")
        if name == "cancel":
            command.add_argument("--wait", action="store_true", help="until nothing of it is left")
        if name == "retry":
            command.add_argument(
                "--url", help="another URL of the same file, such as one with a new signature"
            )
    return program.parser


def _add(program: Program, name: str, summary: str) -> argparse.ArgumentParser:
    parser = program.add(name, summary)
    parser.add_argument(
        "--server",
        metavar="URL",
        default=os.environ.get("IMPORTER_URL") or DEFAULT_SERVER,
        help=f"where the service is (default: IMPORTER_URL, else {DEFAULT_SERVER})",
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers, for programs")
    return parser


def _add_serve_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--host", help="the address to listen at (default: IMPORTER_HOST, else 127.0.0.1)")
    option("--port", help="the port; 0: any that is free (default: IMPORTER_PORT, else 8000)")
    option(
        "--workers",
        metavar="N",
        help="connections of each import (default: IMPORTER_WORKERS, else one a core, at most 4)",
    )
    option(
        "--data-dir",
        metavar="DIR",
        help="where control DB and embedded PostgreSQL live (default: IMPORTER_DATA_DIR)",
    )


def _add_submit_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("url", metavar="URL", help="http(s) address; plain, gzip or zstd")
    option("--watch", action="store_true", help="show it until it has ended, and exit as it does")
    option("--replace", action="store_true", help="replace all that trips holds, instead of adding to it")
    option("--max-rejects", default="0", metavar="N|P%", help="bad rows that may be set aside (default 0)")
    option("--force", action="store_true", help="import even if this very file is published already")
    option(
        "--require-verified-length",
        action="store_true",
        help="refuse a file whose end nothing announces: it could be cut off unseen",
    )
    option("--idempotency-key", metavar="KEY", help="sent again with the same options, it is the same import")
