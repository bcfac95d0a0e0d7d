"""What the learned pruner makes of a trial's parameters: how the finished trials with like parameters fared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.stopping.peer_features import Peers, floor_of, log_ratio

COLUMNS = (
    "distance", "distance_last", "way_of_nearest", "way_of_best", "best_to_size", "nearest_to_size", "nearest_done",
    "done", "against_nearest", "against_mean", "gain_of_nearest", "gain_of_best", "lead_of_nearest", "rank_of_nearest",
    "rank_of_best", "rank_of_mean", "reliability", "told",
)  # fmt: skip
COUNT = 3
"""Nearest trials that are looked at."""
LEAST = 4
"""Finished trials from which on it is asked whether like parameters mean like results."""


class Neighbours(NamedTuple):
    """A trial's parameters beside those of `n` finished trials.

    Attributes:
        distance: `(n,)`, float64, from the trial to each.
        reliability: between -1 and 1: how well the nearest trial's rank tells a finished trial's.
    """

    distance: Tensor
    reliability: float


def reliability(between: Tensor, final: Tensor) -> float:
    """Correlation of finished trials' ranks with those of their nearest trials; 0 for fewer than `LEAST`.

    Args:
        between: `(n, n)`, distances between them.
        final: `(n,)`, their best values.
    """
    if len(final) < LEAST:
        return 0.0
    nearest = between.clone().fill_diagonal_(torch.inf).argmin(1)
    rank = final.argsort().argsort().double()
    a, b = rank - rank.mean(), rank[nearest] - rank[nearest].mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9))


def columns(best: Tensor, need: Tensor, peers: Peers, neighbours: Neighbours | None) -> Tensor:
    """What the peer network reads of them, `(T, len(COLUMNS))`, float32; all zero where parameters are not told.

    Args:
        best: `(T,)`, the trial's best values; `need`: what it must still gain.
    """
    if neighbours is None:
        return torch.zeros(len(best), len(COLUMNS))
    target, one = peers.final.min(), torch.ones_like(best)
    floor = floor_of(target)
    tiny = 1e-3 * floor + 1e-300
    distance, index = neighbours.distance.topk(min(COUNT, len(neighbours.distance)), largest=False)
    weight = torch.exp(-((distance / (distance[0] + 0.05)) ** 2))
    weight = weight / weight.sum()
    final, at, done = peers.final[index], peers.at[index], peers.done[index].double()
    rank = (peers.final[:, None] < final).double().mean(0)
    spread = (peers.at.median(0).values - peers.at.amin(0)).abs() + tiny
    size, first = target.abs() * one, (final[0] - target + floor) * one
    least = (final.min() - target + floor) * one
    parts = (
        one * distance[0] * 2, one * distance[-1] * 2, log_ratio(first, need, tiny), log_ratio(least, need, tiny),
        log_ratio(least, size, tiny), log_ratio(first, size, tiny), one * done[0], one * (weight * done).sum(),
        torch.asinh((best - at[0]) / spread).clamp(-12, 12) / 3,
        torch.asinh(((best - at) * weight[:, None]).sum(0) / spread).clamp(-12, 12) / 3,
        log_ratio(at[0] - final[0], need, tiny), log_ratio((at - final[:, None]).amax(0), need, tiny),
        log_ratio(best - at[0], need, tiny) - log_ratio(at[0] - best, need, tiny), one * rank[0], one * rank.min(),
        one * (weight * rank).sum(), one * neighbours.reliability, one,
    )  # fmt: skip
    return torch.stack(parts, 1).nan_to_num(0, 4, -4).clamp(-4, 4).float()
