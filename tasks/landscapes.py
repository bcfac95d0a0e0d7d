"""Analytic landscapes for meta-training: stochastic quadratics, Rosenbrock's valley, mixture densities."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from learnopt.task import Batch, Task, TaskFamily
from learnopt.tasks.draws import chance, log_integer, log_uniform, pick, torch_generator
from learnopt.tasks.networks import mlp
from learnopt.tasks.rows import RowTask, mean_square, split
from learnopt.tasks.tabular import horizon


class Quadratic(nn.Module):
    """Residuals `(w - x) A` of a point `w`, in one or several tensors, against noisy targets `x` `(B, n)`."""

    def __init__(self, transform: Tensor, start: float, parts: int) -> None:
        super().__init__()
        self.register_buffer("transform", transform)
        pieces = (torch.randn(transform.shape[0]) * start).chunk(parts)
        self.point = nn.ParameterList(nn.Parameter(piece.clone()) for piece in pieces)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.cat(list(self.point), -1) - x) @ self.get_buffer("transform")


class Rosenbrock(nn.Module):
    """Residuals of Rosenbrock's function with a noisy valley: `sqrt(steepness) (b - a^2) + noise` and `1 - a`."""

    def __init__(self, size: int, steepness: float, start: float) -> None:
        super().__init__()
        self.root = math.sqrt(steepness)
        self.point = nn.Parameter(torch.randn(size) * start)

    def forward(self, noise: Tensor) -> Tensor:
        a, b = self.point[:-1], self.point[1:]
        return torch.cat([self.root * (b - a.square()) + noise, (1 - a).expand_as(noise)], -1)


class MixtureDensity(nn.Module):
    """`(B, 1 + columns)`, the target beside its inputs, to the log-densities of a mixture's parts `(B, parts)`."""

    def __init__(self, columns: int, width: int, parts: int) -> None:
        super().__init__()
        self.network = mlp([columns, width, 3 * parts], "tanh")

    def forward(self, x: Tensor) -> Tensor:
        weight, mean, log_deviation = self.network(x[..., 1:]).chunk(3, -1)
        log_deviation = 4 * torch.tanh(log_deviation / 4)
        z = (x[..., :1] - mean) * torch.exp(-log_deviation)
        return torch.log_softmax(weight, -1) - 0.5 * z.square() - log_deviation - 0.5 * math.log(2 * math.pi)


def softplus_likelihood(output: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood through softplus, so that the loss stays positive where the density exceeds 1."""
    return torch.nn.functional.softplus(-torch.logsumexp(output, -1)).mean()


class LandscapeFamily(TaskFamily):
    """Problems whose difficulty is the landscape, not the data."""

    name = "landscape"
    datasets = frozenset(["gen:quadratic", "gen:rosenbrock", "gen:branches"])

    def sample(self, rng: np.random.Generator) -> Task:
        draw = pick(rng, [self._quadratic, self._quadratic, self._rosenbrock, self._branches])
        kind, dataset, make, x, objective = draw(rng)
        train, valid = split((x, x), len(x) - 128, torch_generator(rng))
        return RowTask(
            f"{kind}-{int(rng.integers(10**9))}",
            kind,
            dataset,
            steps=horizon(rng),
            module=make,
            train=train,
            valid=valid,
            batch_size=log_integer(rng, 8, 64),
            objective=objective,
        )

    def _quadratic(self, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        size, condition = log_integer(rng, 4, 64), log_uniform(rng, 1, 1e4)
        curvature = np.sqrt(np.logspace(0, -np.log10(condition), size)) * log_uniform(rng, 0.3, 10)
        rotation = np.linalg.qr(rng.standard_normal((size, size)))[0] if chance(rng, 0.5) else np.eye(size)
        transform = torch.tensor(rotation * curvature / np.sqrt(size), dtype=torch.float32)
        noise = pick(rng, [0.01, 0.1, 0.3, 1.0])
        x = rng.standard_normal(size) + noise * rng.standard_normal((log_integer(rng, 64, 1000) + 128, size))
        make = partial(Quadratic, transform, pick(rng, [0.0, 0.1, 1.0, 1.0]), int(rng.integers(1, 4)))
        return "quadratic", "gen:quadratic", make, torch.tensor(x, dtype=torch.float32), mean_square

    def _rosenbrock(self, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        size = log_integer(rng, 2, 24)
        noise = rng.standard_normal((log_integer(rng, 64, 1000) + 128, size - 1)) * pick(rng, [0.01, 0.1, 0.5])
        make = partial(Rosenbrock, size, log_uniform(rng, 3, 100), pick(rng, [0.3, 1.0]))
        return "rosenbrock", "gen:rosenbrock", make, torch.tensor(noise, dtype=torch.float32), mean_square

    def _branches(self, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        columns, rows = int(rng.integers(1, 4)), log_integer(rng, 64, 1500) + 128
        x = rng.uniform(-1, 1, (rows, columns))
        side = rng.choice([-1, 1], size=rows) * rng.uniform(0.3, 1.5)
        y = side * (1 + np.sin(x @ rng.standard_normal(columns) * 3)) + rng.uniform(0.05, 0.4) * rng.standard_normal(
            rows
        )
        make = partial(MixtureDensity, columns, log_integer(rng, 8, 32), int(rng.integers(2, 6)))
        data = torch.tensor(np.concatenate([y[:, None], x], 1), dtype=torch.float32)
        return "mixture-density", "gen:branches", make, data, softplus_likelihood
