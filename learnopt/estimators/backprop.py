"""Truncated backpropagation through the unroll."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from learnopt.estimators.base import Episode, Estimate, bounded
from learnopt.estimators.windows import Windowed
from learnopt.task import seed_of
from learnopt.unroll import Problem, Runs, unroll


class Backprop(Windowed):
    """Each job backpropagates through one window of `2 * pairs` plain runs; what came before the window is fixed.

    Exact for a window, and blind to what lies beyond it: short windows teach learning rates that are too small (Wu et
    al. 2018), long ones explode (Metz et al. 2019). Memory grows with the window. `learnopt.differentiable` does the
    same for single runs of anybody's code through `higher`.

    Args:
        sigma: not used; theta is not perturbed.
    """

    name = "backprop"

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """The next window; `carry` holds the runs, the step and the reference loss."""
        problem = Problem(
            episode.task, [seed_of(episode.seed, i) for i in range(2 * self.pairs)], device=episode.device
        )
        window = self.next_window(problem, episode, carry)
        weights = theta.detach().clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            runs, trajectory = unroll(
                problem, weights, window.runs, window.start, window.stop, episode.telling,
                valid_at=window.valid_at, differentiable=True,
            )  # fmt: skip
            losses, reference = window.losses(trajectory, self.training)
            (gradient,) = torch.autograd.grad(losses.mean(), weights)
        gradient = bounded(self._free(gradient))  # unrolls are chaotic
        fixed = Runs([p.detach() for p in runs.params], runs.state.detached())
        return Estimate(
            episode.seed, torch.zeros(0), float(losses.detach().mean()), trajectory.losses.numel(),
            window.carry(fixed, reference), gradient,
        )  # fmt: skip

    def perturbed(self, theta: Tensor, seed: int) -> Tensor:
        """Theta itself, for every run."""
        return theta.expand(2 * self.pairs, -1)
