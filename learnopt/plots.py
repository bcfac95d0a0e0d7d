"""The pictures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from learnopt import canvas
from learnopt.baselines import REGISTRY
from learnopt.figures import Runs
from learnopt.metrics import smoothed
from learnopt.training import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNED_COLOUR = "#D55E00"
REFERENCE_COLOUR = "#000000"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C", "#7A5195", "#B3A100")
"""Okabe and Ito's palette and a few more, for the colour-blind."""

LINES = ("--", "-.", ":")
MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">")
DPI = 90
LEAST, MOST = 0.02, 50.0
"""Ratios beyond are drawn at the edge, with their number."""
LEGEND_INCHES = 2.2
"""What the longest label takes in the legend."""


def draw(entry: dict[str, Any], runs: Runs, folder: Path) -> list[Path]:
    """Draw every picture of a comparison; returns the files."""
    style = _Style(entry["plan"]["optimizers"], entry["reference"])
    tasks = [task["name"] for task in entry["plan"]["tasks"]]
    pictures: dict[str, Callable[[], Figure]] = {
        "ratios.png": lambda: ratios(entry, style),
        "validation.png": lambda: curves(runs, tasks, style, "validation loss", _validation),
        "training.png": lambda: curves(runs, tasks, style, "training loss (smoothed)", _training),
    }
    observed = [name for name in style.names if any(run.observations for t in tasks for run in runs[t, name])]
    if observed:
        pictures["learning-rates.png"] = lambda: learning_rates(runs, tasks, observed[0])
    return [canvas.save(make(), folder / name, DPI) for name, make in pictures.items()]


class _Style:
    """One colour, line and marker per optimizer; the learned one and the reference stand out."""

    def __init__(self, names: Sequence[str], reference: str) -> None:
        self.names, self.reference = list(names), reference
        others = [n for n in names if not _learned(n)]
        # drawn, and listed from the end, in this order
        self.order = sorted(names, key=lambda n: (_learned(n), n == reference))
        self._index = {name: i for i, name in enumerate(others)}

    def colour(self, name: str) -> str:
        if _learned(name):
            return LEARNED_COLOUR
        return REFERENCE_COLOUR if name == self.reference else COLOURS[self._index[name] % len(COLOURS)]

    def line(self, name: str) -> dict[str, Any]:
        if _learned(name):
            return {"color": LEARNED_COLOUR, "linewidth": 2.2, "linestyle": "-", "zorder": 5}
        if name == self.reference:
            return {"color": REFERENCE_COLOUR, "linewidth": 1.7, "linestyle": "-", "zorder": 4}
        style = LINES[self._index[name] % len(LINES)]
        return {"color": self.colour(name), "linewidth": 1.1, "linestyle": style, "zorder": 2}

    def point(self, name: str) -> dict[str, Any]:
        if _learned(name):
            return {"color": LEARNED_COLOUR, "marker": "o", "s": 75, "zorder": 5}
        i = self._index[name]
        return {"color": self.colour(name), "marker": MARKERS[i % len(MARKERS)], "s": 26, "zorder": 3, "alpha": 0.85}


def _learned(name: str) -> bool:
    return name in REGISTRY and REGISTRY[name].learned


def _label(name: str) -> str:
    return REGISTRY[name].label if name in REGISTRY else name


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    figure = canvas.new_figure(width, height)
    return figure, figure.subplots(rows, columns, squeeze=False)


def ratios(entry: dict[str, Any], style: _Style) -> Figure:
    """A row per task, a point per optimizer: validation loss over the reference's; the learned optimizer's order."""
    reference = entry["reference"]
    shown = [name for name in style.order if name != reference]
    table = {(row["task"], row["optimizer"]): row["validation_ratio"] for row in entry["tasks"]}
    leader = next((name for name in shown if _learned(name)), shown[0] if shown else reference)
    names = [task["name"] for task in entry["plan"]["tasks"]]
    names.sort(key=lambda t: -(table[t, leader] or math.inf))
    lines = [*names, "geometric mean"]
    figure, axes = _figure(8.6, 1.7 + 0.3 * len(lines))
    axis: Axes = axes[0, 0]
    for name in shown:
        values = [table[t, name] for t in names] + [entry["figures"][name]["validation_ratio"]]
        known = [(v, i) for i, v in enumerate(values) if v is not None]
        shown_at = [min(max(v, LEAST), MOST) for v, _ in known]
        axis.scatter(shown_at, [-i for _, i in known], label=_label(name), clip_on=False, **style.point(name))
        for value, i in known:
            if not LEAST <= value <= MOST:
                axis.annotate(
                    f"{value:.2g}", (min(max(value, LEAST), MOST), -i), (7 if value < LEAST else -7, 0),
                    textcoords="offset points", ha="left" if value < LEAST else "right", va="center",
                    fontsize=7, color=style.colour(name),
                )  # fmt: skip
    axis.axvline(1, color="#444444", linewidth=1.2, zorder=1)
    axis.axhspan(-len(names) - 0.5, -len(names) + 0.5, color="#EEEEEE", zorder=0)
    axis.set_ylim(-len(names) - 0.6, 0.6)
    axis.set_yticks([-i for i in range(len(lines))], lines)
    _ratio_axis(axis)
    axis.set_xlabel(f"final validation loss / {_label(reference)}'s   (left of 1 is better)")
    axis.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _ratio_axis(axis: Axes) -> None:
    from matplotlib.ticker import NullFormatter

    axis.set_xscale("log")
    low, high = axis.get_xlim()
    low, high = max(min(low, 0.8), LEAST), min(max(high, 1.25), MOST)
    axis.set_xlim(low, high)
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50) if low <= t <= high]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def _validation(run: Run) -> Curve:
    rows = [(row[0], row[1]) for row in run.validation if row[0] is not None and row[1] is not None]
    return np.array([step for step, _ in rows], dtype=float), np.array([loss for _, loss in rows], dtype=float)


