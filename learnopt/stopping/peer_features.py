"""What the learned pruner sees of a trial beside the other trials of its study, in ratios free of scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.stopping.curve_features import CurveState

VERSION = 2
COLUMNS = (
    "way_to_champion", "way_to_leader", "way_to_size", "standing", "rank", "rank_alive", "peers", "alive", "progress",
    "leads", "pace_fast", "pace_mid", "pace_slow", "roughness", "range", "gap", "behind_champion",
    "like_enough", "like_most", "like_mean", "like_distance", "all_enough", "all_most", "like_count",
)  # fmt: skip
LIKE = 8
"""Trials nearest in value at the same moment, whose later gains are looked at."""
MARGIN = 0.005
"""Share of the best value by which a trial must beat it to be worth its steps."""
FOREMOST = 0.05
"""The best of so large a share at a moment are not pruned: a network that learned from studies of learning rates thinks
too little of a good start where architectures and optimizers differ as well."""
_LIMIT = 8.0


class Peers(NamedTuple):
    """What `n` earlier trials had reached, at `T` moments; lower is better.

    Attributes:
        at: `(n, T)`, the best value by this moment, or by the last one they had.
        alive: `(n, T)`, whether they got this far.
        final: `(n,)`, the best value of all.
        done: `(n,)`, whether they were run to their end.
    """

    at: Tensor
    alive: Tensor
    final: Tensor
    done: Tensor


def amounts(best: Tensor, peers: Peers) -> Tensor:
    """What a trial must still gain to be the study's best by `MARGIN`, `(T,)`, from its best values so far."""
    target = torch.minimum(best, peers.final.min())
    return best - target + MARGIN * target.abs()


def ahead(best: Tensor, peers: Peers) -> Tensor:
    """Whether a trial must not be pruned, `(T,)`: it is better than the best one was at the same moment, or among the
    `FOREMOST` of those that got so far, which is one at least."""
    better = ((peers.at < best) & peers.alive).sum(0)
    foremost = (better < max(1.0, FOREMOST * len(peers.final))) & peers.alive.any(0)
    return (best < peers.at[int(peers.final.argmin())]) | foremost


def floor_of(target: Tensor) -> Tensor:
    """The least difference that counts, for a study whose best value is `target`."""
    return MARGIN * target.abs()


def log_ratio(a: Tensor, b: Tensor, tiny: Tensor) -> Tensor:
    return torch.log((a.clamp_min(0) + tiny) / (b.clamp_min(0) + tiny)).clamp(-_LIMIT, _LIMIT) / 4


def columns(s: CurveState, peers: Peers, horizon: float) -> Tensor:
    """What the peer network reads of a trial and its peers, `(T, len(COLUMNS))`, float32.

    Args:
        s: the trial's own curve at `T` moments.
        horizon: last step of a whole trial, 0 where unknown.
    """
    target = peers.final.min()
    champion = peers.at[int(peers.final.argmin())]
    need = amounts(s.best, peers)
    floor = floor_of(target)
    tiny = 1e-3 * floor + 1e-300
    among = torch.where(peers.alive, peers.at, torch.inf).amin(0)
    leader = torch.where(torch.isfinite(among), among, peers.at.amin(0))
    middle = peers.at.median(0).values
    alive = peers.alive.sum(0)
    progress = (s.place / horizon).clamp(0, 1) if horizon > 0 else torch.zeros_like(s.place)
    spacing = ((s.place - s.start) / (s.seen - 1).clamp_min(1)).clamp_min(1e-9)
    left = ((horizon - s.place) / spacing).clamp(1, 1000) if horizon > 0 else s.seen.clamp_min(1)
    behind = (peers.at < s.best).double()
    parts = (
        log_ratio(need, champion - target + floor, tiny), log_ratio(need, leader - target + floor, tiny),
        log_ratio(need, target.abs().expand_as(need), tiny),
        torch.asinh((s.best - leader) / ((middle - leader).abs() + tiny)).clamp(-12, 12) / 3, behind.mean(0),
        (behind * peers.alive).sum(0) / alive.clamp_min(1), torch.full_like(need, len(peers.final)).log1p() / 4,
        alive.double().log1p() / 3, progress, (s.best <= target).double(),
        *(log_ratio(g * left, need, tiny) for g in s.gains.unbind(1)), log_ratio(s.step, need, tiny),
        log_ratio(s.first - s.best, need, tiny), log_ratio(s.last - s.best, need, tiny),
        torch.asinh((s.best - champion) / (need + tiny)).clamp(-12, 12) / 3, *_later_gains(s.best, need, peers, tiny),
    )  # fmt: skip
    return torch.stack(parts, 1).nan_to_num(0, 4, -4).clamp(-4, 4).float()


def _later_gains(best: Tensor, need: Tensor, peers: Peers, tiny: Tensor) -> tuple[Tensor, ...]:
    """What trials that were as good at the same moment gained afterwards, pruned ones as far as they came."""
    later = peers.at - peers.final[:, None]
    away = torch.where(peers.alive, (peers.at - best).abs(), torch.inf)
    distance, index = away.topk(min(LIKE, len(away)), 0, largest=False)
    found = torch.isfinite(distance)
    gain, count = torch.where(found, later.gather(0, index), 0), found.sum(0).clamp_min(1)
    enough = ((gain >= need) & found).sum(0) / count
    all_enough = ((later >= need) & peers.alive).sum(0) / peers.alive.sum(0).clamp_min(1)
    nearest = torch.where(found[0], distance[0], need)
    return (
        enough, log_ratio(gain.amax(0), need, tiny), log_ratio(gain.sum(0) / count, need, tiny),
        log_ratio(nearest, need, tiny), all_enough, log_ratio(torch.where(peers.alive, later, 0).amax(0), need, tiny),
        found.sum(0) / LIKE,
    )  # fmt: skip
