"""Recorded validation curves as arrays, out of a corpus of `learnopt record`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learnopt.corpus import Corpus


@dataclass(frozen=True)
class Curves:
    """`N` curves of up to `T` values; lower is better.

    Attributes:
        values: `(N, T)`, float64; NaN where not finite or after a curve's end.
        steps: `(N, T)`, where they were measured, increasing.
        task: `(N,)`, number of the task in `tasks`.
        tasks: names of the tasks.
        datasets: names of each task's data sets, joined by commas.
        constant: `(N,)`, whether the learning rate was constant: a shorter run of it is its beginning.
        length: `(N,)`, number of values.
    """

    values: Tensor
    steps: Tensor
    task: Tensor
    tasks: list[str]
    datasets: list[str]
    constant: Tensor
    length: Tensor

    def of(self, index: Tensor) -> Curves:
        """Some of the curves, by their numbers or a mask."""
        parts = {name: getattr(self, name)[index] for name in ("values", "steps", "task", "constant", "length")}
        return replace(self, **parts)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the tasks that these curves are of."""
        return sorted(set(self.task.tolist()))

    def __len__(self) -> int:
        return len(self.values)


def read(folder: Path) -> Curves:
    """All curves of a corpus's full runs, tasks in the order of their files.

    Raises:
        ValueError: there are none.
    """
    found = (f[f["fraction"] == 1] if "fraction" in f else f for f in Corpus(folder).frames())
    frames = [f for f in found if len(f)]
    if not frames:
        raise ValueError(f"no recorded runs in {folder}; `learnopt record {folder}` makes some")
    names = sorted({str(f["task"].iloc[0]) for f in frames})
    number = {name: i for i, name in enumerate(names)}
    datasets = {str(f["task"].iloc[0]): str(f["datasets"].iloc[0]) for f in frames}
    runs = pd.concat([f[["task", "schedule", "valid_steps", "valid"]] for f in frames], ignore_index=True)
    length = torch.tensor([len(v) for v in runs["valid"]])
    values = _padded(runs["valid"], int(length.max()))
    steps = _padded(runs["valid_steps"], int(length.max()))
    values = torch.where(torch.isfinite(values), values, torch.nan)
    task = torch.tensor([number[str(t)] for t in runs["task"]])
    constant = torch.tensor((runs["schedule"] == "constant").to_numpy())
    return Curves(values, steps, task, names, [datasets[n] for n in names], constant, length)


def split(curves: Curves, share: float, seed: int) -> tuple[Curves, Curves]:
    """Two parts that have no data set in common: the second has about `share` of the tasks.

    Raises:
        ValueError: the data sets cannot be told apart.
    """
    groups = _groups(curves.datasets)
    order = np.random.default_rng(seed).permutation(len(groups))
    aside: set[int] = set()
    for i in order:
        if len(aside) + len(groups[i]) <= max(1, round(share * len(curves.tasks))):
            aside |= groups[i]
    if not aside or len(aside) == len(curves.tasks):
        raise ValueError(f"too few data sets to set some aside: {len(groups)} of {len(curves.tasks)} tasks")
    away = torch.isin(curves.task, torch.tensor(sorted(aside)))
    return curves.of(~away), curves.of(away)


def _groups(datasets: list[str]) -> list[set[int]]:
    """Numbers of tasks that share data sets, directly or through others."""
    groups: list[tuple[set[str], set[int]]] = []
    for i, text in enumerate(datasets):
        names, members = set(text.split(",")), {i}
        apart = []
        for others, theirs in groups:
            if others & names:
                names, members = names | others, members | theirs
            else:
                apart.append((others, theirs))
        groups = [*apart, (names, members)]
    return [members for _, members in groups]


def _padded(lists: pd.Series, width: int) -> Tensor:
    table = np.full((len(lists), width), np.nan)
    for row, values in zip(table, lists, strict=True):
        row[: len(values)] = np.asarray(values, dtype=np.float64)
    return torch.from_numpy(table)
