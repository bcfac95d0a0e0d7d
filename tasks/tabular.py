"""Tabular families for meta-training: classification, regression and autoencoding of tables by fully connected nets."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from sklearn import datasets as sk
from torch import Tensor, nn

from learnopt.task import Batch, Task, TaskFamily
from learnopt.tasks import data_folder, package_data
from learnopt.tasks.draws import chance, log_integer, log_uniform, pick, torch_generator, weighted
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.networks import ACTIVATIONS, mlp, residual_mlp
from learnopt.tasks.rows import (
    ACCURACY,
    Objective,
    RowTask,
    absolute_error,
    binary_cross_entropy,
    cross_entropy,
    huber,
    smoothed_cross_entropy,
    split,
    squared_error,
)
from learnopt.tasks.tables import GENERATORS, Table, from_arrays

FOLDER_TABLES = ("csv:phoneme", "csv:mammography", "csv:sonar", "csv:pollution")
VALIDATION_ROWS = 256
SMALL = 0.25
"""Share of the generated tables that are small enough to be memorised."""


@lru_cache(maxsize=4)
def _sklearn(name: str) -> Table:
    bunch = getattr(sk, f"load_{name}")()
    return from_arrays(f"sklearn:{name}", bunch.data, bunch.target)


def random_mlp(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[str, Callable[[], nn.Module]]:
    """`(kind, make)` of a random fully connected network: linear, plain, deep and narrow, or residual."""
    kind = weighted(rng, {"linear": 0.35, "mlp": 0.4, "deep-mlp": 0.11, "residual-mlp": 0.14})
    activation = pick(rng, [*ACTIVATIONS, "relu", "relu", "tanh", "gelu"])
    norm = pick(rng, ["none", "none", "none", "layer", "batch"])
    dropout = pick(rng, [0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.5])
    width = log_integer(rng, 8, 192)
    if kind == "linear":
        return kind, partial(mlp, [inputs, outputs])
    if kind == "deep-mlp":
        sizes = [inputs, *[min(width, 48)] * int(rng.integers(5, 10)), outputs]
        return kind, partial(mlp, sizes, pick(rng, ["tanh", "relu", "gelu"]), pick(rng, ["none", "none", "layer"]))
    if kind == "residual-mlp":
        blocks, zero = int(rng.integers(1, 4)), chance(rng, 0.3)
        return kind, partial(residual_mlp, inputs, min(width, 80), outputs, blocks, activation, norm, zero)
    depth = pick(rng, [1, 1, 2, 2, 3, 4])
    width = min(width, 96) if depth > 2 else width
    return kind, partial(mlp, [inputs, *[width] * depth, outputs], activation, norm, dropout)


def autoencoder(rng: np.random.Generator, columns: int) -> Callable[[], nn.Module]:
    """A random symmetric autoencoder with a bottleneck below the number of columns."""
    width, code = log_integer(rng, 8, 128), log_integer(rng, 2, max(2, columns // 2))
    sizes = [columns, *([width] if chance(rng, 0.7) else []), code]
    return partial(mlp, sizes + sizes[-2::-1], pick(rng, ["relu", "tanh", "gelu", "silu"]))


def training_rows(rng: np.random.Generator, total: int) -> int:
    """How many of `total` rows to train on: 60 to 80 %, as people split, or log-uniform from 40 rows: few rows are the
    danger to learn about."""
    if chance(rng, 0.6):
        return max(2, int(total * rng.uniform(0.6, 0.8)))
    high = max(2, int(0.75 * total))
    return log_integer(rng, min(40, high), high)


def columns_rescaled(rng: np.random.Generator, x: Tensor) -> Tensor:
    """Standardised columns; in 40 % of the draws with scales of 0.01 to 300 and offsets, as raw data has them."""
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    if chance(rng, 0.6):
        return x
    scale = torch.tensor(np.exp(rng.normal(0, 1.5, x.shape[1])).clip(0.01, 300), dtype=torch.float32)
    offset = torch.tensor(rng.normal(0, 1, x.shape[1]) * (rng.random(x.shape[1]) < 0.4), dtype=torch.float32)
    return (x + offset) * scale


def target_of(rng: np.random.Generator, target: Tensor) -> tuple[Tensor, int, Objective]:
    """`(target, outputs, objective)`; classes get label noise, regression targets a scale and offset, in a share."""
    if target.dtype != torch.int64:
        if chance(rng, 0.4):
            target = target * log_uniform(rng, 0.1, 20.0) + (log_uniform(rng, 0.1, 10.0) if chance(rng, 0.3) else 0.0)
        return target, target.shape[1], pick(rng, [squared_error, squared_error, squared_error, huber, absolute_error])
    classes = max(2, int(target.max()) + 1)
    if chance(rng, 0.15):
        flip = torch.tensor(rng.random(len(target)) < rng.uniform(0, 0.4))
        target = torch.where(flip, torch.tensor(rng.integers(classes, size=len(target))), target)
    if classes == 2 and chance(rng, 0.5):
        return target, 1, binary_cross_entropy
    return target, classes, smoothed_cross_entropy if chance(rng, 0.1) else cross_entropy


def horizon(rng: np.random.Generator) -> int:
    """Declared budget of a meta-training task in steps."""
    return log_integer(rng, 100, 2000)


class TableFamily(TaskFamily):
    """Fully connected networks on the tables that `sources` draw: `name -> (rng, rows) -> Table`."""

    def __init__(self, name: str, sources: dict[str, Callable[[np.random.Generator, int], Table]]) -> None:
        self.name, self.sources = name, sources
        self.datasets = frozenset(sources)

    def sample(self, rng: np.random.Generator) -> Task:
        train_rows = log_integer(rng, *((32, 300) if chance(rng, SMALL) else (150, 5000)))
        table = pick(rng, list(self.sources.values()))(rng, train_rows + VALIDATION_ROWS)
        total = len(table.features)
        if total != train_rows + VALIDATION_ROWS:
            train_rows = training_rows(rng, total)
        features = columns_rescaled(rng, table.features)
        rows: Batch
        objective: Objective
        if chance(rng, 0.12):
            features = (features - features.mean(0)) / (features.std(0) + 1e-6)
            kind, make, rows, objective = (
                "autoencoder",
                autoencoder(rng, features.shape[1]),
                (features,) * 2,
                squared_error,
            )
        else:
            target, outputs, objective = target_of(rng, table.target)
            rows = (features, target)
            kind, make = random_mlp(rng, features.shape[1], outputs)
        train, valid = split(rows, train_rows, torch_generator(rng), VALIDATION_ROWS)
        return RowTask(
            f"{self.name}-{kind}-{int(rng.integers(10**9))}",
            kind,
            table.dataset,
            steps=horizon(rng),
            module=drawn(rng, make),
            train=train,
            valid=valid,
            batch_size=log_integer(rng, 8, 128),
            objective=objective,
            metric=ACCURACY if objective in (cross_entropy, smoothed_cross_entropy) else None,
        )


def _fixed(load: Callable[[], Table]) -> Callable[[np.random.Generator, int], Table]:
    return lambda rng, rows: load()


def generated_tables() -> TaskFamily:
    """Tables from generators."""
    return TableFamily("table", GENERATORS)


def real_tables() -> TaskFamily:
    """Small real tables, more of them where the data folder or packages with data are there."""
    sources = {f"sklearn:{name}": _fixed(partial(_sklearn, name)) for name in ("wine", "linnerud")}
    sources |= {name: _fixed(partial(data_folder.table, name)) for name in data_folder.table_names(*FOLDER_TABLES)}
    sources |= package_data.tables()
    return TableFamily("real-table", sources)
