"""Noise-reuse evolution strategies: truncated unrolls under one noise vector per episode."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from learnopt import objective
from learnopt.estimators.base import Episode, Estimate
from learnopt.estimators.windows import Windowed
from learnopt.unroll import unroll


class NoiseReuseES(Windowed):
    """Each job takes one window of the unroll; the noise stays the same until the episode ends (Li et al. 2023).

    Source: Noise-Reuse in Online Evolution Strategies, OscarcarLi/Noise-Reuse-Evolution-Strategies. Validation loss is
    measured at the end of every window, so that each window has a meta-loss of its own.
    """

    name = "nres"

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """The next window of the episode; `carry` holds the runs, the step and the reference loss."""
        problem = self.problem(episode)
        window = self.next_window(problem, episode, carry)
        runs, trajectory = unroll(
            problem, self.perturbed(theta, episode.seed), window.runs, window.start, window.stop, episode.telling,
            valid_at=window.valid_at,
        )  # fmt: skip
        losses, reference = window.losses(trajectory, self.training)
        return Estimate(
            episode.seed, objective.paired(losses), float(losses.mean()), trajectory.losses.numel(),
            window.carry(runs, reference),
        )  # fmt: skip
