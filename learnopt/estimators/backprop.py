"""Truncated backpropagation through the unroll."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from learnopt import objective
from learnopt.estimators.base import Episode, Estimate, Estimator
from learnopt.task import seed_of
from learnopt.unroll import Problem, Runs, unroll

CLIP = 1.0
"""Largest norm of an episode's gradient: unrolls are chaotic, and one that explodes must not speak for all."""


class Backprop(Estimator):
    """Each job backpropagates through one window of `2 * pairs` plain runs; what came before the window is fixed.

    Exact for a window, and blind to what lies beyond it: short windows teach learning rates that are too small (Wu et
    al. 2018), long ones explode (Metz et al. 2019). Memory grows with the window. `learnopt.differentiable` does the
    same for single runs of anybody's code through `higher`.

    Args:
        sigma: not used; theta is not perturbed.
        window: steps per job.
    """

    name = "backprop"
    settings = ("window",)
    keeps_state = True

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = (), window: int = 50) -> None:
        super().__init__(pairs, sigma, frozen)
        if window < 1:
            raise ValueError(f"window must be at least 1 step, got {window}")
        self.window = window

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """The next window; `carry` holds the runs, the step and the reference loss."""
        problem = Problem(episode.task, [seed_of(episode.seed, i) for i in range(2 * self.pairs)])
        start: int = carry["step"] if carry else 0
        runs: Runs = carry["runs"] if carry else problem.begin()
        stop = min(start + self.window, episode.steps)
        weights = theta.detach().clone().requires_grad_()
        points = objective.valid_at(start, stop, episode.steps)
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            runs, trajectory = unroll(
                problem, weights, runs, start, stop, episode.telling, valid_at=points, differentiable=True
            )
            reference = carry["reference"] if carry else trajectory.losses[0].detach().median()
            losses = objective.meta_loss(trajectory, reference)
            (gradient,) = torch.autograd.grad(losses.mean(), weights)
        gradient = self._free(gradient.nan_to_num(0.0, 0.0, 0.0))
        gradient = gradient * (CLIP / gradient.norm().clamp_min(CLIP))
        left = {"step": stop, "runs": _detached(runs), "reference": reference}
        return Estimate(
            episode.seed, torch.zeros(0), float(losses.detach().mean()), (stop - start) * problem.n,
            None if stop >= episode.steps else left, gradient,
        )  # fmt: skip

    def perturbed(self, theta: Tensor, seed: int) -> Tensor:
        """Theta itself, for every run."""
        return theta.expand(2 * self.pairs, -1)


def _detached(runs: Runs) -> Runs:
    return Runs([p.detach() for p in runs.params], runs.state.detached())
