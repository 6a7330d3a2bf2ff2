"""Scripts by which a shell completes commands, options, their values and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import cast

SHELLS = ("bash", "zsh", "fish")
# The arguments that are files, apart from those of type Path.
_FILES = ("source", "out")


class PrintCompletion(argparse.Action):
    """An option that prints the script of a shell, and ends the program."""

    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: object, shell: object, *_: object
    ) -> None:
        """Print the script of `shell`, one of SHELLS."""
        import shtab  # pyright: ignore[reportMissingTypeStubs] - there are none

        for action in _actions(parser):
            if action.type is Path or action.dest in _FILES:
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue] - shtab reads it
        print(shtab.complete(parser, shell=str(shell)))  # pyright: ignore[reportUnknownMemberType] - as above
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a program and of its commands, whose list is made visible to shtab."""
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] - argparse has no public list
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage] - as above
            action.help = None
            commands = cast("dict[str, argparse.ArgumentParser]", action.choices)  # pyright: ignore[reportUnknownMemberType] - typeshed's
            for command in commands.values():
                yield from _actions(command)
        else:
            yield action
