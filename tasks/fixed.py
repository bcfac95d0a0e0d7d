"""Fixed tasks: a data set's rows split once, the same for every task that uses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from learnopt.task import Batch, Task, seed_of
from learnopt.tasks.rows import ACCURACY, Objective, RowTask, cross_entropy, split

# Makes a task when called, so that listing a suite's names loads no data.
TaskMaker = Callable[[], Task]


def fixed_split(dataset: str, rows: Batch, train_rows: int, limit: int) -> list[Batch]:
    """`[train, valid]`, a function of the data set's name and the sizes alone."""
    return split(rows, train_rows, torch.Generator().manual_seed(seed_of("split", dataset)), limit)


def fixed_task(
    name: str,
    kind: str,
    dataset: str,
    rows: Batch,
    module: Callable[[], nn.Module],
    *,
    train_rows: int,
    steps: int,
    objective: Objective,
    batch_size: int = 32,
    valid_rows: int = 500,
) -> RowTask:
    """A task on a fixed random split; accuracy is the metric where cross-entropy is the objective."""
    train, valid = fixed_split(dataset, rows, train_rows, valid_rows)
    return given_split(
        name, kind, dataset, train, valid, module, steps=steps, objective=objective, batch_size=batch_size
    )


def given_split(
    name: str,
    kind: str,
    dataset: str,
    train: Batch,
    valid: Batch,
    module: Callable[[], nn.Module],
    *,
    steps: int,
    objective: Objective,
    batch_size: int = 32,
    fingerprint: str = "",
) -> RowTask:
    """A task whose rows were split by other means than at random."""
    return RowTask(
        name,
        kind,
        dataset,
        steps=steps,
        module=module,
        train=train,
        valid=valid,
        batch_size=batch_size,
        objective=objective,
        metric=ACCURACY if objective is cross_entropy else None,
        fingerprint=fingerprint,
    )


def strided(rows: Batch, stride: int, limit: int) -> Batch:
    """Every `stride`-th row, at most `limit`, copied: windows of a text that do not overlap."""
    return tuple(t[::stride][:limit].contiguous() for t in rows)


def flat(images: Tensor) -> Tensor:
    """`(n, ...) -> (n, pixels)`."""
    return images.flatten(1)
