"""Hyperparameter searches: tasks on one data set that differ in network and batch size, as trials of a study do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from learnopt.task import Batch, Task
from learnopt.tasks import package_data, photographs
from learnopt.tasks.convolution import cnn
from learnopt.tasks.draws import chance, log_integer, log_uniform, pick, torch_generator
from learnopt.tasks.networks import mlp
from learnopt.tasks.patterns import patterns
from learnopt.tasks.rows import MAX_VALIDATION_ROWS, Objective, RowTask, cross_entropy, split, squared_error
from learnopt.tasks.tables import GENERATORS, Table, standardised

T = TypeVar("T")

MEMBERS = 8
"""Networks of a search; `learnopt record` trains each with every optimizer, rate, schedule and weight decay."""
STEPS = (100, 2500)
MOST_TRAINING_ROWS = 1500
IMAGES = 0.2
"""Share of searches on images."""
BATCH_SIZES = (8, 128)


@dataclass
class _Draws:
    """Hyperparameters of one network, and where they lie in the search's space."""

    rng: np.random.Generator  # of the network
    space: np.random.Generator  # of the search: the same for all its networks
    settings: dict[str, float] = field(default_factory=dict)

    def number(self, name: str, low: float, high: float) -> int:
        """A whole number, log-uniform over what the search has chosen of `low..high`: all, a part or a single one."""
        ends = sorted(log_uniform(self.space, low, high) for _ in range(2))
        extent = pick(self.space, ["one", "part", "whole", "whole"])
        ends = {"one": [ends[0]] * 2, "part": ends, "whole": [low, high]}[extent]
        value = round(log_uniform(self.rng, *ends))
        self.settings[name] = math.log(max(1, value))
        return value

    def choice(self, name: str, options: list[T]) -> T:
        """One of two options that the search has chosen, which may be equal."""
        pair = pick(self.space, options), pick(self.space, options)
        which = int(self.rng.integers(2))
        self.settings[name] = float(which if pair[0] != pair[1] else 0)
        return pair[which]


def member(number: int, which: int) -> Task:
    """Task `which`, below `MEMBERS`, of search `number`; `study` names the search, `settings` tell its tasks apart."""
    space = np.random.default_rng([13, number])
    draws = _Draws(np.random.default_rng([13, number, which]), space)
    dataset, rows, objective, make = (_images if chance(space, IMAGES) else _table)(draws)
    total = len(rows[0])
    train_rows = min(MOST_TRAINING_ROWS, int(total * space.uniform(0.4, 0.8)))
    train, valid = split(rows, train_rows, torch_generator(space), MAX_VALIDATION_ROWS)
    epochs = log_uniform(space, 5, 100)
    batch = draws.number("batch_size", *BATCH_SIZES)
    task = RowTask(
        f"search-{number}-{which}", "search", dataset, steps=int(np.clip(epochs * train_rows / batch, *STEPS)),
        module=make, train=train, valid=valid, batch_size=batch, objective=objective,
    )  # fmt: skip
    task.study, task.settings = f"search-{number}", draws.settings
    return task


def makers(first: int, count: int) -> list[Callable[[], Task]]:
    """Makers of all tasks of `count` searches, search after search."""
    return [partial(member, i, j) for i in range(first, first + count) for j in range(MEMBERS)]


_Problem = tuple[str, Batch, Objective, Callable[[], nn.Module]]


def _table(draws: _Draws) -> _Problem:
    """A fully connected network on a real or generated table."""
    space = draws.space
    real = package_data.tables()
    table: Table = pick(space, list((real if real and chance(space, 0.6) else GENERATORS).values()))(
        space, log_integer(space, 200, 2500)
    )
    features = standardised(table.features.numpy())
    objective, outputs = squared_error, table.target.shape[-1]
    if table.target.dtype == torch.int64:
        objective, outputs = cross_entropy, int(table.target.max()) + 1
    width, depth = draws.number("width", 8, 192), draws.number("depth", 1, 4)
    activation = draws.choice("activation", ["relu", "relu", "relu", "tanh", "gelu"])
    norm = draws.choice("norm", ["none", "none", "none", "layer", "batch"])
    dropout = draws.choice("dropout", [0.0, 0.0, 0.2, 0.5])
    sizes = [features.shape[1], *[width] * depth, outputs]
    return table.dataset, (features, table.target), objective, partial(mlp, sizes, activation, norm, dropout)


def _images(draws: _Draws) -> _Problem:
    """A convolutional network on generated patterns or patches of photographs."""
    space = draws.space
    dataset, draw = "gen:patterns", patterns
    if photographs.available() and chance(space, 0.5):
        dataset, draw = photographs.DATASET, photographs.patches
    classes, size = int(space.integers(2, 11)), 8
    rows = draw(space, log_integer(space, 300, 2500), size, 1, classes)
    widths = [1, draws.number("first", 4, 12), draws.number("second", 4, 24)]
    make = partial(
        cnn, widths, size, classes, activation=draws.choice("activation", ["relu", "gelu", "tanh"]),
        norm=draws.choice("norm", ["none", "batch", "group"]), dropout=draws.choice("dropout", [0.0, 0.0, 0.3]),
        hidden=draws.choice("hidden", [0, 0, 32]),
    )  # fmt: skip
    return dataset, rows, cross_entropy, make


__all__ = ["MEMBERS", "makers", "member"]
