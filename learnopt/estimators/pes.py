"""Persistent evolution strategies: truncated unrolls, fresh noise in every window, and no truncation bias."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from learnopt import objective
from learnopt.estimators.base import Episode, Estimate
from learnopt.estimators.windows import Windowed
from learnopt.task import seed_of
from learnopt.unroll import unroll


class PersistentES(Windowed):
    """Each job takes one window under fresh noise; its losses are credited to all noise of the run so far.

    Unbiased for the sum of the windows' meta-losses; the variance grows with the number of windows, because a window's
    loss is multiplied by the noise of all windows before it. Source: Vicol, Metz & Sohl-Dickstein 2021.
    """

    name = "pes"

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """The next window; `carry` holds the runs, the step, the reference loss and the accumulated noise."""
        problem = self.problem(episode)
        window = self.next_window(problem, episode, carry)
        noise_seed = seed_of(episode.seed, "window", window.start)
        total = self._noise(noise_seed, theta.numel())
        if carry:
            total += carry["noise"]
        runs, trajectory = unroll(
            problem, self.perturbed(theta, noise_seed), window.runs, window.start, window.stop, episode.telling,
            valid_at=window.valid_at,
        )  # fmt: skip
        losses, reference = window.losses(trajectory, self.training)
        differences = objective.paired(losses)
        return Estimate(
            episode.seed, differences, float(losses.mean()), trajectory.losses.numel(),
            window.carry(runs, reference, noise=total), differences @ total / self.pairs,
        )  # fmt: skip
