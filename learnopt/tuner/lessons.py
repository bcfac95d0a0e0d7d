"""The corpus in the form that the tuner learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learnopt.baselines import SCHEDULES
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import CHANNELS, HIGH, LOW, PARTS, half_of, with_gaps

MOST_REGRET = 1.0
"""Regrets are clipped here before they are learned: how bad a hopeless configuration is must not matter."""


@dataclass
class Lessons:
    """Recorded tasks with positive losses, all on one grid; `T` tasks, `N` seeds, `C` combinations, `R` rates.

    Attributes:
        others: `(schedule, weight decay)` of each combination.
        features: `(T, F)`.
        final: final validation losses, inf where diverged, nan where not recorded, `(T, N, C, R)`.
        readings: changes of losses along constant-rate runs at the first weight decay, relative to the initial
            validation loss: `(T, N, R, PARTS, 3)`: validation, mean training loss, and the worst of those so far.
        train: mean training losses of those runs by part, `(T, N, R, PARTS)`.
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
        """What is to be predicted: the clipped regret, a mean over the seeds, nan where not recorded, `(T, C, R)`."""
        return self.regret().clamp_max(MOST_REGRET).mean(1)

    def filled(self) -> Tensor:
        """The targets, where another weight decay than the first was not recorded taken for as good as the first."""
        target = self.targets()
        first = target[:, : len(SCHEDULES)].repeat(1, target.shape[1] // len(SCHEDULES), 1)
        return torch.where(target.isnan(), first, target)

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
    """Read recorded tasks; those with losses that are not positive are left out, since their logs mean nothing.

    Args:
        rates, decays: the grid; the first decay must have been recorded of every task.

    Raises:
        ValueError: there is none, or they were recorded on another grid.
    """
    found = [task for frame in frames if (task := _read(frame, tuple(rates), tuple(decays))) is not None]
    if not found:
        raise ValueError("the corpus holds no usable task; record some with `learnopt record`")
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


def _read(frame: pd.DataFrame, rates: tuple[float, ...], decays: tuple[float, ...]) -> _Task | None:
    name = str(frame["task"].iloc[0])
    runs = frame.set_index(["seed", "weight_decay", "schedule", "lr"])
    valid = {key: np.asarray(v, dtype=float) for key, v in runs["valid"].items()}
    train = {key: np.asarray(v, dtype=float) for key, v in runs["train"].items()}
    seeds, at = sorted(set(frame["seed"])), np.array(frame["valid_steps"].iloc[0])
    constant = [[(n, decays[0], "constant", r) for r in rates] for n in seeds]
    if any(key not in valid for row in constant for key in row):
        raise ValueError(f"task {name} was recorded on another grid: learning rates {sorted(set(frame['lr']))}")
    # one reading per part even where a run is shorter than the parts: a part is then read at the step before
    parts = np.clip(np.searchsorted(at, np.arange(1, PARTS + 1) * at[-1] / PARTS - 1e-9), 1, len(at) - 1)
    absent = np.full(len(at), np.nan)
    grid = [[[(n, d, s, r) for r in rates] for d in decays for s in SCHEDULES] for n in seeds]
    final = np.array([[[valid.get(key, absent)[-1] for key in row] for row in rows] for rows in grid])
    recorded = np.array([[[key in valid for key in row] for row in rows] for rows in grid])
    v, t = (np.array([[curves[key] for key in row] for row in constant]) for curves in (valid, train))
    positive = all(np.nan_to_num(x, nan=1.0, posinf=1.0, neginf=1.0).min() > 0 for x in (final, v, t))
    if not positive or not np.isfinite(final).any((1, 2)).all() or not np.isfinite(v[..., 0]).all():
        return None
    start = v[..., :1]
    worst = np.maximum.accumulate(_change(t, start), -1)
    readings = np.stack([_change(v, start)[..., parts], _change(t, start)[..., parts - 1], worst[..., parts - 1]], -1)
    final = np.where(recorded, np.where(np.isfinite(final), final, np.inf), np.nan)
    features = np.array([float(frame[f"feature.{f}"].iloc[0]) for f in NAMES])
    return _Task(name, features, final, readings, t[..., parts - 1], start[:, 0, 0])


def encode_prefixes(lessons: Lessons, task: Tensor, seed: Tensor, parts: Tensor) -> Tensor:
    """What the tuner would see of probes of recorded runs.

    Args:
        task, seed: `(B,)`.
        parts: length of the probe at every rate, 0 for none, `(B, R)`.

    Returns:
        As `probes.encode`, `(B, CHANNELS, R)`.
    """
    own = lessons.readings[task, seed]  # (B, R, PARTS, 3)
    end = (parts - 1).clamp_min(0)[..., None, None].expand(*parts.shape, 1, 3)
    half = (half_of(parts) - 1).clamp_min(0)[..., None, None].expand(*parts.shape, 1, 3)
    last, middle = own.gather(2, end)[:, :, 0], own.gather(2, half)[:, :, 0]
    share = parts.clamp_min(1).float().log2() / float(np.log2(PARTS))
    probed = (parts > 0).float()
    columns = [torch.ones_like(share), share, last[..., 0], middle[..., 0], last[..., 1], last[..., 2]]
    found = torch.stack([c * probed for c in columns] + [torch.zeros_like(share)], 1)
    assert found.shape[1] == len(CHANNELS)
    return with_gaps(found)
