"""The figures of a comparison: pure functions of finished runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learnopt.training import DIVERGED, Run, tail

Floats = NDArray[np.float64]


def geometric_mean(values: Sequence[float]) -> float | None:
    """Geometric mean of positive numbers; None for none."""
    return float(np.exp(np.mean(np.log(values)))) if len(values) else None


def paired_ratio(ours: Sequence[float | None], reference: Sequence[float | None]) -> float | None:
    """Geometric mean of `ours[i] / reference[i]` over the seeds; None where any loss is missing or not positive."""
    if len(ours) != len(reference) or not ours:
        return None
    pairs = list(zip(ours, reference, strict=True))
    if any(a is None or b is None or a <= 0 or b <= 0 for a, b in pairs):
        return None
    return geometric_mean([a / b for a, b in pairs if a is not None and b is not None])


def counted_loss(run: Run, which: str) -> float | None:
    """Final loss as figures count it; a run without one (it diverged) counts with `DIVERGED` times its initial loss.

    Args:
        which: "validation" or "train".
    """
    final, initial = (
        (run.validation_final, run.validation[0][1] if run.validation else None)
        if which == "validation"
        else (run.train_final, run.train_initial)
    )
    if final is not None:
        return final
    return DIVERGED * initial if initial is not None and initial > 0 else None


def best_loss(run: Run) -> float | None:
    """The least validation loss along the way, as of someone who keeps the best weights; None without a finite one."""
    return min((loss for _, loss, _ in run.validation if loss is not None), default=None)


def smoothed(losses: Sequence[float | None], steps: int) -> Floats:
    """Trailing mean over 5 % of `steps`, shape `(K,)`; `inf` where the window is not full or holds a missing loss."""
    width = tail(steps)
    values = np.array([math.inf if loss is None else loss for loss in losses], dtype=float)
    result = np.full(len(values), math.inf)
    if len(values) >= width:
        windows = np.lib.stride_tricks.sliding_window_view(values, width)
        result[width - 1 :] = windows.mean(axis=1)
    return result


def steps_to(losses: Sequence[float | None], steps: int, target: float) -> int | None:
    """Steps after which the smoothed loss is at most `target` for the first time; None for never."""
    reached = np.flatnonzero(smoothed(losses, steps) <= target)
    return int(reached[0]) + 1 if len(reached) else None


def speed_up(ours: Run, reference: Run) -> float | None:
    """Steps until the reference reaches its own final smoothed training loss, over the steps we need for it.

    0 where we never reach it; None where the reference itself did not finish.
    """
    steps = int(reference.config["steps"])
    curve = smoothed(reference.losses, steps)
    if len(curve) < steps or not math.isfinite(curve[-1]):
        return None
    takes, need = steps_to(reference.losses, steps, curve[-1]), steps_to(ours.losses, steps, curve[-1])
    return 0.0 if need is None or takes is None else takes / need


def interquartile_mean(values: Floats) -> Floats:
    """Mean of the middle half along the last axis (a quarter of the values, rounded down, cut at each end)."""
    ordered = np.sort(values, axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def iqm_interval(groups: Sequence[Sequence[float]], seed: int = 0, draws: int = 2000) -> Interval | None:
    """Interquartile mean over all values with a percentile bootstrap; None for no values.

    Args:
        groups: the values of each task, one per seed. A draw picks tasks, then as many of each one's values as the
            largest group has: seeds of one task are not independent evidence about other tasks.
    """
    known = [np.asarray(group, dtype=float) for group in groups if len(group)]
    if not known:
        return None
    lengths = np.array([len(group) for group in known])
    table = np.zeros((len(known), lengths.max()))
    for row, group in zip(table, known, strict=True):
        row[: len(group)] = group
    rng = np.random.default_rng(seed)
    tasks = rng.integers(0, len(known), (draws, len(known)))[..., None]
    picks = (rng.random((draws, *table.shape)) * lengths[tasks]).astype(int)
    low, high = np.percentile(interquartile_mean(table[tasks, picks].reshape(draws, -1)), [2.5, 97.5])
    return Interval(float(interquartile_mean(np.concatenate(known))), float(low), float(high))


def share(ratios: Sequence[float | None]) -> float | None:
    """Share of the defined ratios that are at most 1; None where none is defined."""
    known = [ratio for ratio in ratios if ratio is not None]
    return sum(ratio <= 1 for ratio in known) / len(known) if known else None
