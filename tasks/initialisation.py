"""Initialisation schemes users choose, applied to a fresh model; they draw from the generator `build` seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from learnopt.tasks.draws import log_uniform, weighted


def _matrices(model: nn.Module) -> list[Tensor]:
    """Weights of linear and convolution layers."""
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _zero_biases(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _as_torch(model: nn.Module, factor: float) -> None:
    """torch's defaults, untouched."""


def _each(fill: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, float], None]:
    def apply(model: nn.Module, factor: float) -> None:
        for weight in _matrices(model):
            fill(weight)
        _zero_biases(model)

    return apply


def _scaled(model: nn.Module, factor: float) -> None:
    """torch's defaults times `factor`."""
    with torch.no_grad():
        for weight in _matrices(model):
            weight.mul_(factor)


def _normal(model: nn.Module, factor: float) -> None:
    """GPT-2's N(0, 0.02) for matrices and embeddings, zero biases."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Embedding | nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.02)
    _zero_biases(model)


def _zero_last(model: nn.Module, factor: float) -> None:
    """The last linear layer starts at zero, the others as torch has them."""
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:]
    for layer in last:
        nn.init.zeros_(layer.weight)


def _lecun(weight: Tensor) -> Tensor:
    return nn.init.normal_(weight, std=1.0 / math.sqrt(weight[0].numel()))


SCHEMES: dict[str, Callable[[nn.Module, float], None]] = {
    "torch": _as_torch,
    "xavier": _each(nn.init.xavier_uniform_),
    "kaiming": _each(lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")),
    "orthogonal": _each(nn.init.orthogonal_),
    "lecun": _each(_lecun),
    "scaled": _scaled,
    "normal": _normal,
    "zero-last": _zero_last,
}
FREQUENCY = {
    "torch": 0.5,
    "xavier": 0.1,
    "kaiming": 0.08,
    "orthogonal": 0.06,
    "lecun": 0.06,
    "scaled": 0.1,
    "normal": 0.04,
    "zero-last": 0.06,
}


class Initialised:
    """Makes a model, then applies a scheme: a picklable argument for `RowTask(module=...)`."""

    def __init__(self, make: Callable[[], nn.Module], scheme: str, factor: float = 1.0) -> None:
        self.make, self.scheme, self.factor = make, scheme, factor

    def __call__(self) -> nn.Module:
        model = self.make()
        SCHEMES[self.scheme](model, self.factor)
        return model


def drawn(rng: np.random.Generator, make: Callable[[], nn.Module]) -> Initialised:
    """`make` with a random initialisation scheme; torch's defaults in half of the draws."""
    return Initialised(make, weighted(rng, FREQUENCY), log_uniform(rng, 0.2, 3.0))
