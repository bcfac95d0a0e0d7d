"""Short training runs as the tuner sees them, and what it reads from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Lengths of probes, as shares of a full run. Each is a whole run: warm-up and cosine decay over its own length."""
POINTS = 8
"""A probe's training losses are read as means over so many stretches."""
CHANNELS = ("probed", "log_share", "behind", "valid", "half_gain", "train_worst", "train_gap")
LOW, HIGH = -8.0, 4.0
"""Logs of loss ratios are clipped here; a loss that is not finite counts as `HIGH`."""


@dataclass(frozen=True)
class Probe:
    """A run of `share` of a full run's steps, with a cosine schedule of its own.

    Attributes:
        lr: the peak of its learning rate.
        steps: its length.
        start: validation loss before the first step.
        half: validation loss half-way.
        valid: validation loss at the end.
        train: mean training loss of every stretch, `POINTS` of them unless it failed or has fewer steps.
    """

    lr: float
    share: float
    steps: int
    start: float
    half: float
    valid: float
    train: tuple[float, ...]

    @property
    def failed(self) -> bool:
        """Whether it ended in losses that are not finite."""
        return not (math.isfinite(self.valid) and all(map(math.isfinite, self.train)))


def steps_of(share: float, steps: int) -> int:
    """Length of a run that is `share` of a full one of `steps`; rounded down, so that four quarters cost no more."""
    return max(1, int(share * steps + 1e-9))


def edges(steps: int, count: int = POINTS) -> list[int]:
    """Steps after which a run of `steps` is read, from 0: evenly spaced, at most `count` beside the 0."""
    return sorted({round(steps * i / count) for i in range(count + 1)})


def change(after: float, before: float) -> float:
    """Log of `after / before`, clipped; for losses that are not positive, their difference in units of `before`."""
    if not (math.isfinite(after) and math.isfinite(before)):
        return HIGH
    if after > 0 and before > 0:
        return min(max(math.log(after / before), LOW), HIGH)
    return min(max((after - before) / (abs(before) + 1e-12), LOW), HIGH)


def readings(probe: Probe) -> tuple[float, float, float, float]:
    """Changes from the start: of the validation loss at the end and half-way, of the last and of the worst training
    loss."""
    train = [change(t, probe.start) for t in probe.train] or [0.0]
    return change(probe.valid, probe.start), change(probe.half, probe.start), train[-1], max(train)


def on_grid(probes: Sequence[Probe], rates: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Readings `(4, len(rates))` of probes at the nearest rate of the grid, zeros where there is none, and where there
    is one, bool `(len(rates),)`.

    Where a rate was probed more than once, the longest probe counts.
    """
    found, probed = torch.zeros(4, len(rates)), torch.zeros(len(rates), dtype=torch.bool)
    grid = torch.tensor(rates).log()
    for probe in sorted(probes, key=lambda p: p.steps):
        column = int((grid - math.log(probe.lr)).abs().argmin())
        found[:, column], probed[column] = torch.tensor(readings(probe)), True
    return found, probed


def channels(found: Tensor, log_share: Tensor, probed: Tensor) -> Tensor:
    """Readings as the tuner's forest takes them.

    Args:
        found: of `readings`, `(..., 4, R)`.
        log_share: base 2, of the probes' lengths, `(..., R)`.
        probed: bool, `(..., R)`.

    Returns:
        `(..., len(CHANNELS), R)`.
    """
    valid, half, train, worst = found.unbind(-2)
    best = valid.masked_fill(~probed, math.inf).amin(-1, keepdim=True)
    columns = (
        torch.ones_like(valid), log_share / 5, (valid - best).clamp(0, 2).sqrt(), valid.clamp(-4, 2),
        (half - valid).clamp(-2, 2), worst.clamp(-2, 2), (train - valid).clamp(-2, 2),
    )  # fmt: skip
    return torch.where(probed[..., None, :], torch.stack(columns, -2), 0.0)
