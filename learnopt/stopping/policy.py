"""What stopping rules do to recorded curves: the share of the steps they take, and what they give away."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.stopping import headroom, train
from learnopt.stopping.curve_features import query
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves

LOST = 0.05
"""Excess from which a run counts as lost."""
CAP = 1.0
"""Excess of one run is counted up to this, so that no single run decides a mean."""


class Outcome(NamedTuple):
    """Means over curves, every task counting alike."""

    compute: float  # share of the steps taken
    excess: float  # best value so far where it stopped over the best of the whole run, minus 1, up to CAP each
    lost: float  # share of runs whose excess is above LOST
    saving: float  # share of the steps that stopping at the minimum would have saved, saved


def excess_at(curves: Curves) -> Tensor:
    """Excess of stopping at each moment, `(N, T)`, relative to the size of the best value."""
    best = curves.values.nan_to_num(torch.inf).cummin(1).values
    final = best[:, -1:]
    return ((best - final) / final.abs().clamp_min(1e-12)).clamp(0, CAP).nan_to_num(0)


def outcomes(curves: Curves, stops: Tensor) -> Tensor:
    """Compute, excess and whether it is lost for every curve that stops at its value number `stops`, `(N, 3)`."""
    taken = curves.steps.gather(1, stops[:, None])[:, 0]
    last = curves.steps.gather(1, curves.length[:, None] - 1)[:, 0]
    excess = excess_at(curves).gather(1, stops[:, None])[:, 0]
    return torch.stack([taken / last, excess, (excess > LOST).double()], 1)


def oracle(curves: Curves) -> Tensor:
    """Number of the best value of every curve."""
    return curves.values.nan_to_num(torch.inf).argmin(1)


def outcome(curves: Curves, stops: Tensor) -> Outcome:
    """Means over tasks of means over their curves."""
    rows = by_task(curves, outcomes(curves, stops)).mean(0)
    ideal = by_task(curves, outcomes(curves, oracle(curves))).mean(0)
    return Outcome(float(rows[0]), float(rows[1]), float(rows[2]), float((1 - rows[0]) / (1 - ideal[0])))


def by_task(curves: Curves, rows: Tensor) -> Tensor:
    """Means over each task's curves, `(tasks, columns)`."""
    return torch.stack([rows[curves.task == i].mean(0) for i in curves.numbers])


@torch.no_grad()
def probabilities(network: CurveNetwork, curves: Curves, tolerance: float, told: bool = True) -> Tensor:
    """Probability at every moment that the best value improves by more than `tolerance` of its size, `(N, T)`."""
    seen = train.look(curves.values, curves.steps, torch.full((len(curves),), told))
    known, _ = network.read(seen.columns)
    amount = (tolerance * torch.where(torch.isfinite(seen.best), seen.best, 1.0).abs()).clamp_min(1e-30)
    asked = torch.stack([query(s, amount[:, t, None]) for t, s in enumerate(seen.states)], 1)
    return torch.sigmoid(network.answer(known, asked))[..., 0]


def prospects(p: Tensor, curves: Curves, tolerance: float) -> Tensor:
    """Probabilities times what can at most be gained, `(N, T)`; 1, so that nothing stops, where that is unknown."""
    room = headroom.share(curves.values.nan_to_num(torch.inf).cummin(1).values)
    return (headroom.possible(p, room, tolerance) * room).nan_to_num(1.0)


def first_below(p: Tensor, threshold: float, curves: Curves, least: int = 3) -> Tensor:
    """Number of the value at which the probability is first below a threshold, the last one where it never is."""
    low = (p < threshold) & (torch.arange(p.shape[1]) >= least - 1)
    ends = curves.length - 1
    low.scatter_(1, ends[:, None], torch.ones_like(low[:, :1]))
    return low.long().argmax(1)


def patience(curves: Curves, wait: int) -> Tensor:
    """Number of the value at which patience stops."""
    values = curves.values.nan_to_num(torch.inf)
    best = values.cummin(1).values
    better = torch.cat([torch.ones(len(values), 1, dtype=torch.bool), values[:, 1:] < best[:, :-1]], 1)
    place = torch.arange(values.shape[1]).expand_as(better)
    last = torch.where(better, place, 0).cummax(1).values
    stop = place - last >= wait
    stop.scatter_(1, curves.length[:, None] - 1, torch.ones_like(stop[:, :1]))
    return stop.long().argmax(1)
