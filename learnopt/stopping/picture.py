"""The picture of a trained stopper and pruner: what they save against what they give away, on data set aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from learnopt import canvas
from learnopt.stopping import policy
from learnopt.stopping.calibrate import LEAST_NEAR, PrunedOutcome, Stopping

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEARNED, CLASSICAL, CHOSEN = "#0072B2", "#8C8C8C", "#D55E00"
DPI = 110


def draw(
    path: Path, stops: list[Stopping], prunes: dict[int, list[tuple[float, PrunedOutcome]]], prune_at: float
) -> Path:
    """Draw into `path`, a PNG.

    Args:
        stops: of every kind of runs.
        prunes: for numbers of trials, outcomes by threshold, `prune_at` the chosen one.
    """
    figure = canvas.new_figure(5 * len(stops) + 5, 4)
    panels = figure.subplots(1, len(stops) + 1)
    for axis, found in zip(panels, stops, strict=False):
        _stopping(axis, found)
    _pruning(panels[-1], prunes, prune_at)
    for axis in panels:
        axis.set_xlabel("share of the steps taken", fontsize=8)
        axis.legend(fontsize=7, frameon=False)
        canvas.plain(axis)
    return canvas.save(figure, path, DPI)


def _stopping(axis: Axes, found: Stopping) -> None:
    runs, chosen = found.curves, found.threshold
    patience = [policy.outcome(runs, policy.patience(runs, wait)) for wait in range(1, 16)]
    axis.plot([o.compute for o in patience], [100 * o.excess for o in patience], "s--", color=CLASSICAL, ms=3,
              label="patience 1 to 15")  # fmt: skip
    axis.plot([o.compute for _, o in found.outcomes], [100 * o.excess for _, o in found.outcomes], "o-",
              color=LEARNED, ms=3, label="learned, by threshold")  # fmt: skip
    best = dict(found.outcomes)[chosen]
    axis.plot([best.compute], [100 * best.excess], "*", color=CHOSEN, ms=12, label=f"chosen, {chosen:g}")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("mean excess of the best value, %", fontsize=8)
    axis.set_title(f"stopping {len(runs)} runs of {len(runs.numbers)} tasks by {found.kind}", fontsize=9)


def _pruning(axis: Axes, prunes: dict[int, list[tuple[float, PrunedOutcome]]], chosen: float) -> None:
    for (trials, outcomes), line in zip(prunes.items(), ("o-", "s--", "^:"), strict=False):
        axis.plot([o.compute for _, o in outcomes], [100 * o.near for _, o in outcomes], line, color=LEARNED, ms=3,
                  label=f"{trials} trials, by threshold")  # fmt: skip
        best = dict(outcomes)[chosen]
        axis.plot([best.compute], [100 * best.near], "*", color=CHOSEN, ms=12)
    axis.axhline(100 * LEAST_NEAR, color=CLASSICAL, lw=0.8)
    axis.set_ylim(top=102)
    axis.set_ylabel("studies within 1 % of unpruned, %", fontsize=8)
    axis.set_title(f"pruning simulated studies; chosen: {chosen:g}", fontsize=9)
