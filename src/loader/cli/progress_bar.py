"""The display of a terminal: the progress bar of a run, and tables. Imported when needed: rich takes long to import."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from loader import contract
from loader.cli.display import ProgressDisplay
from loader.cli.formatting import numbers_text, percent_text
from loader.contract import Message, Published

# In characters. Only longer URLs are folded in a table that is piped.
_PIPED_WIDTH = 400


class BarDisplay(ProgressDisplay):
    """Draws a progress bar, then writes the result."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[percent]:>6}"),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def show(self, message: Message) -> None:
        """Update the bar, or replace it by the result."""
        if isinstance(message, Published) and self._task is not None:
            self._bar.update(self._task, description="published", completed=100, total=100, percent="100%")
        super().show(message)

    def note(self, text: str) -> None:
        """Write lines above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Stop updating the bar."""
        self._bar.stop()

    def draw(self, description: str, progress: contract.Progress | None) -> None:
        """Update the bar with the current phase and its progress."""
        if self._task is None:
            self._task = self._bar.add_task("", total=100, percent="", numbers="")
            self._bar.start()
        percent = None if progress is None else progress.percent
        self._bar.update(
            self._task,
            description=description,
            completed=percent or 0,
            total=None if percent is None else 100,
            percent=percent_text(progress),
            numbers="" if progress is None else numbers_text(progress),
        )


def print_table(table: Table) -> None:
    """Print a table on stdout."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)
