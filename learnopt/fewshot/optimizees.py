"""What the L2L paper trains: random quadratics, and a small network on scikit-learn's digits."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from learnopt.fewshot.episode import generator
from learnopt.fewshot.rules import Params

ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


class Problems(Protocol):
    """A distribution of training problems for learned optimizers."""

    def start(self, seed: int, count: int) -> Params:
        """Initial parameters of `count` problems, stacked: a function of the arguments alone."""

    def batches(self, seed: int, count: int, first: int, steps: int) -> Any:
        """Batches of steps `first` to `first + steps` of the same problems: a tree of `(count, steps, ...)` tensors."""

    def loss(self, params: Params, batch: Any) -> Tensor:
        """Loss of one problem on one batch, shape `()`."""

    def describe(self) -> str:
        """One line that defines the distribution."""


class Quadratics:
    """`|W x - y|^2` with `W` and `y` standard normal and `x` starting at the same (Andrychowicz et al. 2016, 3.1).

    Args:
        size: numbers to find.
    """

    def __init__(self, size: int = 10) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size

    def start(self, seed: int, count: int) -> Params:
        return {"x": torch.randn(count, self.size, generator=generator("quadratic start", seed))}

    def batches(self, seed: int, count: int, first: int, steps: int) -> tuple[Tensor, Tensor]:
        g, n = generator("quadratic", seed), self.size
        w, y = torch.randn(count, 1, n, n, generator=g), torch.randn(count, 1, n, generator=g)
        return w.expand(-1, steps, -1, -1), y.expand(-1, steps, -1)

    def loss(self, params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        w, y = batch
        return (w @ params["x"] - y).square().sum()

    def describe(self) -> str:
        return f"quadratics of {self.size} numbers"


class DigitsMLP:
    """Cross-entropy of a network with one hidden layer on batches of scikit-learn's digits, 8 x 8 pixels.

    Args:
        hidden: units of the hidden layer.
        activation: sigmoid, relu or tanh.
        batch: images per step.
    """

    def __init__(self, hidden: int = 20, activation: str = "sigmoid", batch: int = 128) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        for what, value in (("hidden", hidden), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{what} must be at least 1, got {value}")
        self.hidden, self.activation, self.batch = hidden, activation, batch

    def start(self, seed: int, count: int) -> Params:
        g, sizes = generator("digits start", seed), (64, self.hidden, 10)
        params: Params = {}
        for i, (n, m) in enumerate(pairwise(sizes)):
            params[f"w{i}"] = (torch.rand(count, n, m, generator=g) * 2 - 1) * n**-0.5
            params[f"b{i}"] = torch.zeros(count, m)
        return params

    def batches(self, seed: int, count: int, first: int, steps: int) -> tuple[Tensor, Tensor]:
        x, y = _digits()
        rows = torch.stack([
            torch.randint(len(x), (count, self.batch), generator=generator("digits batch", seed, first + i))
            for i in range(steps)
        ], 1)  # fmt: skip
        return x[rows], y[rows]

    def loss(self, params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        hidden = ACTIVATIONS[self.activation](x @ params["w0"] + params["b0"])
        return F.cross_entropy(hidden @ params["w1"] + params["b1"], y)

    def describe(self) -> str:
        return f"digits, {self.hidden} {self.activation} units, batches of {self.batch}"


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
