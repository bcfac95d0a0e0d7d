"""What the tuner's forest reads and says: learning rates counted from the best one probed.

Tasks differ in which rates are good much more than in what losses do around the good ones, so that rates counted from
the best probe need fewer tasks to learn from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import CHANNELS, channels

REACH = 5
"""So many rates of the grid to either side of the best probe are spoken about."""
WIDTH = 2 * REACH + 1
MOST_FEATURE = 20.0
"""Meta-features are clipped here."""
PLACED = ("best", "lowest", "highest", "count", "log_share")
KEPT = tuple(i for i, name in enumerate(CHANNELS) if name != "log_share")
COLUMNS = len(KEPT) * WIDTH + len(PLACED) + len(NAMES)


def clipped(features: Tensor) -> Tensor:
    """Meta-features as the forests take them."""
    return features.clamp(-MOST_FEATURE, MOST_FEATURE)


def rows(found: Tensor, log_share: Tensor, probed: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """The forest's inputs, and the column of the best probe, `(B, COLUMNS)` and `(B,)`.

    Args:
        found: of `probes.readings`, `(B, 4, R)`.
        log_share: base 2, of the probes' length, `(B,)`.
        probed: bool, at least one of a row is, `(B, R)`.
        features: meta-features, `(B, F)`.
    """
    rates = probed.shape[1]
    best = found[:, 0].masked_fill(~probed, math.inf).argmin(1)
    seen = channels(found, log_share[:, None].expand(-1, rates), probed)[:, KEPT]
    at, inside = _around(best, rates)
    seen = seen.gather(2, at[:, None].expand(-1, seen.shape[1], -1)) * inside[:, None]
    place = torch.arange(rates)
    lowest = torch.where(probed, place, rates).amin(1) - best
    highest = torch.where(probed, place, -1).amax(1) - best
    placed = torch.stack([best, lowest, highest, probed.sum(1), log_share], 1)
    return torch.cat([seen.flatten(1), placed.float(), clipped(features)], 1), best


def cut(values: Tensor, best: Tensor, beyond: float) -> Tensor:
    """Values around the best probe, `(B, R) -> (B, WIDTH)`; `beyond` outside the grid."""
    at, inside = _around(best, values.shape[1])
    return torch.where(inside, values.gather(1, at), beyond)


def spread(values: Tensor, best: Tensor, rates: int, beyond: float) -> Tensor:
    """The reverse of `cut`, `(B, WIDTH) -> (B, rates)`; `beyond` out of reach."""
    at = torch.arange(rates) - best[:, None] + REACH
    return torch.where((at >= 0) & (at < WIDTH), values.gather(1, at.clamp(0, WIDTH - 1)), beyond)


def _around(best: Tensor, rates: int) -> tuple[Tensor, Tensor]:
    at = best[:, None] + torch.arange(-REACH, REACH + 1)
    return at.clamp(0, rates - 1), (at >= 0) & (at < rates)
