"""The corpus in the form that the tuner learns from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

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
        final: final validation losses, inf where diverged, `(T, N, C, R)`.
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
        """Log of the final loss over the best of all configurations with the same seed, `(T, N, C, R)`."""
        logs = self.final.log()
        return logs - logs.amin((2, 3), keepdim=True)

    def targets(self) -> Tensor:
        """What is to be predicted: the clipped regret, a mean over the seeds, `(T, C, R)`."""
        return self.regret().clamp_max(MOST_REGRET).mean(1)

    def levels(self) -> Tensor:
        """Log of the best final loss over the loss before training, a mean over the seeds, clipped, `(T,)`."""
        best = self.final.amin((2, 3)).log()
        return (best - self.start.log()).clamp(LOW, HIGH).mean(1)

    def subset(self, index: list[int]) -> Lessons:
        """Some of the tasks."""
        return Lessons(
            [self.names[i] for i in index], self.rates, self.others, self.features[index], self.final[index],
            self.readings[index], self.train[index], self.start[index],
        )  # fmt: skip


def gather(frames: Iterable[pd.DataFrame]) -> Lessons:
    """Read recorded tasks; those with losses that are not positive are left out, since their logs mean nothing.

    Raises:
        ValueError: there is none, or they were recorded on different grids.
    """
    found = [lesson for frame in frames if (lesson := _lesson(frame)) is not None]
    if not found:
        raise ValueError("the corpus holds no usable task; record some with `learnopt record`")
    if len({lesson[1:3] for lesson in found}) > 1:
        raise ValueError("the corpus holds runs of different grids of configurations")
    names, rates, others, features, final, readings, train, start = zip(*found, strict=True)
    return Lessons(
        list(names), rates[0], others[0], torch.stack(features), torch.stack(final), torch.stack(readings),
        torch.stack(train), torch.stack(start),
    )  # fmt: skip


def _change(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """As `probes.change`, of arrays of positive losses."""
    with np.errstate(all="ignore"):
        logs = np.log(after / before)
    return np.where(np.isfinite(after), np.clip(logs, LOW, HIGH), HIGH)


def _lesson(
    frame: pd.DataFrame,
) -> tuple[str, tuple[float, ...], tuple[tuple[str, float], ...], Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    # one row per part even where a run is shorter than the parts: a part is then read at the step before
    decays = list(dict.fromkeys(frame["weight_decay"]))
    others = tuple((s, float(d)) for d in decays for s in dict.fromkeys(frame["schedule"]))
    rates = tuple(sorted({float(r) for r in frame["lr"]}))
    seeds = sorted(set(frame["seed"]))
    at = np.array(frame["valid_steps"].iloc[0])
    parts = np.clip(np.searchsorted(at, np.arange(1, PARTS + 1) * at[-1] / PARTS - 1e-9), 1, len(at) - 1)
    ordered = frame.sort_values(["seed", "weight_decay", "schedule", "lr"])
    ordered = ordered.set_index(["seed", "weight_decay", "schedule", "lr"])
    valid = {key: np.asarray(v, dtype=float) for key, v in ordered["valid"].items()}
    curves = {key: np.asarray(v, dtype=float) for key, v in ordered["train"].items()}
    final = np.array([[[valid[n, d, s, r][-1] for r in rates] for s, d in others] for n in seeds])
    constant = [[(n, decays[0], "constant", r) for r in rates] for n in seeds]
    v = np.array([[valid[key] for key in row] for row in constant])
    t = np.array([[curves[key] for key in row] for row in constant])
    positive = all(np.nan_to_num(x, nan=1.0, posinf=1.0, neginf=1.0).min() > 0 for x in (final, v, t))
    if not positive or not np.isfinite(final).any((1, 2)).all() or not np.isfinite(v[..., 0]).all():
        return None
    start = v[..., :1]
    worst = np.maximum.accumulate(_change(t, start), -1)
    readings = np.stack([_change(v, start)[..., parts], _change(t, start)[..., parts - 1], worst[..., parts - 1]], -1)
    final = np.where(np.isfinite(final), final, np.inf)
    features = [float(frame[f"feature.{name}"].iloc[0]) for name in NAMES]
    floats = (
        torch.tensor(x, dtype=torch.float32) for x in (features, final, readings, t[..., parts - 1], start[:, 0, 0])
    )
    return (str(frame["task"].iloc[0]), rates, others, *floats)  # type: ignore[return-value]


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
    half = ((parts + 1) // 2 - 1).clamp_min(0)[..., None, None].expand(*parts.shape, 1, 3)
    last, middle = own.gather(2, end)[:, :, 0], own.gather(2, half)[:, :, 0]
    share = parts.clamp_min(1).float().log2() / float(np.log2(PARTS))
    probed = (parts > 0).float()
    columns = [torch.ones_like(share), share, last[..., 0], middle[..., 0], last[..., 1], last[..., 2]]
    found = torch.stack([c * probed for c in columns] + [torch.zeros_like(share)], 1)
    assert found.shape[1] == len(CHANNELS)
    assert half_of(3) == 2
    return with_gaps(found)
