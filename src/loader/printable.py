"""Text from outside, fit to be shown to people: it can't end a line, move a cursor or change what stands around it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape, as Python does, whatever is neither a space nor drawn: line ends, ANSI sequences, marks that reverse text."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
