"""The picture of a recording: what a learned optimizer did over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from learnopt import canvas
from learnopt import recording_figures as figures
from learnopt.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.gridspec import SubplotSpec

Panel = Callable[["Axes", Recording, NDArray[np.float64]], None]
DPI = 110
ORANGE, BLUE, GREEN, PINK, GREY = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#999999"
_DIRECTIONS = {"gradient": "#56B4E9", "momentum": BLUE, "orthogonal": "#E69F00"}
_WORDS = {"gradient": "gradient", "momentum": "momentum", "orthogonal": "orthogonalised momentum"}


def draw(kept: Recording, path: Path, title: str) -> Path:
    """Draw a recording with at least one row into `path`."""
    figure = canvas.new_figure(12.5, 8.4)
    grid = figure.add_gridspec(6, 2, width_ratios=(1, 1.25))
    panels: list[tuple[Panel, SubplotSpec]] = [
        (_loss, grid[:2, 0]), (_schedule, grid[2:4, 0]), (_stop, grid[4:, 0]), (_rates, grid[:3, 1]),
        (_directions, grid[3:5, 1]), (_amounts, grid[5:, 1]),
    ]  # fmt: skip
    steps = kept.column("step")
    for panel, place in panels:
        axis = figure.add_subplot(place)
        panel(axis, kept, steps)
        canvas.plain(axis)
        axis.set_xlim(min(steps[0], 1), max(steps[-1], steps[0] + 1))
        if panel in (_stop, _amounts):
            axis.set_xlabel("step", fontsize=9)
        else:
            axis.tick_params(labelbottom=False)
        for at, style in _marks(kept):
            axis.axvline(at, **style)
    parameters = sum(math.prod(shape) for shape in kept.shapes)
    figure.suptitle(f"{title}: {kept.last_step:,} steps, {parameters:,} parameters in {len(kept.names)} tensors",
                    fontsize=11, parse_math=False)  # fmt: skip
    return canvas.save(figure, path, DPI)


def _marks(kept: Recording) -> list[tuple[float, dict[str, Any]]]:
    """Where the planned steps end, if the run went on, and where `should_stop` turned true."""
    found: list[tuple[float, dict[str, Any]]] = []
    if kept.total_steps is not None and kept.last_step > kept.total_steps:
        found.append((kept.total_steps, {"color": GREY, "linewidth": 1, "linestyle": ":"}))
    if kept.stopped is not None:
        found.append((kept.stopped[0], {"color": ORANGE, "linewidth": 1, "linestyle": "--"}))
    return found


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=10, loc="left")


def _log(axis: Axes, lines: list[NDArray[Any]]) -> None:
    """A logarithmic scale where all that is drawn is positive."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines] or [np.zeros(0)])
    if len(values) and values.min() > 0:
        axis.set_yscale("log")
        if values.max() / values.min() < 30:
            canvas.few_ticks(axis)


def _loss(axis: Axes, kept: Recording, steps: NDArray[np.float64]) -> None:
    _title(axis, "training loss")
    told, average = kept.column("loss"), kept.column("loss_average")
    if not np.isfinite(average).any():
        axis.text(0.5, 0.5, "the optimizer was told no loss", ha="center", transform=axis.transAxes, color=GREY)
        return
    axis.plot(steps, told, ".", color=GREY, markersize=3, label="as told", alpha=0.6)
    axis.plot(steps, average, color=BLUE, linewidth=1.5, label="average of about 7 steps")
    _log(axis, [told, average])
    axis.legend(frameon=False, fontsize=8, loc="upper right")


def _schedule(axis: Axes, kept: Recording, steps: NDArray[np.float64]) -> None:
    over = "" if kept.total_steps is None or kept.last_step <= kept.total_steps else " (dotted: planned end)"
    _title(axis, f"schedule: multiplier of all learning rates{over}")
    axis.plot(steps, kept.column("schedule"), color=BLUE, linewidth=1.5)
    axis.set_ylim(bottom=0)
    skipped = kept.column("skipped")
    if skipped[-1] > 0:
        text = f"{skipped[-1]:.0f} steps skipped: gradients or losses not finite"
        axis.text(0.98, 0.9, text, ha="right", transform=axis.transAxes, fontsize=8, color=ORANGE)


def _stop(axis: Axes, kept: Recording, steps: NDArray[np.float64]) -> None:
    _title(axis, "probability that going on is pointless")
    axis.plot(steps, kept.column("stop_probability"), color=BLUE, linewidth=1.5)
    axis.axhline(kept.threshold, color=ORANGE, linewidth=1)
    text = f"should_stop: above {kept.threshold:g}"
    text += "" if kept.stopped is None else f", since step {kept.stopped[0]:,}"
    across = axis.get_yaxis_transform()  # x: share of the width
    axis.text(0.02, kept.threshold - 0.03, text, va="top", fontsize=8, color=ORANGE, transform=across)
    axis.set_ylim(-0.03, 1.03)


def _rates(axis: Axes, kept: Recording, steps: NDArray[np.float64]) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    _title(axis, "effective learning rate by layer (typical change of one weight in one step)")
    layers = figures.layers(kept)
    handles, lines = [], []
    every = kept.values("learning_rate")
    for i, layer in enumerate(layers):
        colour = colormaps["viridis"](0.92 * i / max(1, len(layers) - 1))
        for members, style in ((layer.matrices, "-"), (layer.others, ":")):
            if not members:
                continue
            lines.append(figures.learning_rate(kept, members))
            axis.plot(steps, lines[-1], style, color=colour, linewidth=1.5)
            if len(members) > 1 and style == "-":
                own = np.where(every[:, members] > 0, every[:, members], np.nan)
                shown = np.isfinite(own).any(1)
                low, high = np.nanmin(own[shown], axis=1), np.nanmax(own[shown], axis=1)
                axis.fill_between(steps[shown], low, high, color=colour, alpha=0.15, linewidth=0)
        handles.append(Line2D([], [], color=colour, linewidth=2, label=layer.label(kept.shapes)))
    _log(axis, lines)
    handles.append(Line2D([], [], color=GREY, linestyle="-", label="matrices; band: their range"))
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="biases, normalisation"))
    axis.legend(handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _directions(axis: Axes, kept: Recording, steps: NDArray[np.float64]) -> None:
    _title(axis, "mixture of directions, mean over all parameters")
    shares = {name: figures.over_parameters(kept, share) for name, share in figures.directions(kept).items()}
    known = np.isfinite(next(iter(shares.values())))
    axis.stackplot(
        steps[known], [share[known] for share in shares.values()], colors=list(_DIRECTIONS.values()),
        labels=[_WORDS[name] for name in shares], alpha=0.85,
    )  # fmt: skip
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)


def _amounts(axis: Axes, kept: Recording, steps: NDArray[np.float64]) -> None:
    _title(axis, "taken from the weights in one step, mean over all parameters")
    words = {
        "decay": "decay (share of a weight\nwhere the step shrinks it)",
        "pull": "pull (share of the way\nto the averaged weights)",
    }
    lines = {name: figures.over_parameters(kept, figures.amount(kept, name)) for name in words}
    for (name, line), colour in zip(lines.items(), (GREEN, PINK), strict=True):
        axis.plot(steps, np.where(line > 0, line, np.nan), color=colour, linewidth=1.5, label=words[name])
    _log(axis, [line[line > 0] for line in lines.values()])
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
