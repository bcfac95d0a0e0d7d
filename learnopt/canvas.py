"""What all pictures share: an empty figure that needs no display, axes in one style, a file written at once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from learnopt.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int) -> Path:
    """Write a PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    write_bytes(path, picture.getvalue())
    return path


def plain(axis: Axes) -> None:
    """A light grid, small numbers, no frame at the top and on the right."""
    axis.tick_params(labelsize=8, which="both")
    axis.grid(color="#EEEEEE", linewidth=0.6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def few_ticks(axis: Axes) -> None:
    """On a logarithmic axis few round numbers instead of powers of ten, which a narrow range would show one of."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
