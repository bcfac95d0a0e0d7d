"""What the meta-network sees: loss history, progress and tensor statistics as named, versioned columns.

Every column is dimensionless: multiplying the loss, the gradients or all weights by a constant changes none of them, so
the decisions of the rule do not depend on anybody's units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VERSION = 7
"""Raised whenever a column is added or changes its meaning; an artifact of another version is refused, unless `ADDED`
says how to read it."""

ADDED = {7: 2}
"""How many columns a version put at the end of `TENSOR` where it did nothing else: with weights of zero for them, an
artifact of the version before decides exactly as it did."""

GLOBAL = (
    "loss_log_slope", "loss_log_drop", "loss_log_rebound", "loss_slope", "loss_rebound", "loss_noise", "loss_known",
    "progress", "progress_squared", "log_step", "log_horizon", "horizon_known",
    "mean_snr_fast", "mean_cos_gradient_fast", "mean_cos_gradient_away", "mean_radial", "mean_gradient_decline",
    "mean_elasticity",
)  # fmt: skip
"""Columns per run; the `mean_` ones are over the tensors."""

TENSOR = (
    "snr_fast", "wander", "cos_gradient_fast", "cos_gradient_away", "cos_fast_away", "gradient_trend", "radial",
    "growth", "init_scale", "gradient_decline", "elasticity", "log_size", "is_matrix", "is_convolution", "log_aspect",
    "is_first", "is_last", "log_network", "log_depth", "network_convolutions", "network_vectors",
    "network_inputs", "network_outputs",
)  # fmt: skip
"""Columns per parameter tensor.

The cosines compare a gradient with the momentum from before it: near 1 where batches agree on the way, 0 where they are
noise, below 0 where the steps overshoot. `wander` is the distance of the weights from their average, relative to their
size, and the cosines with it say whether gradient and momentum lead on (below 0) or back to the average. `radial` is
the cosine between momentum and weights: below 0 where the loss wants the tensor to grow, 0 where its scale does not
matter and decay costs nothing. `elasticity` is the relative change of the loss for a relative change of the weights, to
first order: what a relative step must be measured against (the Polyak step asks the same question). `is_first` and
`is_last` mark the first and the last of the matrices, in the order of the parameters: what comes in and what goes out
is rarely best treated like what lies between. The last six tell kinds of networks apart: `log_network` and `log_depth`
count parameters and matrices (a linear model is convex and may be fitted to the end, a large network can memorise),
`network_convolutions` is the share of convolutions among the matrices, `network_vectors` the logarithm of vectors per
matrix (1 for a bias each, 3 with normalisation), `network_inputs` and `network_outputs` the logarithms of the first
matrix's columns and of the last one's rows: two inputs are coordinates, and a function of them is hard to memorise; one
output is a regression, many are classes, as many as inputs an autoencoder.
"""

STANDARD: dict[str, tuple[float, float]] = {
    "loss_log_slope": (-0.7, 0.9), "loss_log_drop": (-0.65, 0.7), "loss_log_rebound": (0.1, 0.25),
    "loss_slope": (-0.1, 0.1), "loss_rebound": (0.04, 0.1), "loss_noise": (0.27, 0.2), "progress": (0.5, 0.3),
    "progress_squared": (0.33, 0.3), "log_step": (0.5, 0.15), "log_horizon": (0.63, 0.15),
    "snr_fast": (-0.85, 0.45), "wander": (-0.5, 0.4), "cos_gradient_fast": (0.1, 0.25),
    "cos_gradient_away": (0.03, 0.13), "cos_fast_away": (-0.5, 0.22), "gradient_trend": (-0.25, 0.45),
    "radial": (-0.2, 0.3), "growth": (0.5, 1.0), "init_scale": (-0.4, 0.8), "gradient_decline": (-0.15, 0.15),
    "elasticity": (0.2, 0.7), "log_size": (0.5, 0.25), "log_aspect": (0.0, 0.25),
    "is_first": (0.2, 0.5), "is_last": (0.2, 0.5), "log_network": (0.9, 0.2), "log_depth": (1.4, 0.6),
    "network_convolutions": (0.1, 0.3), "network_vectors": (0.0, 0.5),
    "network_inputs": (2.4, 1.1), "network_outputs": (1.9, 1.2),
}  # fmt: skip
"""Centre and spread of the columns that are neither flags nor means, rounded, over 96 runs of `meta_train`. All
meta-weights are perturbed by the same sigma: a column of small spread would hardly be heard."""

SHAPE_COLUMNS = TENSOR[TENSOR.index("log_size") :]
"""Columns that never change during a run."""

SUMMARISED = ("snr_fast", "cos_gradient_fast", "cos_gradient_away", "radial", "gradient_decline", "elasticity")

PARAMETER = ("gradient", "fast", "away", "gradient_fast", "fast_away", "weight")
"""Columns per parameter."""

STATISTICS = (
    "r_gradient",
    "r_fast",
    "r_away",
    "gradient_fast",
    "gradient_away",
    "fast_away",
    "fast_weight",
    "weight",
    "variance",
)
"""Means per tensor, gathered by one step and read by the next, so that a step is one pass over memory."""

SMOOTHED = 7
"""The first so many statistics are averaged over about 1/SMOOTHING steps: of one batch they are mostly noise."""
SMOOTHING = 0.1

BETA_FAST, BETA_SQUARE = 0.9, 0.995
"""Decay per step of the momentum and of the second moment."""
AVERAGE = 6.0
"""The averaged weights give step t the weight t^(AVERAGE - 1): about the last sixth of the run so far."""
LOSS_FAST, LOSS_SLOW = 0.15, 0.02
"""Weights of a new loss in the fast and the slow average."""
LOSS_FIRST = 5
"""Losses averaged into the reference that progress is measured against."""
AWAY = 5.0
"""Unit of the distance from the averaged weights: the share of the weights' size that counts as 1 is 1/AWAY."""
_TINY = 1e-30


