"""The picture of an experiment: how every learner does after each inner step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from learnopt.atomic import write_bytes
from learnopt.fewshot.experiment import Experiment, grouped

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#B3A100", "#8C8C8C", "#000000")
"""Okabe and Ito's palette and a few more, for the colour-blind."""

LINES = ("-", "--", "-.", ":")
DPI = 90


def draw_curves(experiment: Experiment, cells: Sequence[dict[str, Any]], path: Path) -> Path:
    """One panel per test that anyone adapts to in steps: a line per learner, with the range of the seeds.

    Losses are medians over tasks, accuracies means.
    """
    from matplotlib.figure import Figure

    entries = [entry for entry in experiment.entries if entry.steps is not None] or experiment.entries
    tests = list(dict.fromkeys(test for entry in entries for test in entry.tests))
    columns = min(2, len(tests))
    figure = Figure(figsize=(6.2 * columns, 4.2 * -(-len(tests) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(tests) // columns), columns, squeeze=False).flatten()
    key = "loss_median" if experiment.metric == "loss" else "accuracy_mean"
    for ax, test in zip(axes, tests, strict=False):
        for i, (name, own) in enumerate(grouped(cells).items()):
            if test not in own[0]["tests"]:
                continue
            each = np.array([[row[key] for row in cell["tests"][test]] for cell in own], dtype=float)
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS)], "label": name}
            if each.shape[1] == 1:
                ax.axhline(float(each.mean()), linewidth=1.2, **style)
                continue
            steps = np.arange(each.shape[1])
            ax.plot(steps, each.mean(0), linewidth=1.8, marker="o", markersize=3, **style)
            ax.fill_between(steps, each.min(0), each.max(0), color=style["color"], alpha=0.15, linewidth=0)
        ax.set(title=test, xlabel="inner steps", ylabel=f"query {key.replace('_', ', ')}")
        if experiment.metric == "loss":
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    for ax in axes[len(tests) :]:
        ax.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    write_bytes(path, buffer.getvalue())
    return path
