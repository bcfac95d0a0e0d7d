"""Noise-reuse evolution strategies: truncated unrolls under one noise vector per episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from learnopt import objective
from learnopt.estimators.base import Episode, Estimate, Estimator
from learnopt.task import seed_of
from learnopt.unroll import Problem, Runs, unroll


class NoiseReuseES(Estimator):
    """Each job takes one window of the unroll; the noise stays the same until the episode ends (Li et al. 2023).

    Source: Noise-Reuse in Online Evolution Strategies, OscarcarLi/Noise-Reuse-Evolution-Strategies. Validation loss is
    measured at the end of every window, so that each window has a meta-loss of its own.

    Args:
        window: steps per job.
    """

    name = "nres"
    settings = ("window",)
    keeps_state = True

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = (), window: int = 50) -> None:
        super().__init__(pairs, sigma, frozen)
        if window < 1:
            raise ValueError(f"window must be at least 1 step, got {window}")
        self.window = window

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """The next window of the episode; `carry` holds the runs, the step and the reference loss."""
        seeds = [seed_of(episode.seed, i) for i in range(self.pairs)]
        problem = Problem(episode.task, seeds, copies=2)
        start: int = carry["step"] if carry else 0
        runs: Runs = carry["runs"] if carry else problem.begin()
        stop = min(start + self.window, episode.steps)
        thetas = self.perturbed(theta, episode.seed)
        points = objective.valid_at(start, stop, episode.steps)
        runs, trajectory = unroll(problem, thetas, runs, start, stop, episode.telling, valid_at=points)
        reference = carry["reference"] if carry else trajectory.losses[0].median()
        losses = objective.meta_loss(trajectory, reference)
        left = None if stop >= episode.steps else {"step": stop, "runs": runs, "reference": reference}
        steps = (stop - start) * problem.n
        return Estimate(episode.seed, objective.paired(losses), float(losses.mean()), steps, left)
