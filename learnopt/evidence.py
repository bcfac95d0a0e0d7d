"""What speaks for stopping a run, in words: the columns that the stop head reads, weighed by what they add to its
log-odds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learnopt import features, memory, stop_head
from learnopt.features import GLOBAL, STANDARD
from learnopt.layout import Layout

_POINTS = 128
"""Points of the path that gradients are averaged over."""
_FLAGS = ("loss_known", "horizon_known")
"""Columns of what was told: no run is usual in them, so that they are never the reason."""
_SHOWN, _SMALL = 3, 0.1
"""A sentence names so many reasons, and none that adds less than this share of the first."""
_STILL = 0.03
"""Losses that are nearer than this to their slow average, as a share of it, have stopped falling."""


class Evidence(NamedTuple):
    """One reading of a run and what it adds to the log-odds of stopping, compared with a usual run's reading."""

    what: str
    log_odds: float


class _Seen(NamedTuple):
    """What the phrases are made from."""

    value: dict[str, float]  # columns in their own units
    positive: bool  # all losses so far, on average: ratios of them mean something
    step: int
    horizon: int  # 0: unknown


def gather(
    head: dict[str, Tensor], memories: Tensor, layout: Layout, run: memory.Run, horizon: float
) -> list[Evidence]:
    """The readings of a run, what speaks most for stopping first.

    Args:
        head: as in `stop_head`.
        memories: of the tensors that were stepped, `(n, MEMORY_SIZE)`.
        layout: of the same tensors.
        horizon: told number of steps; 0 when unknown.
    """
    x = _columns(memories, layout, run, horizon)
    usual = torch.where(x.new_tensor([name in _FLAGS for name in GLOBAL], dtype=torch.bool), x, 0.0)
    added = dict(zip(GLOBAL, attribution(head, x, usual).tolist(), strict=True))
    known = bool(run.history.number > 0)
    seen = _Seen(_own_units(x), known and bool(run.history.best > 0), int(run.step), int(horizon))
    found = [
        Evidence(phrase(seen), sum(added[name] for name in names))
        for names, phrase in _READINGS
        if known or not names[0].startswith("loss")
    ]
    return sorted(found, key=lambda e: -e.log_odds)


def attribution(head: dict[str, Tensor], columns: Tensor, usual: Tensor) -> Tensor:
    """What each column adds to the log-odds on the way from `usual`, `(len(GLOBAL),)` each; sums to their difference.

    Integrated gradients, Sundararajan et al. 2017.
    """
    with torch.inference_mode(False), torch.enable_grad():
        weights = {name: values.detach().cpu().clone() for name, values in head.items()}
        start, change = usual.clone(), (columns - usual).clone()
        share = (torch.arange(_POINTS, dtype=start.dtype, device=start.device) + 0.5) / _POINTS
        path = (start + share[:, None] * change).requires_grad_()
        (gradient,) = torch.autograd.grad(stop_head.logit(weights, path).sum(), path)
        return change * gradient.mean(0)


def sentence(step: int, probability: float, threshold: float, found: Sequence[Evidence]) -> str:
    """One line for people: how sure, when, and what speaks most for it."""
    most = max((e.log_odds for e in found), default=0.0)
    named = [e.what for e in found[:_SHOWN] if e.log_odds > 0 and e.log_odds >= _SMALL * most]
    why = "what speaks for it: " + _listed(named) if named else "no single reading stands out"
    return (
        f"step {step}: {_percent(probability)} sure (threshold {_percent(threshold)}) that the best validation loss "
        f"will not improve any more; {why}"
    )


def _columns(memories: Tensor, layout: Layout, run: memory.Run, horizon: float) -> Tensor:
    """The `GLOBAL` columns of the last step; its gradients are in those of the tensors."""
    state = memory.read_state(memories[None], ((), (), ()), run, torch.float32)
    t = features.tensor_columns(
        state.statistics, state.rms0, state.unit, state.peak, layout.columns, layout.sizes, run.history
    )
    before = (run.step - 1).clamp_min(0)
    told = before.new_tensor(horizon)
    return features.global_columns(run.history, before, told, features.summary(t, layout.sizes))[0]