def mean_square(x: Tensor) -> Tensor:
    """Mean square over everything but the run dimension: `(N, *shape)` to `(N,)`."""
    return (x * x).reshape(len(x), -1).mean(-1)


class LossHistory(NamedTuple):
    """Running summary of the training losses; every field has shape `(N,)`."""

    fast: Tensor
    slow: Tensor
    first: Tensor
    best: Tensor
    noise: Tensor
    number: Tensor


def empty_history(n: int, device: torch.device | None = None) -> LossHistory:
    """A history that has seen no loss, for `n` runs."""
    return LossHistory(*(torch.zeros(n, dtype=torch.float32, device=device) for _ in LossHistory._fields))


def observe(history: LossHistory, loss: Tensor | None) -> LossHistory:
    """Add one loss per run, shape `(N,)`; runs whose loss is not finite, or `None` for all, keep their history."""
    if loss is None:
        return history
    loss = loss.to(history.fast.dtype)
    seen = torch.isfinite(loss)
    loss = torch.where(seen, loss, history.fast)
    count = history.number + 1
    # the weights 1/count make every average start as a plain mean: no bias, no correction
    fast = torch.lerp(history.fast, loss, torch.clamp_min(1 / count, LOSS_FAST))
    slow = torch.lerp(history.slow, loss, torch.clamp_min(1 / count, LOSS_SLOW))
    first = torch.lerp(history.first, loss, torch.where(count <= LOSS_FIRST, 1 / count, torch.zeros_like(count)))
    best = torch.where(count <= 1, fast, torch.minimum(history.best, fast))
    gap = (loss - history.slow).abs() * (count > 1)
    noise = torch.lerp(history.noise, gap, torch.clamp_min(1 / count, LOSS_SLOW))
    new = LossHistory(fast, slow, first, best, noise, count)
    return LossHistory(*(torch.where(seen, a, b) for a, b in zip(new, history, strict=True)))


def loss_floor(history: LossHistory) -> Tensor:
    """Losses are not told apart below this, `(N,)`."""
    return 1e-4 * history.first.abs() + _TINY


def _log_ratio(a: Tensor, b: Tensor, floor: Tensor) -> Tensor:
    return (torch.maximum(a, floor) / torch.maximum(b, floor)).log()


def global_columns(history: LossHistory, step: Tensor, horizon: Tensor, summary: Tensor) -> Tensor:
    """The `GLOBAL` columns, shape `(N, len(GLOBAL))`.

    Args:
        history: after `observe` of this step's loss.
        step: steps already taken, shape `()`.
        horizon: told number of steps, shape `()`; 0 when unknown.
        summary: means of the `SUMMARISED` tensor columns, `(N, len(SUMMARISED))`.
    """
    fast, slow, first, best, noise, count = history
    known = (count > 0).to(fast.dtype)
    positive = known * (best > 0)  # logarithms say nothing about losses that may be negative
    floor = loss_floor(history)
    span = (first - best).abs() + noise + _TINY
    told = (horizon > 0).to(fast.dtype)
    progress = told * ((step + 1) / horizon.clamp_min(1)).clamp(max=1.0)
    one = torch.ones_like(fast)
    told, progress = told * one, progress * one
    rows = [  # (column, the share of it that is known)
        (_log_ratio(fast, slow, floor).clamp(-3, 3), positive),
        (_log_ratio(fast, first, floor).clamp(-9, 3) / 3, positive),
        (_log_ratio(fast, best, floor).clamp(-3, 3), positive),
        (((fast - slow) / span).clamp(-1, 1), known),
        (((fast - best) / span).clamp(0, 2), known),
        ((noise / span).clamp(0, 1), known),
        (known, one),
        (progress, told),
        (progress**2, told),
        ((step + 1).log() / 8 * one, one),
        (horizon.clamp_min(1).log() / 8 * one, told),
        (told, one),
    ]
    return torch.cat([_standardised(GLOBAL, rows), summary], -1)