def _training(run: Run) -> Curve:
    steps = int(run.config["steps"])
    values = smoothed(run.losses, steps)
    thin = np.unique(np.linspace(0, steps - 1, 120).round().astype(int))  # the same for all seeds
    thin = thin[thin < len(values)]
    thin = thin[np.isfinite(values[thin])]
    return thin + 1.0, values[thin]


def curves(runs: Runs, tasks: Sequence[str], style: _Style, what: str, of: Callable[[Run], Curve]) -> Figure:
    """Small multiples: a panel per task, median and range over the seeds per optimizer."""
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    width = max(5.5, 3.4 * columns)
    beside = min(5, len(style.order), int(width / LEGEND_INCHES))
    figure, axes = _figure(width, 0.5 + 0.2 * math.ceil(len(style.order) / beside) + 2.5 * rows, rows, columns)
    for axis, task in zip(axes.flat, tasks, strict=False):
        for name in style.order:
            _curve(axis, [of(run) for run in runs[task, name]], name, style)
        _loss_axis(axis)
        axis.set_title(task, fontsize=10)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=beside, frameon=False)
    figure.supxlabel("step   (line: median over seeds, band: their range)", fontsize=10)
    figure.supylabel(what, fontsize=10)
    return figure


def _curve(axis: Axes, found: list[Curve], name: str, style: _Style) -> None:
    """At every step the median and range of the seeds that got there; a run may have ended early."""
    found = [curve for curve in found if len(curve[0])]
    if not found:
        axis.plot([], [], label=_label(name), **style.line(name))
        return
    steps = np.unique(np.concatenate([at for at, _ in found]))
    stack = np.stack([np.interp(steps, at, values, left=np.nan, right=np.nan) for at, values in found])
    axis.plot(steps, np.nanmedian(stack, axis=0), label=_label(name), **style.line(name))
    if len(stack) > 1:
        low, high, shade = np.nanmin(stack, axis=0), np.nanmax(stack, axis=0), 0.2 if _learned(name) else 0.08
        axis.fill_between(steps, low, high, color=style.colour(name), alpha=shade, linewidth=0)


def _loss_axis(axis: Axes) -> None:
    """Log scale where losses are positive; what shoots far above the start is cut off."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()]
    values = np.concatenate([line for line in lines if len(line)]) if any(len(line) for line in lines) else np.ones(1)
    starts = [line[0] for line in lines if len(line)]
    low, high = float(values.min()), float(min(values.max(), 1.5 * max(starts, default=values.max())))
    if low > 0:
        axis.set_yscale("log")
        axis.set_ylim(low * 0.85, max(high, low) * 1.15)
        if high / low < 30:
            canvas.few_ticks(axis)
    canvas.plain(axis)


def learning_rates(runs: Runs, tasks: Sequence[str], name: str, most: int = 8) -> Figure:
    """What the meta-network chose on up to `most` tasks, first seed that took a step: rate per tensor; schedule and
    stop probability."""
    observed = {task: [run.observations for run in runs[task, name] if run.observations] for task in tasks}
    shown = [task for task in tasks if observed[task]][:most]
    columns, rows = min(4, len(shown)), math.ceil(len(shown) / 4)
    figure, axes = _figure(max(6.5, 3.5 * columns + 1), 4.6 * rows, 2 * rows, columns)
    for i, task in enumerate(shown):
        row, column = divmod(i, 4)
        seen = observed[task][0]
        steps = [entry["step"] for entry in seen]
        _rates(axes[2 * row, column], steps, seen)
        axes[2 * row, column].set_title(task, fontsize=10)
        _decisions(axes[2 * row + 1, column], steps, seen)
        if column == 0:
            axes[2 * row, 0].set_ylabel("learning rate per tensor", fontsize=9)
            axes[2 * row + 1, 0].set_ylabel("schedule, P(stop)", fontsize=9)
    for i in range(len(shown), len(axes[0]) * (len(axes) // 2)):
        row, column = divmod(i, 4)
        axes[2 * row, column].set_visible(False)
        axes[2 * row + 1, column].set_visible(False)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle("What the meta-network chose (colour of a rate: depth, dark at the input)", fontsize=11)
    return figure


def _rates(axis: Axes, steps: list[int], seen: list[dict[str, Any]]) -> None:
    from matplotlib import colormaps

    names = list(seen[0]["learning_rates"])
    for i, name in enumerate(names):
        values = [entry["learning_rates"][name] for entry in seen]
        line = np.array([np.nan if value is None or value <= 0 else value for value in values])
        axis.plot(steps, line, color=colormaps["viridis"](0.92 * i / max(1, len(names) - 1)), linewidth=1.1)
    if any((entry["learning_rates"][name] or 0) > 0 for entry in seen for name in names):
        axis.set_yscale("log")
    axis.tick_params(labelsize=8, which="both")
    axis.grid(color="#EEEEEE", linewidth=0.6)


def _decisions(axis: Axes, steps: list[int], seen: list[dict[str, Any]]) -> None:
    for key, text, style in (
        ("schedule", "schedule multiplier", {"color": "#0072B2", "linewidth": 1.6}),
        ("stop_probability", "probability that going on is pointless", {"color": LEARNED_COLOUR, "linestyle": "--"}),
    ):
        values = [np.nan if entry[key] is None else entry[key] for entry in seen]
        axis.plot(steps, values, label=text, **style)
    axis.set_ylim(bottom=-0.03)
    axis.tick_params(labelsize=8)
    axis.grid(color="#EEEEEE", linewidth=0.6)
    axis.set_xlabel("step", fontsize=8)
