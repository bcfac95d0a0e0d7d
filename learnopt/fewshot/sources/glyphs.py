"""Written characters that nobody has seen: every class is a few random Bezier strokes, every example a new hand."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from learnopt.fewshot.episode import generator

SIZE = 20
"""Pixels a side."""
STROKES = (1, 4)
"""Fewest and most strokes of a class, each a cubic Bezier curve."""
POINTS = 24
"""Points a stroke is drawn by."""
WOBBLE, TURN, STRETCH, SHIFT = 0.035, 0.18, 0.1, 0.06
"""Standard deviations between examples: of each control point and of the place, in image sides, of the angle in
radians, of the log of each axis' length."""
THICKNESS = (0.035, 0.06)
"""Half the width of a stroke, in image sides."""
AT_ONCE = 400
"""Images drawn together."""


@lru_cache(maxsize=4)
def glyphs(classes: int, examples: int = 20, *, split: str = "train", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images `(classes * examples, 1, SIZE, SIZE)` in [0, 1], ink is 1, and class numbers.

    Args:
        split: "train", "test", or any other name: classes of different splits or seeds are drawn independently.

    Raises:
        ValueError: there is nothing to draw.
    """
    for what, value in (("classes", classes), ("examples", examples)):
        if value < 1:
            raise ValueError(f"{what} must be 1 or more, got {value!r}")
    g = generator("glyphs", split, seed)
    strokes = STROKES[1]
    control = 0.05 + 0.9 * torch.rand(classes, strokes, 4, 2, generator=g)
    number = torch.randint(STROKES[0], strokes + 1, (classes,), generator=g)
    absent = torch.arange(strokes) >= number[:, None]
    control = torch.where(absent[..., None, None], control[:, :1], control)  # absent strokes lie on the first
    labels = torch.arange(classes).repeat_interleave(examples)
    images = [_draw(_written(control[rows], absent[rows], g), g) for rows in torch.split(labels, AT_ONCE)]
    return torch.cat(images)[:, None], labels


def _written(control: Tensor, absent: Tensor, g: torch.Generator) -> Tensor:
    """Points of the strokes as one hand writes them, `(n, strokes * POINTS, 2)`."""
    n = len(control)
    noise = WOBBLE * torch.randn(control.shape, generator=g)
    control = control + torch.where(absent[..., None, None], noise[:, :1], noise) - 0.5
    angle = TURN * torch.randn(n, generator=g)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], -1).reshape(n, 2, 2)
    stretch = (STRETCH * torch.randn(n, 1, 2, generator=g)).exp()
    place = 0.5 + SHIFT * torch.randn(n, 1, 2, generator=g)
    t = torch.linspace(0, 1, POINTS)
    basis = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], -1)  # Bernstein
    return (basis @ control).flatten(1, 2) @ turn.mT * stretch + place


def _draw(points: Tensor, g: torch.Generator) -> Tensor:
    """Images `(n, SIZE, SIZE)` of strokes through `points`, with soft edges."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    across = (points[..., 0, None] - axis).square()  # (n, points, SIZE)
    down = (points[..., 1, None] - axis).square()
    distance = (down[..., :, None] + across[..., None, :]).amin(1).sqrt()
    low, high = THICKNESS
    half = low + (high - low) * torch.rand(len(points), 1, 1, generator=g)
    return torch.sigmoid((half - distance) * SIZE * 3)
