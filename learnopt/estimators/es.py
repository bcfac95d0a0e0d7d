"""Antithetic evolution strategies over full unrolls."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from learnopt import objective
from learnopt.estimators.base import Episode, Estimate, Estimator
from learnopt.unroll import unroll


class AntitheticES(Estimator):
    """Every pair runs the whole horizon; unbiased for the smoothed objective (Salimans et al. 2017)."""

    name = "es"

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """One episode from its initialisation to its horizon; `carry` is not used."""
        problem = self.problem(episode)
        steps = episode.steps
        thetas = self.perturbed(theta, episode.seed)
        points = objective.valid_at(0, steps, steps)
        _, trajectory = unroll(problem, thetas, problem.begin(), 0, steps, episode.telling, valid_at=points)
        reference = trajectory.losses[0].median()
        losses = objective.meta_loss(trajectory, reference, self.training)
        return Estimate(episode.seed, objective.paired(losses), float(losses.mean()), steps * problem.n)
