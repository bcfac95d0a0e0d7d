"""How much a metric to maximise can still rise: what is left to its limit, as a share of its best value."""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 1.0
"""The most that accuracies, F1 scores, areas under curves and coefficients of determination can be."""
_MOST = 10.0
"""Shares are cut to this."""


def share(best: Tensor, limit: float = LIMIT) -> Tensor:
    """The most that can still be gained as a share of the best value so far; NaN where `limit` says nothing of it.

    A best value below 0 or above `limit` is of a metric that has another limit, or none.

    Args:
        best: negated, so that lower is better; infinite before the first value.
    """
    value = -best
    room = ((limit - value) / value.clamp_min(1e-9)).clamp_max(_MOST)
    return torch.where((value >= 0) & (value <= limit), room, torch.nan)


def possible(p: Tensor, room: Tensor, tolerance: float) -> Tensor:
    """Probability of an improvement by more than `tolerance`, 0 where there is no room for one.

    Args:
        p: as one who does not know the limit says; room: of `share`.
    """
    return torch.where(room <= tolerance, 0.0, p)
