"""Short training runs as the tuner sees them, and what it reads from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

PARTS = 50
"""A full run has so many parts; a probe is a number of its first ones, at a constant rate."""
CHANNELS = ("probed", "log_share", "valid", "valid_half", "train", "train_worst", "valid_behind")
Count = TypeVar("Count", int, Tensor)
LOW, HIGH = -8.0, 4.0
"""Logs of loss ratios are clipped here; a loss that is not finite counts as `HIGH`."""


@dataclass(frozen=True)
class Probe:
    """A run of `parts` of `PARTS` parts of a full run.

    Attributes:
        lr: its constant learning rate.
        start: validation loss before the first step.
        half: validation loss after half of the parts (rounded up).
        valid: validation loss at the end.
        train: mean training loss of every part.
    """

    lr: float
    parts: int
    start: float
    half: float
    valid: float
    train: tuple[float, ...]

    @property
    def failed(self) -> bool:
        """Whether it ended in losses that are not finite."""
        return not (math.isfinite(self.valid) and all(map(math.isfinite, self.train)))


def half_of(parts: Count) -> Count:
    """Parts after which a probe is validated a first time."""
    return (parts + 1) // 2


def change(after: float, before: float) -> float:
    """Log of `after / before`, clipped; for losses that are not positive, their difference in units of `before`."""
    if not (math.isfinite(after) and math.isfinite(before)):
        return HIGH
    if after > 0 and before > 0:
        return min(max(math.log(after / before), LOW), HIGH)
    return min(max((after - before) / (abs(before) + 1e-12), LOW), HIGH)


def encode(probes: Sequence[Probe], rates: Sequence[float]) -> Tensor:
    """`(len(CHANNELS), len(rates))`: the longest probe of each rate of the grid, zeros where there is none."""
    found = torch.zeros(len(CHANNELS), len(rates))
    grid = torch.tensor(rates).log()
    for probe in sorted(probes, key=lambda p: p.parts):
        worst = max((change(t, probe.start) for t in probe.train), default=0.0)
        column = int((grid - math.log(probe.lr)).abs().argmin())
        found[:, column] = torch.tensor([
            1.0, math.log2(probe.parts) / math.log2(PARTS), change(probe.valid, probe.start),
            change(probe.half, probe.start), change(probe.train[-1], probe.start), worst, 0.0,
        ])  # fmt: skip
    return with_gaps(found)


def with_gaps(found: Tensor) -> Tensor:
    """The encoding with its last channel filled in: how far a probe is behind the best one, `(..., CHANNELS, R)`."""
    probed, valid = found[..., 0, :] > 0, found[..., 2, :]
    best = valid.masked_fill(~probed, math.inf).amin(-1, keepdim=True)
    return torch.cat([found[..., :-1, :], torch.where(probed, valid - best, 0.0)[..., None, :]], -2)
