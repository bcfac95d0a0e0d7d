"""What an estimator of the meta-gradient is: one episode in, the weights of its noise vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from learnopt import rule
from learnopt.task import Task, seed_of
from learnopt.unroll import Telling


@dataclass(frozen=True)
class Episode:
    """One task with all that is random about its inner runs already drawn."""

    task: Task
    seed: int
    steps: int
    telling: Telling


@dataclass
class Estimate:
    """Result of one job.

    `differences` (pairs,) weigh the noise vectors of `noise(seed, pairs)`: noise and gradients need not travel.
    """

    seed: int
    differences: Tensor
    meta_loss: float
    inner_steps: int
    carry: dict[str, Any] | None = None


class Estimator(ABC):
    """Estimates d meta-loss / d theta from pairs of perturbed inner runs.

    Args:
        pairs: antithetic pairs per episode, `M`.
        sigma: standard deviation of the perturbation, in units of theta.
        frozen: parts of theta, by their names in `rule.SHAPES`, that are neither perturbed nor moved.
    """

    name: ClassVar[str]
    keeps_state: ClassVar[bool] = False
    """True when an episode goes on over several meta-steps; its `carry` is then part of the checkpoint."""

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = ()) -> None:
        self.pairs, self.sigma, self.frozen = pairs, sigma, tuple(frozen)

    @abstractmethod
    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None) -> Estimate:
        """Run one job; `carry` is what the previous job of the same particle returned, None at its start."""

    def gradient(self, size: int, estimates: list[Estimate]) -> Tensor:
        """Mean over episodes and pairs of difference times noise, shape `(size,)`."""
        total = torch.zeros(size)
        for e in estimates:
            total += e.differences @ noise(e.seed, self.pairs, size) / self.pairs
        return self._free(total / max(len(estimates), 1))

    def perturbed(self, theta: Tensor, seed: int) -> Tensor:
        """`(2M, SIZE)`: theta plus, then theta minus, each noise vector."""
        eps = self._free(self.sigma * noise(seed, self.pairs, theta.numel()))
        return torch.cat([theta + eps, theta - eps])

    def _free(self, values: Tensor) -> Tensor:
        """`(..., SIZE)` with zeros at the frozen parts."""
        if not self.frozen:
            return values
        free = [torch.full((a * b,), float(name not in self.frozen)) for name, (a, b) in rule.SHAPES.items()]
        return values * torch.cat(free)


def noise(seed: int, pairs: int, size: int) -> Tensor:
    """The standard normal vectors of an episode, `(pairs, size)`: a function of the seed alone."""
    return torch.randn(pairs, size, generator=torch.Generator().manual_seed(seed_of("noise", seed)))