def _standardised(names: Sequence[str], rows: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Columns minus their centres over their spreads, within +-4; 0 where they are unknown."""
    standard = [STANDARD.get(name, (0.0, 1.0)) for name in names]
    columns = [known * ((x - c) / d).clamp(-4, 4) for (x, known), (c, d) in zip(rows, standard, strict=False)]
    return torch.stack(columns, -1)


def agreement(columns: Tensor) -> Tensor:
    """How far each tensor's gradients agree with the momentum from before them, `(N, n)`, from its `TENSOR` columns,
    `(N, n, len(TENSOR))`: 1 where all batches say the same, 0.11 before the first gradient."""
    centre, spread = STANDARD["cos_gradient_fast"]
    return (columns[..., TENSOR.index("cos_gradient_fast")] * spread + centre) / BETA_FAST  # the column's largest value


def summary(columns: Tensor, sizes: Tensor) -> Tensor:
    """Means of the `SUMMARISED` columns over the tensors, weighted by the root of their sizes: `(N, tensors, F)`,
    `(tensors,)` to `(N, len(SUMMARISED))`."""
    weight = sizes.sqrt() / sizes.sqrt().sum()
    return weight @ columns[..., [TENSOR.index(name) for name in SUMMARISED]]


def smooth(before: Tensor, now: Tensor, age: Tensor) -> Tensor:
    """Statistics after a step from those before and those of the step alone, `(N, tensors, len(STATISTICS))` each;
    `age` counts the steps that each tensor has taken, this one included, `(tensors,)`."""
    rate = torch.clamp_min(1 / age, SMOOTHING)[:, None]
    return torch.cat([torch.lerp(before[..., :SMOOTHED], now[..., :SMOOTHED], rate), now[..., SMOOTHED:]], -1)


def tensor_columns(
    statistics: Tensor, rms0: Tensor, unit: Tensor, peak: Tensor, shape_columns: Tensor, sizes: Tensor,
    history: LossHistory,
) -> Tensor:  # fmt: skip
    """The `TENSOR` columns, shape `(N, tensors, len(TENSOR))`, from the statistics of the step before.

    Args:
        statistics: `(N, tensors, len(STATISTICS))`.
        rms0: root mean square of each tensor at initialisation, `(N, tensors)`.
        unit: each tensor's unit of weight, `(N, tensors)`.
        peak: largest mean second moment of the gradient so far, `(N, tensors)`.
        shape_columns: what follows from the shapes alone, `(tensors, len(SHAPE_COLUMNS))`.
        sizes: numbers of parameters, `(tensors,)`.
        history: after `observe` of this step's loss.
    """
    r0, r1, r2, c01, c02, c12, c1w, weight, variance = statistics.unbind(-1)
    weight = weight.sqrt()
    positive = ((history.number > 0) & (history.best > 0)).to(r0.dtype)[:, None]
    loss = torch.maximum(history.fast, loss_floor(history))[:, None]
    change = (sizes * (weight + unit)).log() + (variance + _TINY).log() / 2 - loss.log()
    started = (r0 > 0).to(r0.dtype)
    one = torch.ones_like(r0)
    rows = [
        ((r1 + 1e-4).log() / 4, started),
        ((r2 + 1e-4).log() / 4, started),
        ((c01 - (1 - BETA_FAST) * r0) / (r0 * r1 + 1e-12).sqrt(), started),
        (c02 / (r0 * r2 + 1e-12).sqrt(), started),
        (c12 / (r1 * r2 + 1e-12).sqrt(), started),
        ((r0 + 1e-4).log() / 4, started),
        (c1w / (r1 + 1e-12).sqrt(), started),
        (((weight + 0.01 * unit) / (rms0 + 0.03 * unit)).log().clamp(-3, 3), one),
        ((rms0 / unit + 0.03).log().clamp(-4, 4) / 2, one),
        (((variance + _TINY) / (peak + _TINY)).clamp_min(1e-9).log() / 8, started),
        (change.clamp(-9, 9) / 4, started * positive),
        *((column * one, one) for column in shape_columns.unbind(-1)),
    ]
    return _standardised(TENSOR, rows)
