"""Teach the stop head: record runs of the shipped rule, label every moment by what came after, fit a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from learnopt import stop_head
from learnopt.estimators import Episode
from learnopt.task import seed_of
from learnopt.unroll import Problem, Telling, unroll

POINTS = 40
"""Validation losses measured along a recorded run."""
OVERTIME = 1.25
"""Runs are recorded beyond their told horizon by this factor, so that its end is no label by itself."""
GAIN = 0.005
"""Share of the loss that an improvement must reach to count as worth waiting for."""


class Recording(NamedTuple):
    """Moments of `N` runs."""

    columns: Tensor  # (V, N, len(GLOBAL))
    valid: Tensor  # (V, N): validation loss at that moment
    best: Tensor  # (V, N): best so far
    future: Tensor  # (V, N): best still to come


@dataclass(frozen=True)
class Recorder:
    """Records runs of one theta.

    Args:
        runs: seeds per task, `N`.
    """

    theta: Tensor
    runs: int = 4

    def record(self, episode: Episode) -> Recording:
        """Run an episode beyond its horizon and look back at every measured moment but the last."""
        steps = max(POINTS, round(episode.steps * OVERTIME))
        at = tuple(sorted({max(1, round(steps * (i + 1) / POINTS)) for i in range(POINTS)}))
        problem = Problem(
            episode.task, [seed_of("record", episode.seed, i) for i in range(self.runs)], device=episode.device
        )
        telling = Telling(episode.telling.horizon, loss=True)
        _, trajectory = unroll(problem, self.theta, problem.begin(), 0, steps, telling, valid_at=at)
        valid = trajectory.valid.nan_to_num(torch.inf, torch.inf, torch.inf)
        best = valid.cummin(0).values
        future = valid.flip(0).cummin(0).values.flip(0)
        index = torch.tensor([min(a, steps - 1) for a in at[:-1]])
        return Recording(trajectory.columns[index], valid[:-1], best[:-1], future[1:])


def labels(r: Recording) -> Tensor:
    """1 where nothing better by `GAIN` of the loss is still to come, `(V, N)`."""
    return (r.future > r.best - GAIN * r.best.abs()).float()


def fit(
    recordings: list[Recording], generator: torch.Generator, steps: int = 1500, lr: float = 0.02
) -> dict[str, Tensor]:
    """Weights of the stop head by full-batch Adam on the cross-entropy; every recorded run weighs the same."""
    x = torch.cat([r.columns.flatten(0, 1) for r in recordings])
    y = torch.cat([labels(r).flatten() for r in recordings])
    share = torch.cat([torch.full((r.valid.numel(),), 1.0 / r.valid.shape[0]) for r in recordings])
    weights = {k: v.requires_grad_() for k, v in stop_head.initial_weights(generator).items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        each = functional.binary_cross_entropy_with_logits(stop_head.logit(weights, x), y, reduction="none")
        loss = (each * share).sum() / share.sum()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return {k: v.detach() for k, v in weights.items()}


class Outcome(NamedTuple):
    """What stopping at a threshold would have done to recorded runs."""

    threshold: float
    excess: float  # mean log ratio of the validation loss where a run stops to that at its end, where that is better
    compute: float  # mean share of the steps that were taken
    stopped: float  # share of runs that were stopped at all


def outcome(weights: dict[str, Tensor], recordings: list[Recording], threshold: float) -> Outcome:
    """Stop every run at the first moment whose probability exceeds `threshold`."""
    excess, compute, stopped = [], [], []
    for r in recordings:
        p = torch.sigmoid(stop_head.logit(weights, r.columns))
        moments = len(p)
        for n in range(p.shape[1]):
            over = torch.nonzero(p[:, n] > threshold)
            k = int(over[0]) if len(over) else moments - 1
            kept, final = r.valid[k, n], r.valid[-1, n]
            excess.append(float((kept / final).log().clamp_min(0)) if kept > 0 and final > 0 else 0.0)
            compute.append((k + 1) / moments)
            stopped.append(float(len(over) > 0))
    return Outcome(threshold, *(float(torch.tensor(v).mean()) for v in (excess, compute, stopped)))


def calibrate(weights: dict[str, Tensor], recordings: list[Recording], most_excess: float = 0.005) -> Outcome:
    """The lowest threshold whose mean excess on these recordings is at most `most_excess`; 1 if none: never stop."""
    grid = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999]
    outcomes = [outcome(weights, recordings, t) for t in grid]
    good = [o for o in outcomes if o.excess <= most_excess]
    return good[0] if good else outcome(weights, recordings, 1.0)
