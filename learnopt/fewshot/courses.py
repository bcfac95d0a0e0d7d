"""The picture of quantities over time: one panel for each setting, one line for each who was compared there."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from learnopt.atomic import write_bytes
from learnopt.fewshot.curves import COLOURS, DPI, LINES

Panels = Mapping[str, Mapping[str, Sequence[float]]]
"""Courses, from their first value on, by panel and name."""


def draw_courses(panels: Panels, path: Path, *, over: str, quantity: str, log: bool = False) -> Path:
    """Draw the panels side by side; returns `path`.

    Args:
        over: what the numbers of values count.
        quantity: what the values are.
        log: a logarithmic scale for them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * len(panels), 4.2), layout="constrained")
    for ax, (title, courses) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for i, (name, values) in enumerate(courses.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS)]}
            ax.plot(range(len(values)), values, linewidth=1.6, label=name, **style)
        ax.set(title=title, xlabel=over, ylabel=quantity, yscale="log" if log else "linear")
        if log:  # one that diverges is not to squeeze the rest
            ax.set_ylim(top=10 * max(values[0] for values in courses.values()))
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    write_bytes(path, buffer.getvalue())
    return path
