"""What `learnopt report` shows of a recording: two short tables for the terminal, a picture beside the file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from learnopt import recording, recording_plots
from learnopt import recording_figures as figures
from learnopt.layer_groups import Group
from learnopt.recording import Recording

_SPOKEN = 3
"""Readings that are named for and against stopping, at most."""


def report(path: Path) -> tuple[list[Table], Path]:
    """Tables of the recording in `path`, and where its picture was written.

    Raises:
        ValueError: the file is no recording, or an empty one, or there is no writing beside it.
    """
    kept = recording.load(path)
    if not kept.rows:
        raise ValueError(f"recording {path} has no steps in it")
    picture = path.with_name(f"{path.stem if path.suffix == '.json' else path.name}.png")
    try:
        recording_plots.draw(kept, picture, path.name)
    except OSError as error:
        raise ValueError(f"{picture} cannot be written: {error.strerror}") from error
    return [run_table(kept, path.name), layer_table(kept)], picture


def run_table(kept: Recording, title: str) -> Table:
    """The run as a whole, a line per question."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    planned = "unknown" if kept.total_steps is None else f"{kept.total_steps:,}"
    rows = f"{len(kept.rows)} recorded, every {kept.every}" if kept.every > 1 else f"{len(kept.rows)} recorded"
    table.add_row("steps", f"{kept.last_step:,}, planned {planned} ({rows})")
    table.add_row("loss, averaged", _from_to(kept.column("loss_average"), "never told"))
    table.add_row("schedule", _highest_and_last(kept, kept.column("schedule")))
    pull = figures.over_parameters(kept, figures.amount(kept, "pull"))
    table.add_row("pull to the average", _highest_and_last(kept, pull))
    table.add_row("stop probability", _highest_and_last(kept, kept.column("stop_probability")))
    table.add_row(
        "should_stop", f"no: it takes more than {kept.threshold:g}" if kept.stopped is None else kept.stopped[1]
    )
    for name, sign in (("speaks for it", 1.0), ("speaks against it", -1.0)):
        found = sorted((-sign * odds, what) for what, odds in kept.evidence if sign * odds > 0.05)
        if found:
            table.add_row(name, "\n".join(f"{-sign * key:+.1f} {what}" for key, what in found[:_SPOKEN]))
    skipped = kept.column("skipped")[-1]
    if skipped:
        table.add_row("skipped steps", f"{skipped:,.0f}: gradients or losses that are not finite")
    return table


def layer_table(kept: Recording) -> Table:
    """What was decided by layer, over all of its parameters."""
    table = Table(title="By layer", title_justify="left", caption_justify="left")
    table.add_column("layer", no_wrap=True)
    for name in ("parameters", "top rate", "last rate", "mix*", "decay*"):
        table.add_column(name, justify="right")
    for layer in figures.layers(kept):
        table.add_row(*_cells(kept, layer))
    table.caption = "* at last; percent of gradient, momentum, orthogonalised; share of weight"
    return table


def _cells(kept: Recording, layer: Group) -> list[str]:
    members = [*layer.matrices, *layer.others]
    rate = figures.learning_rate(kept, members)
    moved = rate[np.isfinite(rate)]
    parameters = sum(math.prod(kept.shapes[i]) for i in members)
    shares = [figures.over_parameters(kept, share, members)[-1] for share in figures.directions(kept).values()]
    mixture = "n/a" if math.isnan(shares[0]) else "/".join(f"{100 * share:.0f}" for share in shares)
    decay = figures.over_parameters(kept, figures.amount(kept, "decay"), members)[-1]
    highest = _number(moved.max()) if len(moved) else "n/a"
    return [layer.label(kept.shapes), f"{parameters:,}", highest, _number(rate[-1]), mixture, _number(decay)]


def _from_to(values: NDArray[np.float64], otherwise: str) -> str:
    known = values[np.isfinite(values)]
    return f"{_number(known[0])} at first, {_number(known[-1])} at last" if len(known) else otherwise


def _highest_and_last(kept: Recording, values: NDArray[np.float64]) -> str:
    if not np.isfinite(values).any():
        return "n/a"
    top = int(np.nanargmax(values))
    return f"highest {_number(values[top])} at step {kept.column('step')[top]:,.0f}, last {_number(values[-1])}"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.2g}"
