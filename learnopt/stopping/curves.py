"""Recorded validation curves as arrays, out of a corpus of `learnopt record`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learnopt.corpus import Corpus

SETTINGS = ("lr", "schedule", "weight_decay", "optimizer")
LEAST_DECAY = 1e-5
"""Weight decays below count as this."""


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
        metric: `(N,)`, whether they are of a metric that is not the loss (negated where larger is better).
        settings: `(N, S)`, how they were trained, in numbers that distances make sense of: `SETTINGS`, then those of
            the tasks' studies.
    """

    values: Tensor
    steps: Tensor
    task: Tensor
    tasks: list[str]
    datasets: list[str]
    constant: Tensor
    length: Tensor
    metric: Tensor
    settings: Tensor

    def of(self, index: Tensor) -> Curves:
        """Some of the curves, by their numbers or a mask."""
        names = ("values", "steps", "task", "constant", "length", "metric", "settings")
        parts = {name: getattr(self, name)[index] for name in names}
        return replace(self, **parts)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the tasks that these curves are of."""
        return sorted(set(self.task.tolist()))

    def __len__(self) -> int:
        return len(self.values)


def read(*folders: Path) -> Curves:
    """All curves of one or more corpora's full runs, tasks by their names.

    Tasks of one study (`Task.study`) count as one, whose steps are the validations: its runs differ in their batch size
    and so in what a step is.

    Raises:
        ValueError: a corpus holds none.
    """
    frames: list[pd.DataFrame] = []
    for folder in folders:
        full = (f[f["fraction"] == 1] if "fraction" in f else f for f in Corpus(folder).frames())
        found = [f for f in full if len(f)]
        if not found:
            raise ValueError(f"no recorded runs in {folder}; `learnopt record {folder}` makes some")
        frames += map(_named, found)
    names = sorted({str(f["task"].iloc[0]) for f in frames})
    number = {name: i for i, name in enumerate(names)}
    datasets = {str(f["task"].iloc[0]): str(f["datasets"].iloc[0]) for f in frames}
    columns = ["task", "is_metric", "valid_steps", "valid", *SETTINGS]
    runs: pd.DataFrame = pd.concat([f[[*columns, *_own(f)]] for f in frames], ignore_index=True)
    length = torch.tensor([len(v) for v in runs["valid"]])
    values = _padded(runs["valid"], int(length.max()))
    steps = _padded(runs["valid_steps"], int(length.max()))
    values = torch.where(torch.isfinite(values), values, torch.nan)
    task = torch.tensor([number[str(t)] for t in runs["task"]])
    constant = torch.tensor((runs["schedule"] == "constant").to_numpy())
    metric = torch.tensor(runs["is_metric"].to_numpy())
    return Curves(values, steps, task, names, [datasets[n] for n in names], constant, length, metric, _settings(runs))


def _own(runs: pd.DataFrame) -> list[str]:
    """Columns of a study's own settings."""
    return sorted(c for c in runs.columns if c.startswith("setting."))


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of a task or study; one judged by a metric is another task than the same one judged by its loss."""
    if "study" in runs:
        validations = [list(range(len(steps))) for steps in runs["valid_steps"]]
        runs = runs.assign(task=runs["study"], valid_steps=pd.Series(validations, runs.index))
    if "metric" not in runs:
        return runs.assign(is_metric=False)
    return runs.assign(is_metric=True, task=runs["task"] + " by " + runs["metric"])


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


def _settings(runs: pd.DataFrame) -> Tensor:
    """Learning rate and weight decay by their logarithms, the schedule as 0 or 1, the optimizer by its number, then a
    study's own; 0 for those of other studies."""
    optimizers = {name: i for i, name in enumerate(sorted(runs["optimizer"].unique()))}
    columns = (
        np.log(runs["lr"]), runs["schedule"] != "constant", np.log(runs["weight_decay"].clip(lower=LEAST_DECAY)),
        runs["optimizer"].map(optimizers), *(runs[name].fillna(0) for name in _own(runs)),
    )  # fmt: skip
    return torch.from_numpy(np.stack([c.to_numpy(np.float64) for c in columns], 1))


def _padded(lists: pd.Series, width: int) -> Tensor:
    table = np.full((len(lists), width), np.nan)
    for row, values in zip(table, lists, strict=True):
        row[: len(values)] = np.asarray(values, dtype=np.float64)
    return torch.from_numpy(table)
