"""The corpus in the form that the tuner learns from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learnopt.baselines import SCHEDULES
from learnopt.tuner.knowledge import MOST_REGRET, SCHEDULE
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import HIGH, LOW, SHARES

PARTS = 50
"""A training curve at a constant rate is read as means over so many stretches."""


@dataclass
class Lessons:
    """Recorded tasks with positive losses, all on one grid; `T` tasks, `N` seeds, `C` combinations, `R` rates.

    Attributes:
        others: `(schedule, weight decay)` of each combination.
        features: `(T, F)`.
        final: final validation losses of full runs, inf where diverged, nan where not recorded, `(T, N, C, R)`.
        readings: of cosine runs as short as `probes.SHARES`, at the first weight decay, as of `probes.readings`, nan
            where not recorded: `(T, N, S, 4, R)`.
        train: mean training losses by part of full runs at a constant rate and the first weight decay, nan where not
            recorded: `(T, N, R, PARTS)`.
        start: validation losses before training, `(T, N)`.
    """

    names: list[str]
    rates: tuple[float, ...]
    others: tuple[tuple[str, float], ...]
    features: Tensor
    final: Tensor
    readings: Tensor
    train: Tensor
    start: Tensor

    def regret(self) -> Tensor:
        """Log of the final loss over the best of all recorded configurations with the same seed, `(T, N, C, R)`."""
        logs = self.final.log()
        return logs - logs.nan_to_num(torch.inf, torch.inf).amin((2, 3), keepdim=True)

    def targets(self) -> Tensor:
        """What is to be predicted: the clipped regret, nan where not recorded, `(T, N, C, R)`."""
        return self.regret().clamp_max(MOST_REGRET)

    def usual(self) -> Tensor:
        """The targets with the first weight decay and the schedule that is tuned for, `(T, N, R)`."""
        return self.targets()[:, :, self.others.index((SCHEDULE, self.others[0][1]))]

    def filled(self) -> Tensor:
        """The targets, a mean over the seeds, where another weight decay than the first was not recorded taken for as
        good as the first; a schedule that was not recorded is not to be recommended. `(T, C, R)`."""
        target = self.targets().mean(1)
        first = target[:, : len(SCHEDULES)].repeat(1, target.shape[1] // len(SCHEDULES), 1)
        return torch.where(target.isnan(), first, target).nan_to_num(MOST_REGRET)

    def levels(self) -> Tensor:
        """Log of the best final loss over the loss before training, a mean over the seeds, clipped, `(T,)`."""
        best = self.final.nan_to_num(torch.inf, torch.inf).amin((2, 3)).log()
        return (best - self.start.log()).clamp(LOW, HIGH).mean(1)

    def subset(self, index: list[int]) -> Lessons:
        """Some of the tasks."""
        return Lessons(
            [self.names[i] for i in index], self.rates, self.others, self.features[index], self.final[index],
            self.readings[index], self.train[index], self.start[index],
        )  # fmt: skip


class _Task(NamedTuple):
    """One task's part of the lessons, without the leading `T`."""

    name: str
    features: np.ndarray
    final: np.ndarray
    readings: np.ndarray
    train: np.ndarray
    start: np.ndarray


def gather(frames: Iterable[pd.DataFrame], rates: Sequence[float], decays: Sequence[float]) -> Lessons:
    """Read recorded tasks; those with losses that are not positive are left out, since their logs mean nothing, and
    those without short runs, which teach nothing about probes.

    Args:
        frames: of one task, several are taken together: short runs may have been recorded later.
        rates, decays: the grid; full cosine runs at the first decay must have been recorded of every task.

    Raises:
        ValueError: there is none, or they were recorded on another grid.
    """
    by_task = defaultdict(list)
    for frame in frames:
        by_task[str(frame["task"].iloc[0])].append(frame)
    read = (_read(pd.concat(parts, ignore_index=True), tuple(rates), tuple(decays)) for parts in by_task.values())
    found = [task for task in read if task is not None]
    if not found:
        shares = ",".join(str(share) for share in (1, *reversed(SHARES)))
        raise ValueError(f"the corpus holds no usable task; record some with `learnopt record --fractions {shares}`")
    seeds = max(len(task.start) for task in found)

    def stack(field: str) -> Tensor:
        # tasks with fewer seeds have theirs repeated
        each = [getattr(task, field) for task in found]
        return torch.tensor(np.stack([np.resize(x, (seeds, *x.shape[1:])) for x in each]), dtype=torch.float32)

    return Lessons(
        [task.name for task in found], tuple(rates), tuple((s, float(d)) for d in decays for s in SCHEDULES),
        torch.tensor(np.stack([task.features for task in found]), dtype=torch.float32),
        stack("final"), stack("readings"), stack("train"), stack("start"),
    )  # fmt: skip


