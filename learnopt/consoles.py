"""Where commands print: text as it is, since names of files and columns may look like markup or emoji codes."""

from __future__ import annotations

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A console on stdout or stderr that reads neither markup nor emoji codes in what it prints."""
    return Console(stderr=stderr, markup=False, emoji=False)
