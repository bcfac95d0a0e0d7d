"""Autoencoders and variational autoencoders for meta-training, on generated patterns and low-dimensional manifolds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt.task import Batch, Task, TaskFamily
from learnopt.tasks import photographs
from learnopt.tasks.draws import chance, log_integer, log_uniform, pick, torch_generator
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.networks import mlp
from learnopt.tasks.patterns import patterns
from learnopt.tasks.rows import Objective, RowTask, split, squared_error
from learnopt.tasks.tabular import autoencoder, horizon


class Vae(nn.Module):
    """`(B, columns)` to `[reconstruction, mean, log-variance]` side by side; evaluation decodes the mean."""

    def __init__(self, columns: int, hidden: int, code: int, activation: str = "relu") -> None:
        super().__init__()
        self.encoder = mlp([columns, hidden, 2 * code], activation)
        self.decoder = mlp([code, hidden, columns], activation)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean) if self.training else mean
        return torch.cat([self.decoder(code), mean, log_variance], -1)


def _parts(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """`(reconstruction, KL per row)`."""
    columns = batch[1].shape[-1]
    mean, log_variance = output[..., columns:].chunk(2, -1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    return output[..., :columns], divergence


def bernoulli_bound(output: Tensor, batch: Batch) -> Tensor:
    """Negative evidence bound in nats a row, for pixels in 0..1."""
    reconstruction, divergence = _parts(output, batch)
    return (F.binary_cross_entropy_with_logits(reconstruction, batch[1], reduction="none").sum(-1) + divergence).mean()


def gaussian_bound(output: Tensor, batch: Batch, beta: float = 0.1) -> Tensor:
    """Squared error a column plus `beta` times the divergence a column."""
    reconstruction, divergence = _parts(output, batch)
    return F.mse_loss(reconstruction, batch[1]) + beta * divergence.mean() / batch[1].shape[-1]


def manifold(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    """Points of a curved few-dimensional surface with noise, standardised, `(rows, columns)`."""
    latent = rng.standard_normal((rows, int(rng.integers(1, 6))))
    hidden = np.tanh(latent @ rng.standard_normal((latent.shape[1], 16)) * log_uniform(rng, 0.3, 2))
    x = hidden @ rng.standard_normal((16, columns)) / 4 + rng.uniform(0, 0.3) * rng.standard_normal((rows, columns))
    return torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)


class AutoencodingFamily(TaskFamily):
    """Autoencoders, denoising ones, and VAEs."""

    name = "autoencoding"

    def __init__(self) -> None:
        own = ["gen:patterns", "gen:manifold"]
        self.datasets = frozenset([*own, photographs.DATASET] if photographs.available() else own)

    def sample(self, rng: np.random.Generator) -> Task:
        train_rows = log_integer(rng, 150, 4000)
        if chance(rng, 0.5):
            dataset, draw = "gen:patterns", patterns
            if photographs.DATASET in self.datasets and chance(rng, 0.5):
                dataset, draw = photographs.DATASET, photographs.patches
            x = draw(rng, train_rows + 256, pick(rng, [6, 8]), 1, int(rng.integers(2, 9)))[0].flatten(1)
            train_rows = min(train_rows, len(x) - 256)
        else:
            dataset, x = "gen:manifold", manifold(rng, train_rows + 256, log_integer(rng, 6, 48))
        kind, rows, make, objective = self._network(rng, x)
        train, valid = split(rows, train_rows, torch_generator(rng), 256)
        return RowTask(
            f"{kind}-{int(rng.integers(10**9))}",
            kind,
            dataset,
            steps=horizon(rng),
            module=drawn(rng, make),
            train=train,
            valid=valid,
            batch_size=log_integer(rng, 8, 128),
            objective=objective,
        )

    def _network(self, rng: np.random.Generator, x: Tensor) -> tuple[str, Batch, Callable[[], nn.Module], Objective]:
        columns, activation = x.shape[1], pick(rng, ["relu", "tanh", "gelu", "silu"])
        if chance(rng, 0.5):
            noise = pick(rng, [0.0, 0.0, 0.3])
            noisy = x + noise * torch.randn(x.shape, generator=torch_generator(rng))
            return "autoencoder", (noisy, x), partial(autoencoder(rng, columns)), squared_error
        make = partial(Vae, columns, log_integer(rng, 12, 96), int(rng.integers(2, 9)), activation)
        if chance(rng, 0.5):
            pixels = torch.sigmoid(2 * x)
            return "vae", (pixels, pixels), make, bernoulli_bound
        return "vae", (x, x), make, partial(gaussian_bound, beta=log_uniform(rng, 0.01, 1))
