"""One row per optimizer: the figures of a comparison, as people read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.table import Table

from learnopt.baselines import REGISTRY

COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "validation ratio": lambda s: number(s["validation_ratio"]),
    "training ratio": lambda s: number(s["train_ratio"]),
    "tasks won": lambda s: percent(s["wins"]),
    "best kept": lambda s: number(s["best_ratio"]),
    "won vs Adam": lambda s: percent(s["wins_adam"]),
    "speed-up (IQM, 95 %)": lambda s: interval(s["speed_up"]),
    "in seconds": lambda s: interval(s["wall_clock_speed_up"]),
    "time/step": lambda s: number(s["seconds_ratio"]),
    "memory": lambda s: number(s["memory_ratio"]),
    "diverged": lambda s: str(s["diverged"]),
}
"""Heading of a column, and its cell from an optimizer's summary."""

_FRAME = 3
"""Characters between two columns."""
_FIRST = ("validation ratio", "tasks won", "training ratio", "speed-up (IQM, 95 %)", "diverged", "time/step",
          "won vs Adam", "best kept", "in seconds", "memory")  # fmt: skip
"""Who is shown first where a terminal has no room for all."""


def number(value: float | None) -> str:
    """Three significant digits, or n/a."""
    if value is None:
        return "n/a"
    return f"{value:.2f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share as a percentage, or n/a."""
    return "n/a" if value is None else f"{100 * value:.0f} %"


def interval(value: dict[str, float] | None) -> str:
    """A figure and its interval, or n/a."""
    return "n/a" if value is None else f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def label(optimizer: str) -> str:
    """What an optimizer is called in print."""
    return REGISTRY[optimizer].label if optimizer in REGISTRY else optimizer


def terminal_table(entry: dict[str, Any], width: int) -> Table:
    """The summary for a terminal of so many characters: as many columns as it has room for, the report has all."""
    names = {name: label(name) for name in entry["figures"]}
    cells = {c: [of(summary) for summary in entry["figures"].values()] for c, of in COLUMNS.items()}
    room = width - max(map(len, ["optimizer", *names.values()])) - _FRAME
    shown = []
    for column in _FIRST:
        needs = max(map(len, [*_heading(column).split("\n"), *cells[column]])) + _FRAME
        room -= needs
        if room >= 0:
            shown.append(column)
    table = Table(
        title=f"{len(entry['plan']['tasks'])} tasks, ratios to {label(entry['reference'])}", box=box.SIMPLE_HEAVY
    )
    table.add_column("optimizer", no_wrap=True)
    for column in shown:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    for row, name in enumerate(names):
        table.add_row(names[name], *(cells[c][row] for c in shown), style="bold" if _learned(name) else None)
    return table


def _heading(column: str) -> str:
    return column.replace(" ", "\n", 1)


def _learned(name: str) -> bool:
    return name in REGISTRY and REGISTRY[name].learned
