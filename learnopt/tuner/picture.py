"""The picture of a tuning: loss over learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from learnopt import canvas

WIDE = 5.0
"""Losses are shown on a logarithmic axis where the largest is more than so many times the least."""


def draw(entry: dict[str, Any], path: Path) -> Path:
    """Expected final loss per rate, what the probes reached, and the recommendation with its interval.

    Args:
        entry: of `TuneResult.entry`.
    """
    figure = canvas.new_figure(7, 4.2)
    axes = figure.add_subplot()
    expected = [(row["lr"], row["expected_loss"]) for row in entry["curve"] if _drawable(row["expected_loss"])]
    probed = [(row["lr"], row["probe_loss"]) for row in entry["curve"] if _drawable(row["probe_loss"])]
    failed = [row["lr"] for row in entry["curve"] if row["probe_steps"] and not _drawable(row["probe_loss"])]
    if expected:
        axes.plot(
            *zip(*expected, strict=True), "-o", ms=3, color="tab:blue", label=f"expected after {entry['steps']} steps"
        )
    if probed:
        axes.plot(*zip(*probed, strict=True), "s", color="tab:orange", label="validation loss of probes")
    for i, lr in enumerate(failed):
        axes.axvline(float(lr or 0), color="tab:red", lw=1, ls=":", label="probe diverged" if i == 0 else None)
    axes.axvspan(*entry["interval"], color="tab:green", alpha=0.15, label="about as good")
    axes.axvline(entry["lr"], color="tab:green", lw=1.5, label=f"recommended: {entry['lr']:.3g}")
    axes.set_xscale("log")
    values = [float(v or 0) for _, v in expected + probed]
    if values and min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
        canvas.few_ticks(axes)
    axes.set_xlabel(f"learning rate of {entry['optimizer']}, {entry['schedule']} schedule")
    axes.set_ylabel("validation loss")
    axes.set_title("" if entry["decided"] else "cannot decide: see the reason", fontsize=10)
    axes.legend(fontsize=8)
    canvas.plain(axes)
    return canvas.save(figure, path, 130)


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
