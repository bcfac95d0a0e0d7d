"""What the learned stopper sees of a curve: ratios of its own differences, so that scale and shift do not matter.

All is recurrent and for many curves at once; the same functions serve training and `LearnedStopper`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

VERSION = 1
COLUMNS = (
    "number", "wait_share", "wait", "progress", "told", "remaining", "best_age", "improved", "missing", "spacing",
    "gap", "range", "roughness", "gain_fast", "gain_mid", "gain_slow", "trend_fast", "trend_slow",
)  # fmt: skip
"""Columns of a curve at one moment."""
QUERY = ("against_step", "against_range", "against_gain_mid", "against_gain_slow", "against_gap")
"""Columns of a question about it: an amount, in five of the curve's own units."""
DECAYS = (0.5, 0.8, 0.95)
_LIMIT = 8.0
"""Logarithms of ratios are cut to +- this."""


class CurveState(NamedTuple):
    """Memory of `N` curves, float64, every field of shape `(N,)` but the averages."""

    number: Tensor  # finite values so far
    seen: Tensor  # values so far
    first: Tensor
    last: Tensor
    best: Tensor
    best_number: Tensor
    start: Tensor  # step of the first value
    place: Tensor  # step of the last value
    best_place: Tensor
    missing: Tensor  # running share of values that were not finite
    step: Tensor  # running mean of |difference| of successive values, fast
    roughness: Tensor  # the same over all of the curve
    gains: Tensor  # (N, 3): running means of the improvement of the best value
    means: Tensor  # (N, 3): running means of the values


def begin(n: int) -> CurveState:
    """Before the first value."""
    zero = torch.zeros(n, dtype=torch.float64)
    averages = torch.zeros(n, len(DECAYS), dtype=torch.float64)
    return CurveState(**(dict.fromkeys(CurveState._fields, zero) | {"gains": averages, "means": averages}))


def advance(s: CurveState, value: Tensor, place: Tensor, improved_to: Tensor | None = None) -> CurveState:
    """The memory after one more value.

    Args:
        value: `(N,)`, lower is better, NaN where not finite.
        place: `(N,)`, the step it was measured at.
        improved_to: `(N,)`, the best value so far where values in between were left out; NaN or None: none were.
    """
    finite = ~torch.isnan(value)
    fresh = finite & (s.number == 0)
    y = torch.where(finite, value, s.last)
    last = torch.where(fresh, y, s.last)
    reached = y if improved_to is None else torch.minimum(y, improved_to.nan_to_num(torch.inf))
    old_best = torch.where(fresh, y, s.best)
    best = torch.where(finite, torch.minimum(reached, old_best), s.best)
    better = finite & (fresh | (best < s.best))
    number = s.number + finite
    change = (y - last).abs()
    # running means are of the differences seen so far, without a bias to zero at the start
    differences = (number - 1).clamp_min(1)
    fast, slow = torch.maximum(1 / differences, torch.tensor(0.3)), 1 / differences
    decay = torch.tensor(DECAYS, dtype=torch.float64)
    rate = torch.maximum(1 - decay, 1 / differences[:, None])
    mean_rate = torch.maximum(1 - decay, 1 / number.clamp_min(1)[:, None])
    moving = finite & ~fresh
    return CurveState(
        number, s.seen + 1, torch.where(fresh, y, s.first), y, best,
        torch.where(better, number, s.best_number), torch.where(s.seen == 0, place, s.start), place,
        torch.where(better, place, s.best_place), s.missing + 0.2 * ((~finite).double() - s.missing),
        torch.where(moving, s.step + fast * (change - s.step), s.step),
        torch.where(moving, s.roughness + slow * (change - s.roughness), s.roughness),
        torch.where(moving[:, None], s.gains + rate * ((old_best - best)[:, None] - s.gains), s.gains),
        torch.where(finite[:, None], s.means + mean_rate * (y[:, None] - s.means), s.means),
    )  # fmt: skip


def _log_ratio(a: Tensor, b: Tensor, tiny: Tensor) -> Tensor:
    return torch.log((a + tiny) / (b + tiny)).clamp(-_LIMIT, _LIMIT) / 4


def _tiny(s: CurveState) -> Tensor:
    return 1e-6 * s.roughness + 1e-300


def columns(s: CurveState, horizon: Tensor) -> Tensor:
    """What the network reads, `(N, len(COLUMNS))`, float32.

    Args:
        horizon: `(N,)`, the last step of the run, 0 where unknown.
    """
    tiny, number = _tiny(s), s.number.clamp_min(1)
    told = (horizon > 0).double()
    length = (horizon - s.start).clamp_min(1e-9)
    covered = (s.place - s.start).clamp_min(0)
    spacing = covered / (s.seen - 1).clamp_min(1)
    left = (horizon - s.place).clamp_min(0) / torch.where(spacing > 0, spacing, length)
    wait = s.number - s.best_number
    unit = s.step + tiny
    parts = (
        torch.log1p(s.number) / 4, wait / number, torch.log1p(wait) / 3,
        told * (covered / length).clamp(0, 1.5), told, told * torch.log1p(left) / 4,
        torch.where(covered > 0, (s.place - s.best_place) / covered.clamp_min(1e-9), 0), (wait == 0).double(),
        s.missing, told * torch.log1p(spacing / length * 50),
        _log_ratio(s.last - s.best, s.step, tiny), _log_ratio((s.first - s.best).clamp_min(0), s.step, tiny),
        _log_ratio(s.roughness, s.step, tiny), *(_log_ratio(g, s.step, tiny) for g in s.gains.unbind(1)),
        *(torch.asinh((s.means[:, i] - s.means[:, i + 1]) / unit) / 2 for i in (0, 1)),
    )  # fmt: skip
    return torch.stack(parts, 1).float()


def query(s: CurveState, amount: Tensor) -> Tensor:
    """Columns of the question whether the best value will improve by more than `amount`.

    Args:
        amount: `(N, Q)`, positive, in units of the values.

    Returns:
        `(N, Q, len(QUERY))`, float32.
    """
    tiny = _tiny(s)[:, None]
    units = (s.step, (s.first - s.best).clamp_min(0), s.gains[:, 1], s.gains[:, 2], s.last - s.best)
    return torch.stack([_log_ratio(amount, u[:, None], tiny) for u in units], -1).float()
