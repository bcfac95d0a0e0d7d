"""Problems with their parameters in other units, so that a learned rule cannot learn the sizes of steps by heart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnopt.fewshot.episode import generator
from learnopt.fewshot.optimizees import Problems
from learnopt.fewshot.rules import Params

MOST = 20.0
"""Spreads from here on leave no precision in float32."""


class RandomScaling:
    """Problems `f(c p)`, started at `p / c`, in place of `f(p)`: the same losses, reached by other steps.

    Each coordinate of each problem has a factor of its own, `c = exp(U(-spread, spread))`.

    Source: Lv, Jiang and Li 2017, Learning gradient descent: better generalization and longer horizons; 3 in their code
    (github.com/vfleaking/rnnprop).

    Args:
        problems: whose parameters are scaled.
        spread: largest logarithm of a factor; 0 scales nothing.

    Raises:
        ValueError: the spread is negative or not below 20.
    """

    def __init__(self, problems: Problems, spread: float = 3.0) -> None:
        if not 0 <= spread < MOST:
            raise ValueError(f"spread must be 0 or more and below {MOST:g}, got {spread!r}")
        self.problems, self.spread = problems, spread

    def factors(self, seed: int, like: Params) -> Params:
        """Factors of stacked parameters, of the same names and shapes: a function of those and the seed."""
        g = generator("random scaling", seed)
        return {name: ((torch.rand(p.shape, generator=g) * 2 - 1) * self.spread).exp() for name, p in like.items()}

    def start(self, seed: int, count: int) -> Params:
        params = self.problems.start(seed, count)
        return {name: params[name] / c for name, c in self.factors(seed, params).items()}

    def batches(self, seed: int, count: int, first: int, steps: int) -> tuple[Params, Any]:
        """Factors, the same in all steps, and the problems' own batches."""
        factors = self.factors(seed, self.problems.start(seed, count))
        along = {name: c.unsqueeze(1).expand(-1, steps, *c.shape[1:]) for name, c in factors.items()}
        return along, self.problems.batches(seed, count, first, steps)

    def loss(self, params: Params, batch: tuple[Params, Any]) -> Tensor:
        factors, own = batch
        return self.problems.loss({name: p * factors[name] for name, p in params.items()}, own)

    def describe(self) -> str:
        return f"{self.problems.describe()}, coordinates scaled by e^-{self.spread:g} to e^{self.spread:g}"
