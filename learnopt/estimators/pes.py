"""Persistent evolution strategies: truncated unrolls, fresh noise in every window, and no truncation bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learnopt import objective
from learnopt.estimators.base import Episode, Estimate, Estimator
from learnopt.task import seed_of
from learnopt.unroll import Problem, Runs, unroll


class PersistentES(Estimator):
    """Each job takes one window under fresh noise; its losses are credited to all noise of the run so far.

    Unbiased for the sum of the windows' meta-losses; the variance grows with the number of windows, because a window's
    loss is multiplied by the noise of all windows before it. Source: Vicol, Metz & Sohl-Dickstein 2021.

    Args:
        window: steps per job.
    """

    name = "pes"
    settings = ("window",)
    keeps_state = True

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = (), window: int = 50) -> None:
        super().__init__(pairs, sigma, frozen)
        if window < 1:
            raise ValueError(f"window must be at least 1 step, got {window}")
        self.window = window

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """The next window; `carry` holds the runs, the step, the reference loss and the accumulated noise."""
        problem = Problem(episode.task, [seed_of(episode.seed, i) for i in range(self.pairs)], copies=2)
        start: int = carry["step"] if carry else 0
        runs: Runs = carry["runs"] if carry else problem.begin()
        stop = min(start + self.window, episode.steps)
        noise_seed = seed_of(episode.seed, "window", start)
        fresh = self._noise(noise_seed, theta.numel())
        total = fresh + (carry["noise"] if carry else torch.zeros_like(fresh))
        runs, trajectory = unroll(
            problem, self.perturbed(theta, noise_seed), runs, start, stop, episode.telling,
            valid_at=objective.valid_at(start, stop, episode.steps),
        )  # fmt: skip
        reference = carry["reference"] if carry else trajectory.losses[0].median()
        losses = objective.meta_loss(trajectory, reference)
        differences = objective.paired(losses)
        left = {"step": stop, "runs": runs, "reference": reference, "noise": total}
        return Estimate(
            episode.seed, differences, float(losses.mean()), (stop - start) * problem.n,
            None if stop >= episode.steps else left, differences @ total / self.pairs,
        )  # fmt: skip
