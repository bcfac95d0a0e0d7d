"""Coordinate networks for meta-training: fit a generated image or field from positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from learnopt.task import Task, TaskFamily
from learnopt.tasks import photographs
from learnopt.tasks.draws import chance, log_integer, log_uniform, pick, torch_generator
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.networks import Sine, mlp
from learnopt.tasks.rows import RowTask, split, squared_error
from learnopt.tasks.tabular import horizon


class Fourier(nn.Module):
    """Fixed random features `[sin(2 pi B x), cos(2 pi B x)]`. Source: Tancik et al. 2020."""

    def __init__(self, inputs: int, features: int, bandwidth: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(inputs, features) * bandwidth * 2 * math.pi)

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.get_buffer("frequencies")
        return torch.cat([torch.sin(z), torch.cos(z)], -1)


def siren(inputs: int, width: int, depth: int, outputs: int, frequency: float) -> nn.Sequential:
    """Sine layers with their own initialisation. Source: Sitzmann et al. 2020, section 3.2."""
    layers: list[nn.Module] = []
    fan_in = inputs
    for i in range(depth):
        linear = nn.Linear(fan_in, width)
        bound = 1 / inputs if i == 0 else math.sqrt(6 / width) / frequency
        nn.init.uniform_(linear.weight, -bound, bound)
        layers += [linear, Sine(frequency)]
        fan_in = width
    head = nn.Linear(fan_in, outputs)
    nn.init.uniform_(head.weight, -math.sqrt(6 / width) / frequency, math.sqrt(6 / width) / frequency)
    return nn.Sequential(*layers, head)


def fourier_network(
    inputs: int, features: int, width: int, depth: int, outputs: int, bandwidth: float
) -> nn.Sequential:
    """Fourier features, then a ReLU network."""
    return nn.Sequential(Fourier(inputs, features, bandwidth), mlp([2 * features, *[width] * depth, outputs]))


def field(rng: np.random.Generator, points: Tensor, outputs: int) -> Tensor:
    """A random field over `(n, d)` points in -1..1: waves of a random spectrum, half of the draws with a sharp edge."""
    x = points.numpy().astype(np.float64)
    waves = log_integer(rng, 3, 80)
    spread = log_uniform(rng, 0.7, 6.0) * np.exp(rng.uniform(0, 1.5) * rng.standard_normal(waves)).clip(0.1, 4)
    frequency = rng.standard_normal((x.shape[1], waves)) * spread
    amplitude = rng.standard_normal((waves, outputs)) / (1 + np.linalg.norm(frequency, axis=0)[:, None])
    value = np.sin(x @ frequency + rng.uniform(0, 2 * np.pi, waves)) @ amplitude
    if rng.random() < 0.5:
        side = (x @ rng.standard_normal(x.shape[1]) > rng.normal(0, 0.3))[:, None]
        value = value + side * rng.standard_normal(outputs) * value.std()
    value = (value - value.mean(0)) / (value.std() + 1e-8) * 0.5
    return torch.tensor(
        value + pick(rng, [0.0, 0.0, 0.0, 0.05, 0.2]) * rng.standard_normal(value.shape), dtype=torch.float32
    )


class CoordinateFamily(TaskFamily):
    """Siren, Fourier-feature, tanh, GELU and ReLU networks on random fields of 1 to 3 dimensions, or on squares of
    photographs where there are any."""

    name = "coordinates"

    def __init__(self) -> None:
        self.datasets = frozenset(["gen:fields", *([photographs.DATASET] if photographs.available() else [])])

    def sample(self, rng: np.random.Generator) -> Task:
        inputs, outputs = pick(rng, [1, 2, 2, 2, 3]), pick(rng, [1, 1, 3])
        if photographs.DATASET in self.datasets and chance(rng, 0.5):
            dataset, inputs = photographs.DATASET, 2
            rows = photographs.view(rng, log_integer(rng, 20, 64), outputs)
            train_rows = int(len(rows[0]) * rng.uniform(0.5, 0.85))
        else:
            dataset, train_rows = "gen:fields", log_integer(rng, 200, 4000)
            points = torch.rand(train_rows + 256, inputs, generator=torch_generator(rng)) * 2 - 1
            rows = points, field(rng, points, outputs)
        kind, make = self._network(rng, inputs, outputs)
        train, valid = split(rows, train_rows, torch_generator(rng))
        return RowTask(
            f"coordinates-{kind}-{int(rng.integers(10**9))}",
            kind,
            dataset,
            steps=horizon(rng),
            module=make,
            train=train,
            valid=valid,
            batch_size=log_integer(rng, 16, 192),
            objective=squared_error,
        )

    def _network(self, rng: np.random.Generator, inputs: int, outputs: int) -> tuple[str, Callable[[], nn.Module]]:
        width, depth = log_integer(rng, 12, 80), int(rng.integers(1, 4))
        kind = pick(rng, ["siren", "siren", "siren", "fourier-net", "fourier-net", "coordinate-mlp"])
        if kind == "siren":
            return kind, partial(siren, inputs, width, depth, outputs, log_uniform(rng, 3, 40))
        if kind == "fourier-net":
            return kind, partial(
                fourier_network, inputs, pick(rng, [8, 16]), width, depth, outputs, log_uniform(rng, 0.2, 3)
            )
        body = partial(mlp, [inputs, *[width] * depth, outputs], pick(rng, ["tanh", "relu", "gelu", "sine"]))
        return kind, partial(drawn(rng, body))
