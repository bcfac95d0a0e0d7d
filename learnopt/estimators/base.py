"""What an estimator of the meta-gradient is: one episode in, the weights of its noise vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from learnopt import meta_network
from learnopt.task import Task, seed_of
from learnopt.unroll import Problem, Telling


@dataclass(frozen=True)
class Episode:
    """One task with all that is random about its inner runs already drawn."""

    task: Task
    seed: int
    steps: int
    telling: Telling
    device: str = "cpu"


@dataclass
class Estimate:
    """Result of one job.

    `differences` (pairs,) weigh the noise vectors of `noise(seed, pairs)`: noise and gradients need not travel, unless
    the job knows better: then `gradient` (SIZE,) is its estimate. `inputs` are the second moments of the columns that
    the meta-network saw, `(G + T, G + T)`, for estimators that want them.
    """

    seed: int
    differences: Tensor
    meta_loss: float
    inner_steps: int
    carry: dict[str, Any] | None = None
    gradient: Tensor | None = None
    inputs: Tensor | None = None


META_LOSS = "meta-loss (log of loss over initial loss)"


class Estimator(ABC):
    """Estimates d meta-loss / d theta from pairs of perturbed inner runs.

    Args:
        pairs: antithetic pairs per episode, `M`.
        sigma: standard deviation of the perturbation, in units of theta.
        frozen: parts of theta, by their names in `meta_network.SHAPES`, that are neither perturbed nor moved.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    """Settings of a meta-training run that this estimator takes besides those of all."""
    keeps_state: ClassVar[bool] = False
    """True when an episode goes on over several meta-steps; its `carry` is then part of the checkpoint."""
    kernel: bool = True
    """False: inner runs go the slow ways, as in `Problem`."""
    measure: ClassVar[str] = META_LOSS
    """What the meta-loss of an `Estimate` is, for a picture's axis."""
    training: float = 0.0
    """Share of the training loss in the meta-loss."""

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = ()) -> None:
        self.pairs, self.sigma, self.frozen = pairs, sigma, tuple(frozen)

    @abstractmethod
    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None) -> Estimate:
        """Run one job; `carry` is what the previous job of the same particle returned, None at its start."""

    def problem(self, episode: Episode) -> Problem:
        """The episode's runs, every pair with an initialisation and batches of its own."""
        seeds = [seed_of(episode.seed, i) for i in range(self.pairs)]
        return Problem(episode.task, seeds, copies=2, device=episode.device, kernel=self.kernel)

    def gradient(self, size: int, estimates: list[Estimate]) -> Tensor:
        """Mean over episodes, `(size,)`: of what a job says itself, or of its differences times their noise."""
        total = torch.zeros(size)
        for e in estimates:
            own = e.gradient
            total += e.differences @ self._noise(e.seed, size) / self.pairs if own is None else own
        return total / max(len(estimates), 1)

    def perturbed(self, theta: Tensor, seed: int) -> Tensor:
        """`(2M, SIZE)`: theta plus, then theta minus, each noise vector."""
        eps = self.sigma * self._noise(seed, theta.numel())
        return torch.cat([theta + eps, theta - eps])

    def _noise(self, seed: int, size: int) -> Tensor:
        """`(pairs, size)`: the noise of an episode where theta is perturbed, 0 elsewhere."""
        return self._free(noise(seed, self.pairs, size))

    def _free(self, values: Tensor) -> Tensor:
        """`(..., SIZE)` with zeros at the frozen parts."""
        return values * (1 - meta_network.mask(self.frozen)) if self.frozen else values


LONGEST = 1.0
"""Largest norm of an exact gradient of an episode: one that explodes must not speak for all."""


def bounded(gradient: Tensor) -> Tensor:
    """The gradient of an episode, cut to the norm `LONGEST`; what is not finite counts as 0."""
    finite = gradient.nan_to_num(0.0, 0.0, 0.0)
    cut: Tensor = finite * (LONGEST / finite.norm().clamp_min(LONGEST))
    return cut


def noise(seed: int, pairs: int, size: int) -> Tensor:
    """The standard normal vectors of an episode, `(pairs, size)`: a function of the seed alone."""
    return torch.randn(pairs, size, generator=torch.Generator().manual_seed(seed_of("noise", seed)))
