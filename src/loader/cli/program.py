"""What both command lines share: commands with examples in their help, the progress, how a command ends the process."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from loader.cli.completion import SHELLS, PrintCompletion
from loader.cli.display import LineDisplay, ProgressDisplay
from loader.cli.formatting import failure_text
from loader.contract import ExitCode, Failed
from loader.errors import LoaderError


class Program:
    """A program's parser, to which subcommands are added."""

    def __init__(self, program: str, description: str, examples: Mapping[str, str]) -> None:
        """`examples` has a text for each command; that of the program itself has the empty name."""
        self.parser = argparse.ArgumentParser(
            prog=program,
            usage="%(prog)s [-h] [--version] COMMAND ...",
            description=description,
            epilog="examples:" + examples[""],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument(
            "--version",
            action=_Versions,
            nargs=0,
            help="show the versions of the program and of what it runs on",
        )
        self.parser.add_argument(
            "--print-completion",
            action=PrintCompletion,
            dest=argparse.SUPPRESS,
            choices=SHELLS,
            metavar="SHELL",
            help=f"print the script that completes this command in {', '.join(SHELLS[:-1])} or {SHELLS[-1]}",
        )
        self._examples = examples
        # Hidden, because argparse would list all commands in one group: the description lists them.
        self._subparsers = self.parser.add_subparsers(
            dest="command", required=True, metavar="COMMAND", prog=program, help=argparse.SUPPRESS
        )

    def start_group(self, title: str) -> None:
        """List the commands that are added from now on under a title."""
        self._describe(f"\n\n{title}:")

    def add(self, name: str, summary: str) -> argparse.ArgumentParser:
        """Add a command to the current group; `options.command` is its name."""
        self._describe(f"\n  {name:<10}{summary}")
        return self._subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:" + self._examples[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def command(self, name: str) -> argparse.ArgumentParser:
        """Return the parser of a command."""
        return self._subparsers.choices[name]

    def _describe(self, text: str) -> None:
        self.parser.description = f"{self.parser.description}{text}"


class _Versions(argparse.Action):
    """An option that prints versions, which are only then looked up, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from loader.version import versions

        sys.stdout.write("".join(f"{name:<8} {version}\n" for name, version in versions().items()))
        parser.exit()


def positive(text: str) -> int:
    """Parse an option's value as a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def progress_display() -> ProgressDisplay:
    """Return the display of progress for people: a bar if stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        return LineDisplay()
    from loader.cli.progress_bar import BarDisplay  # rich takes long to import

    return BarDisplay()


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Run a command, print its LoaderError, and end the process with its exit code."""
    _replace_closed_streams()
    _escape_unencodable_characters()
    try:
        code = command()
    except LoaderError as error:
        with contextlib.suppress(OSError):  # stderr is closed; the exit code is not affected
            sys.stderr.write(failure_text(Failed(error.failure, "none")) + "\n")
        code = error.exit_code
    except BrokenPipeError:  # the reader of a listing has ended
        code = ExitCode.PUBLISHED
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    _exit_process(code)


def _replace_closed_streams() -> None:
    """Replace streams that the process was started without, such as by `>&-`, by the null device."""
    null = Path(os.devnull)
    if sys.__stdin__ is None:
        sys.stdin = null.open()
    if sys.__stdout__ is None:
        sys.stdout = null.open("w")
    if sys.__stderr__ is None:
        sys.stderr = null.open("w")


def _escape_unencodable_characters() -> None:
    """Escape characters that the locale's encoding lacks, so that an accent in a file's name does not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit_process(code: int) -> NoReturn:
    """End the process at once, even if a thread hangs in a name look-up or in the compiler."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