def _own_units(columns: Tensor) -> dict[str, float]:
    """The columns before they were centred and scaled; means over tensors go by the tensors' column."""
    values = {}
    for name, x in zip(GLOBAL, columns.tolist(), strict=True):
        centre, spread = STANDARD.get(name.removeprefix("mean_"), (0.0, 1.0))
        values[name] = centre + spread * x
    return values


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _percent(p: float) -> str:
    """A probability; what is short of 100 % never reads as 100 %."""
    if p >= 1:
        return "100 %"
    digits = 0 if p <= 0.99 else min(6, math.ceil(-math.log10(1 - p)) - 2)
    while digits < 9 and f"{100 * p:.{digits}f}".startswith("100"):
        digits += 1
    text = f"{100 * p:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def _trend(s: _Seen) -> str:
    """Of the fast average to the slow one, which remembers large losses for hundreds of steps."""
    change, of = (
        (math.expm1(s.value["loss_log_slope"]), "") if s.positive else (s.value["loss_slope"], " of their fall")
    )
    if abs(change) < _STILL:
        return "losses have stopped falling (they are at their slow average)"
    return f"losses are {abs(100 * change):.0f} %{of} {'above' if change > 0 else 'below'} their slow average"


def _drop(s: _Seen) -> str:
    if not s.positive:
        return "losses are not positive"
    return f"the loss is at {100 * math.exp(3 * s.value['loss_log_drop']):.2g} % of where it began"


def _rebound(s: _Seen) -> str:
    above = math.expm1(s.value["loss_log_rebound"]) if s.positive else s.value["loss_rebound"]
    of = "" if s.positive else " of its fall"
    return "the loss is at its best" if above < 0.01 else f"the loss is {100 * above:.0f} %{of} above its best"


def _noise(s: _Seen) -> str:
    return f"losses scatter by {100 * s.value['loss_noise']:.0f} % of their fall so far"


def _time(s: _Seen) -> str:
    if not s.horizon:
        return f"{s.step:,} steps were taken"
    if s.step > s.horizon:
        return f"the {s.horizon:,} planned steps are over"
    return f"{100 * s.step / s.horizon:.0f} % of the planned steps are taken"


def _agreement(s: _Seen) -> str:
    cosine = s.value["mean_cos_gradient_fast"]
    what = (
        "agree from batch to batch" if cosine > 0.15 else "turn back and forth" if cosine < -0.1 else "are mostly noise"
    )
    return f"gradients {what} (cosine with the momentum {cosine:.2f})"


def _away(s: _Seen) -> str:
    cosine = s.value["mean_cos_gradient_away"]
    what = "back to the averaged weights" if cosine > 0.05 else "further on" if cosine < -0.05 else "nowhere new"
    return f"gradients lead {what}"


def _radial(s: _Seen) -> str:
    cosine = s.value["mean_radial"]
    what = "matters little" if abs(cosine) < 0.05 else "wants to shrink" if cosine > 0 else "wants to grow"
    return f"the size of the weights {what}"


def _decline(s: _Seen) -> str:
    return f"gradients are at {100 * math.exp(4 * s.value['mean_gradient_decline']):.2g} % of their largest"


def _elasticity(s: _Seen) -> str:
    elasticity = math.exp(4 * s.value["mean_elasticity"])
    how = "strongly" if elasticity > 10 else "weakly" if elasticity < 0.5 else "moderately"
    return f"the loss reacts {how} to changes of the weights (elasticity {elasticity:.2g})"


_READINGS: tuple[tuple[tuple[str, ...], Callable[[_Seen], str]], ...] = (
    (("loss_log_slope", "loss_slope"), _trend),
    (("loss_log_drop",), _drop),
    (("loss_log_rebound", "loss_rebound"), _rebound),
    (("loss_noise",), _noise),
    (("progress", "progress_squared", "log_step", "log_horizon"), _time),
    (("mean_snr_fast", "mean_cos_gradient_fast"), _agreement),
    (("mean_cos_gradient_away",), _away),
    (("mean_radial",), _radial),
    (("mean_gradient_decline",), _decline),
    (("mean_elasticity",), _elasticity),
)
"""Columns that say one thing together, and the words for it; with `_FLAGS` they are all of `GLOBAL`."""
