"""torch's optimizers for `N` runs at once, each with its own learning rate and weight decay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def _per_run(values: Tensor, like: Tensor) -> Tensor:
    """`(N,)` shaped to multiply a stack `(N, *shape)`."""
    return values.view(-1, *[1] * (like.dim() - 1))


class BatchedOptimizer(ABC):
    """Optimizes stacks of parameters, `(N, *shape)` each, in place.

    Args:
        params: the stacks.
        weight_decay: `(N,)`, in the unit of the torch optimizer of that name.
    """

    def __init__(self, params: list[Tensor], weight_decay: Tensor) -> None:
        self.params, self.weight_decay, self.steps = params, weight_decay, 0

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor | None], lr: Tensor) -> None:
        """One step of every run with its learning rate, `(N,)`; tensors without a gradient stay as they are."""
        self.steps += 1
        for i, (p, g) in enumerate(zip(self.params, grads, strict=True)):
            if g is not None:
                self._update(i, p, g, _per_run(lr, p), _per_run(self.weight_decay, p))

    @abstractmethod
    def _update(self, i: int, p: Tensor, g: Tensor, lr: Tensor, decay: Tensor) -> None: ...


class AdamW(BatchedOptimizer):
    """`torch.optim.AdamW` with betas (0.9, 0.999) and epsilon 1e-8 (Loshchilov and Hutter 2019)."""

    def __init__(self, params: list[Tensor], weight_decay: Tensor) -> None:
        super().__init__(params, weight_decay)
        self._first = [torch.zeros_like(p) for p in params]
        self._second = [torch.zeros_like(p) for p in params]

    def _update(self, i: int, p: Tensor, g: Tensor, lr: Tensor, decay: Tensor) -> None:
        p.mul_(1 - lr * decay)
        m = self._first[i].lerp_(g, 0.1)
        v = self._second[i].mul_(0.999).addcmul_(g, g, value=0.001)
        scale = (v / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        p.sub_(lr / (1 - 0.9**self.steps) * m.div(scale))


class SGD(BatchedOptimizer):
    """`torch.optim.SGD` with momentum 0.9; weight decay is added to the gradient."""

    def __init__(self, params: list[Tensor], weight_decay: Tensor) -> None:
        super().__init__(params, weight_decay)
        self._momentum: list[Tensor | None] = [None] * len(params)

    def _update(self, i: int, p: Tensor, g: Tensor, lr: Tensor, decay: Tensor) -> None:
        g = g + decay * p
        buffer = self._momentum[i]
        buffer = self._momentum[i] = g if buffer is None else buffer.mul_(0.9).add_(g)
        p.sub_(lr * buffer)


def rate_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` log-spaced rates from `low` to `high`, to four digits."""
    return tuple(float(f"{r:.4g}") for r in torch.logspace(math.log10(low), math.log10(high), count).tolist())


@dataclass(frozen=True)
class Recipe:
    """An optimizer that runs are recorded of.

    Attributes:
        make: its batched form.
        rates: learning rates of the recorded grid.
        decays: weight decays of the recorded grid, torch's default first.
    """

    make: type[BatchedOptimizer]
    rates: tuple[float, ...]
    decays: tuple[float, ...]

    def finer(self, count: int) -> tuple[float, ...]:
        """`count` rates over the range of `rates`."""
        return rate_grid(self.rates[0], self.rates[-1], count)


RECIPES: dict[str, Recipe] = {
    "adamw": Recipe(AdamW, rate_grid(1e-5, 1.0, 13), (0.01, 0.3)),
    "sgd": Recipe(SGD, rate_grid(1e-4, 10.0, 13), (0.0, 1e-3)),
}
