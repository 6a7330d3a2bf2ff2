"""The command line `importer`: `serve` runs the service, the other commands are clients of its API."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from importer.cli.parser import make_parser
from loader.cli.program import run_and_exit
from loader.contract import ExitCode

if TYPE_CHECKING:
    from importer.cli.commands import Commands
    from importer.server.server import Endpoint


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    options = make_parser().parse_args(arguments)
    run_and_exit(partial(_serve if options.command == "serve" else _run_client, options))


def _serve(options: argparse.Namespace) -> ExitCode:
    # imported here: the client does not need it, and it takes half a second
    from importer.server.server import CannotStart, UnhandledErrorStop, serve
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
        return _report(
            "settings", str(error), "docs/configuration.md lists all settings.", ExitCode.CONFIGURATION
        )
    except StoreFull as error:
        return _report("start", error.message, error.hint, ExitCode.OUT_OF_SPACE)
    except StoreBusy as error:
        return _report("start", error.message, error.hint, ExitCode.SUSPENDED)
    except (CannotStart, StoreError) as error:  # a restart does not help
        return _report("start", error.message, error.hint, ExitCode.CONFIGURATION)
    except UnhandledErrorStop:
        return _report(
            "internal_error",
            "A task of the service has failed; the log has the traceback.",
            "Start the service again, which resumes all imports, and report the traceback.",
            ExitCode.INTERNAL,
        )
    return ExitCode.PUBLISHED


def _announce(endpoint: Endpoint) -> None:
    lines = [f"importer serves {endpoint.url}; API documentation: {endpoint.url}/schema"]
    if endpoint.is_reachable:
        lines.append(f"  Other machines reach it at this machine's name or address, port {endpoint.port}.")
    if endpoint.token_file is not None:
        lines.append(
            f"  Clients send the token in {endpoint.token_file}: `Authorization: Bearer TOKEN`. A browser asks for it as a"
            " password, with any user name."
        )
    elif endpoint.is_reachable:
        lines.append(
            "  Anyone who reaches this port may import and remove. IMPORTER_TOKEN_FILE requires a token."
        )
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _run_client(options: argparse.Namespace) -> ExitCode:
    from importer.cli.client import Client, RequestFailed
    from importer.cli.commands import Commands
    from importer.token import InvalidToken

    try:
        with Client(options.server, _token(options)) as client:
            return _run_command(options, Commands(client, as_json=options.json))
    except InvalidToken as error:
        hint = "Set the token with IMPORTER_TOKEN, IMPORTER_TOKEN_FILE or --token-file."
        return _report("usage", str(error), hint, ExitCode.USAGE)
    except RequestFailed as error:
        return _report(error.code, error.message, error.hint, error.exit_code)


def _token(options: argparse.Namespace) -> str | None:
    from importer.token import read_token, valid_token

    if options.token_file is None and (token := os.environ.get("IMPORTER_TOKEN")):
        return valid_token(token, "IMPORTER_TOKEN")
    path = options.token_file or os.environ.get("IMPORTER_TOKEN_FILE")
    return read_token(Path(path)) if path else None


def _run_command(options: argparse.Namespace, commands: Commands) -> ExitCode:
    match options.command:
        case "submit":
            return commands.submit(_new_import(options), options.idempotency_key, watch=options.watch)
        case "status":
            return commands.status(options.import_id)
        case "watch":
            return commands.watch(options.import_id)
        case "list":
            return commands.list(options.state, options.label)
        case "cancel":
            return commands.cancel(options.import_id, wait=options.wait)
        case "retry":
            return commands.retry(options.import_id, _retry(options))
        case "rejects":
            return commands.rejects(options.import_id)
        case _:
            return commands.remove(options.import_id, is_confirmed=options.yes)


def _new_import(options: argparse.Namespace) -> dict[str, object]:
    return {
        "url": options.url,
        "label": options.label,
        "mode": "replace" if options.replace else "append",
        "workers": options.workers,
        "max_rejects": options.max_rejects,
        "force": options.force,
        "require_verified_length": options.require_verified_length,
        "ignore_etag": options.ignore_etag,
    }


def _retry(options: argparse.Namespace) -> dict[str, object]:
    return {"url": options.url, "max_rejects": options.max_rejects, "workers": options.workers}


def _report(code: str, message: str, hint: str, exit_code: ExitCode) -> ExitCode:
    sys.stderr.write(f"{code}: {message}\n  next: {hint}\n")
    return exit_code
