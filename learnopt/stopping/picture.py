"""The picture of a trained stopper and pruner: what they save against what they give away, on data set aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from learnopt import canvas
from learnopt.stopping import policy
from learnopt.stopping.calibrate import LEAST_NEAR, PrunedOutcome
from learnopt.stopping.curves import Curves
from learnopt.stopping.policy import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEARNED, CLASSICAL, CHOSEN = "#0072B2", "#8C8C8C", "#D55E00"
DPI = 110


def draw(
    path: Path, fresh: Curves, stops: list[tuple[float, Outcome]], stop_at: float,
    prunes: dict[int, list[tuple[float, PrunedOutcome]]], prune_at: float,
) -> Path:  # fmt: skip
    """Draw into `path`, a PNG.

    Args:
        fresh: the runs set aside.
        stops: outcomes by threshold, `stop_at` the chosen one.
        prunes: for numbers of trials, outcomes by threshold, `prune_at` the chosen one.
    """
    figure = canvas.new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    _stopping(left, fresh, stops, stop_at)
    _pruning(right, prunes, prune_at)
    for axis in (left, right):
        axis.set_xlabel("share of the steps taken", fontsize=8)
        axis.legend(fontsize=7, frameon=False)
        canvas.plain(axis)
    return canvas.save(figure, path, DPI)


def _stopping(axis: Axes, fresh: Curves, stops: list[tuple[float, Outcome]], chosen: float) -> None:
    patience = [policy.outcome(fresh, policy.patience(fresh, wait)) for wait in range(1, 16)]
    axis.plot([o.compute for o in patience], [100 * o.excess for o in patience], "s--", color=CLASSICAL, ms=3,
              label="patience 1 to 15")  # fmt: skip
    axis.plot([o.compute for _, o in stops], [100 * o.excess for _, o in stops], "o-", color=LEARNED, ms=3,
              label="learned, by threshold")  # fmt: skip
    best = dict(stops)[chosen]
    axis.plot([best.compute], [100 * best.excess], "*", color=CHOSEN, ms=12, label=f"chosen, {chosen:g}")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("mean excess of the best value, %", fontsize=8)
    axis.set_title(f"stopping {len(fresh)} runs of {len(fresh.numbers)} tasks set aside", fontsize=9)


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