def _change(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """As `probes.change`, of arrays of positive losses."""
    with np.errstate(all="ignore"):
        logs = np.log(after / before)
    return np.where(np.isfinite(after), np.clip(logs, LOW, HIGH), HIGH)


class _Runs:
    """The runs of one task, by their settings."""

    def __init__(self, frame: pd.DataFrame) -> None:
        if "fraction" not in frame:
            frame = frame.assign(fraction=1.0)
        frame = frame.assign(fraction=frame["fraction"].fillna(1.0))  # recorded before there were short runs
        runs = frame.set_index(["seed", "fraction", "weight_decay", "schedule", "lr"])
        self.valid = {key: np.asarray(v, dtype=float) for key, v in runs["valid"].items()}
        self.train = {key: np.asarray(v, dtype=float) for key, v in runs["train"].items()}
        self.seeds = sorted(set(frame["seed"]))

    def final(self, key: Any) -> float:
        """Inf where it diverged, nan where it was not recorded."""
        value = self.valid[key][-1] if key in self.valid else np.nan
        return float(value) if key not in self.valid or np.isfinite(value) else np.inf

    def reading(self, key: Any) -> np.ndarray:
        """As `probes.readings`."""
        if key not in self.valid:
            return np.full(4, np.nan)
        valid, train = self.valid[key], _change(self.train[key], self.valid[key][:1])
        ends = _change(valid[[-1, len(valid) // 2]], valid[:1])
        return np.array([*ends, train[-1], train.max()])

    def curve(self, key: Any) -> Any:
        """Training losses in `PARTS` parts; where a run is shorter, a part is read at the step before."""
        if key not in self.train:
            return np.full(PARTS, np.nan)
        train: np.ndarray = self.train[key]
        return train[np.ceil(np.arange(1, PARTS + 1) * len(train) / PARTS - 1e-9).astype(int) - 1]


def _read(frame: pd.DataFrame, rates: tuple[float, ...], decays: tuple[float, ...]) -> _Task | None:
    name, runs = str(frame["task"].iloc[0]), _Runs(frame)
    if any((n, 1.0, decays[0], "cosine", r) not in runs.valid for n in runs.seeds for r in rates):
        rates_there = sorted(set(frame["lr"]))
        raise ValueError(
            f"task {name} was recorded on another grid, or without full cosine runs: learning rates {rates_there}"
        )
    final = np.array([
        [[runs.final((n, 1.0, d, s, r)) for r in rates] for d in decays for s in SCHEDULES] for n in runs.seeds
    ])  # fmt: skip
    short = [[[(n, f, decays[0], "cosine", r) for r in rates] for f in SHARES] for n in runs.seeds]
    readings = np.array([[[runs.reading(key) for key in row] for row in rows] for rows in short])
    constant = [[(n, 1.0, decays[0], "constant", r) for r in rates] for n in runs.seeds]
    train = np.array([[runs.curve(key) for key in row] for row in constant])
    start = np.array([runs.valid[n, 1.0, decays[0], "cosine", rates[0]][0] for n in runs.seeds])
    losses = np.concatenate([np.ravel(x) for x in (*runs.valid.values(), *runs.train.values())])
    if losses[np.isfinite(losses)].min(initial=np.inf) <= 0 or not np.isfinite(start).all():
        return None
    if np.isnan(readings).all() or not np.isfinite(final).any((1, 2)).all():
        return None
    features = np.array([float(frame[f"feature.{f}"].iloc[0]) for f in NAMES])
    return _Task(name, features, final, readings.swapaxes(-1, -2), train, start)
