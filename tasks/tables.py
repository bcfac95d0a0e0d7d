"""Generated tables for meta-training: teacher networks, mixtures, piecewise constant and smooth random functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learnopt.tasks.draws import chance, log_integer, log_uniform, pick


class Table(NamedTuple):
    """Features `(rows, columns)` float32; target `(rows,)` int64 classes, or `(rows, outputs)` float32."""

    dataset: str
    features: Tensor
    target: Tensor


def standardised(x: np.ndarray) -> Tensor:
    """Columns with mean 0 and deviation 1 (constant columns stay 0), float32."""
    x = np.asarray(x, dtype=np.float64)
    return torch.tensor((x - x.mean(0)) / (x.std(0) + 1e-8), dtype=torch.float32)


def from_arrays(dataset: str, x: np.ndarray, y: np.ndarray) -> Table:
    """A table from arrays; integer `y` means classes, float `y` regression (one column when 1-d), standardised."""
    features = torch.tensor(np.asarray(x), dtype=torch.float32)
    if np.issubdtype(y.dtype, np.integer):
        return Table(dataset, features, torch.tensor(np.unique(y, return_inverse=True)[1], dtype=torch.int64))
    return Table(dataset, features, standardised(y.reshape(len(y), -1)))


def _inputs(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Correlated or independent, sometimes heavy-tailed inputs with a decaying spectrum."""
    columns = log_integer(rng, 2, 40)
    x = rng.standard_normal((rows, columns))
    if chance(rng, 0.3):
        x = rng.standard_t(3, (rows, columns)).clip(-10, 10)
    x = x * np.logspace(0, -rng.uniform(0, 1.5), columns)
    if chance(rng, 0.5):
        x = x @ np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    return x


def _labels(rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Classes by the largest of noisy scores: `(rows, classes) -> (rows,)`."""
    scores = (scores - scores.mean(0)) / (scores.std(0) + 1e-8)
    noise = pick(rng, [0.0, 0.0, 0.1, 0.3, 1.0])
    return (scores + noise * rng.standard_normal(scores.shape)).argmax(1)


def _outcome(rng: np.random.Generator, dataset: str, x: np.ndarray, scores: np.ndarray) -> Table:
    """Classes from the scores, or the first few scores as noisy regression targets."""
    if chance(rng, 0.6):
        return from_arrays(dataset, x, _labels(rng, scores))
    y = scores[:, : int(rng.integers(1, 4))]
    y = y / (y.std(0) + 1e-8)
    if chance(rng, 0.2):
        y = np.sinh(1.5 * y.clip(-4, 4))
    noise = rng.standard_normal(y.shape) if chance(rng, 0.7) else rng.standard_t(2.5, y.shape).clip(-20, 20)
    return from_arrays(dataset, x, y + y.std(0) * pick(rng, [0.0, 0.0, 0.05, 0.2, 0.5, 1.0]) * noise)


def _outputs(rng: np.random.Generator) -> int:
    return pick(rng, [2, 2, 3, 4, 5, 6, 8, 10, 12])


def teacher(rng: np.random.Generator, rows: int) -> Table:
    """A random network of one or two tanh layers labels the inputs."""
    x = _inputs(rng, rows)
    hidden = x
    for _ in range(int(rng.integers(1, 3))):
        weight = rng.standard_normal((hidden.shape[1], 16)) / np.sqrt(hidden.shape[1])
        hidden = np.tanh(hidden @ weight * log_uniform(rng, 0.7, 4) + 0.3 * rng.standard_normal(16))
    return _outcome(rng, "gen:teacher", x, hidden @ rng.standard_normal((16, _outputs(rng))))


def mixture(rng: np.random.Generator, rows: int) -> Table:
    """Classes made of one to four overlapping Gaussians each; unequal class sizes in half of the draws."""
    columns, classes, parts = log_integer(rng, 2, 32), _outputs(rng), int(rng.integers(1, 5))
    spread = log_uniform(rng, 0.15, 2.0)
    share = rng.dirichlet(np.full(classes, 20.0 if chance(rng, 0.5) else 1.0))
    label = rng.choice(classes, size=rows, p=share)
    centre = rng.standard_normal((classes, parts, columns)) * np.sqrt(2 / columns) * log_uniform(rng, 1, 3)
    x = centre[label, rng.integers(parts, size=rows)] + spread * rng.standard_normal((rows, columns)) / np.sqrt(2)
    return from_arrays("gen:mixture", x, label)


def piecewise(rng: np.random.Generator, rows: int) -> Table:
    """Sums of random decision trees: piecewise constant along axes, the targets neural networks find hard."""
    x = _inputs(rng, rows)
    scores = np.zeros((rows, _outputs(rng)))
    for _ in range(int(rng.integers(2, 12))):
        depth = int(rng.integers(1, 5))
        feature = rng.integers(x.shape[1], size=depth)
        threshold = np.array([np.quantile(x[:, f], rng.uniform(0.2, 0.8)) for f in feature])
        leaf = (x[:, feature] > threshold) @ (2 ** np.arange(depth))
        scores += rng.standard_normal((2**depth, scores.shape[1]))[leaf]
    return _outcome(rng, "gen:piecewise", x, scores)


def functions(rng: np.random.Generator, rows: int) -> Table:
    """Random features: sums of sines, squares and products of random projections."""
    x = _inputs(rng, rows)
    projection = x @ rng.standard_normal((x.shape[1], 24)) / np.sqrt(x.shape[1])
    frequency = log_uniform(rng, 0.3, 3)
    columns = [
        np.sin(frequency * projection[:, :8] * 2),
        projection[:, 8:16] ** 2,
        projection[:, 16:] * projection[:, :8],
    ]
    features = np.concatenate(columns, 1) * rng.exponential(size=24)
    return _outcome(rng, "gen:functions", x, features @ rng.standard_normal((24, _outputs(rng))))


def sparse_linear(rng: np.random.Generator, rows: int) -> Table:
    """A linear model of few of many features."""
    x = _inputs(rng, rows)
    weight = rng.standard_normal((x.shape[1], _outputs(rng))) * (rng.random((x.shape[1], 1)) < 0.4)
    weight[0] += 0.5
    return _outcome(rng, "gen:sparse-linear", x, x @ weight)


GENERATORS: dict[str, Callable[[np.random.Generator, int], Table]] = {
    "gen:teacher": teacher,
    "gen:mixture": mixture,
    "gen:piecewise": piecewise,
    "gen:functions": functions,
    "gen:sparse-linear": sparse_linear,
}
