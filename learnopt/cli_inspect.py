"""`learnopt inspect`: what meta-weights are and how they were made."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from learnopt import artifact, consoles


def inspect_command(
    weights: Annotated[str, typer.Argument(help="name or path of meta-weights")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="the card as it is stored")] = False,
) -> None:
    """Check meta-weights as at loading, and print their card."""
    loaded = artifact.load(weights)
    if as_json:
        typer.echo(json.dumps(loaded.card, indent=2))
        return
    table = Table(title=loaded.path.name, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(loaded.card):
        table.add_row(name, value)
    table.add_row("stop head", "none" if loaded.stop is None else "learned")
    table.add_row("file", str(loaded.path))
    console = consoles.console()
    if not console.is_terminal:
        console.width = max(160, console.width)
    console.print(table, highlight=False)


def _rows(card: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """The card's entries, those of inner tables named `outer.inner`."""
    rows: list[tuple[str, str]] = []
    for name, value in card.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{above}{name}.")
        else:
            rows.append((above + name, value if isinstance(value, str) else json.dumps(value)))
    return rows
