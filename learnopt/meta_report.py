"""What a meta-training run leaves to look at: a learning curve and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from learnopt import canvas
from learnopt.estimators.base import META_LOSS

CURVE = "learning_curve.png"


def smooth(values: list[float], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and means of consecutive windows of `width` values; the last one may be shorter."""
    starts = range(0, len(values), width)
    centres = [s + (min(s + width, len(values)) - s) / 2 for s in starts]
    return np.array(centres), np.array([float(np.mean(values[s : s + width])) for s in starts])


def draw_curve(rows: list[dict[str, Any]], out: Path, measure: str = META_LOSS) -> Path:
    """Draw meta-loss and validation score over meta-steps into `out`; returns the picture's path.

    Args:
        measure: what the rows' meta-loss is; the validation score, always `META_LOSS`, gets an axis of its own beside
            another one.
    """
    train = [r["meta_loss"] for r in rows if "meta_loss" in r]
    valid = [(r["meta_step"], r["valid"]) for r in rows if "valid" in r]
    figure = canvas.new_figure(8, 4.5)
    axes = figure.subplots()
    beside = axes if measure == META_LOSS else axes.twinx()
    if train:
        axes.plot(range(1, len(train) + 1), train, color="#9ecae1", linewidth=0.5, alpha=0.6)
        x, y = smooth(train, max(min(10, len(train)), len(train) // 40))
        axes.plot(x, y, color="#2171b5", linewidth=1.8, label="training tasks (mean of a window)")
    if valid:
        steps, scores = zip(*valid, strict=True)
        best = int(np.argmin(scores))
        beside.plot(steps, scores, color="#d95f02", marker="o", markersize=3, linewidth=1.5, label="validation tasks")
        beside.plot(steps[best], scores[best], "*", color="#d95f02", markersize=14, label=f"kept: step {steps[best]}")
    beside.set(ylabel=META_LOSS)
    axes.set(xlabel="meta-step", ylabel=measure, title="Meta-training")
    axes.grid(alpha=0.3)
    if train or valid:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return canvas.save(figure, out / CURVE, dpi=130)


def table(rows: list[dict[str, Any]]) -> Table:
    """First, best and last validation score per task."""
    valid = [r for r in rows if "valid" in r]
    shown = Table(title="Validation meta-loss (lower is better)")
    for name in ("task", "untrained", "best", "last"):
        shown.add_column(name, justify="left" if name == "task" else "right")
    if not valid:
        return shown
    best = min(valid, key=lambda r: r["valid"])
    for task in sorted(valid[0]["valid_tasks"]):
        shown.add_row(task, *(f"{r['valid_tasks'][task]:.3f}" for r in (valid[0], best, valid[-1])))
    shown.add_section()
    shown.add_row("mean", *(f"{r['valid']:.3f}" for r in (valid[0], best, valid[-1])))
    return shown
