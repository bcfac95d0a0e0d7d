"""From what a run went through to one number that says how good its meta-weights are."""

from __future__ import annotations

import torch
from torch import Tensor

from learnopt.unroll import Trajectory

FLOOR = 1e-3
"""Share of the initial loss below which a further gain in validation loss counts little."""
TRAIN_FLOOR = 0.03
"""The same for training loss. Memorising the training rows must not pay: with 1e-3 here the rule learned to reach 0.14
of tuned AdamW's training loss and 1.28 of its validation loss."""
CEILING = 15.0
"""Multiple of the initial loss above which a run counts as diverged; worse is not worse."""
NOISE = 0.01
"""Spread of meta-losses that counts as noise: tasks on which perturbations differ by less speak more softly."""
WEIGHTS = {"valid": 0.8, "late": 0.1, "mean": 0.1}
"""Final validation loss, training loss over the last fifth, and over the whole run."""


def log_loss(losses: Tensor, reference: Tensor, floor: float = FLOOR) -> Tensor:
    """Logarithm of the loss in units of `reference`, between log(floor) and log(CEILING); NaN counts as diverged."""
    ratio = (losses / reference).nan_to_num(CEILING, CEILING, CEILING)
    return (ratio.clamp(0, CEILING) + floor).log()


def meta_loss(trajectory: Trajectory, reference: Tensor, weights: dict[str, float] | None = None) -> Tensor:
    """Meta-loss of every run, shape `(N,)`; free of the task's scale.

    Args:
        trajectory: with at least one validation loss, the last one at the end.
        reference: the task's initial loss, shape `()`.
        weights: of the three terms, `WEIGHTS` unless given.
    """
    share = weights or WEIGHTS
    train = log_loss(trajectory.losses, reference, TRAIN_FLOOR)
    late = train[int(0.8 * len(train)) :].mean(0)
    valid = log_loss(trajectory.valid[-1], reference)
    return share["valid"] * valid + share["late"] * late + share["mean"] * train.mean(0)


def paired(meta_losses: Tensor) -> Tensor:
    """Antithetic differences, `(2M,)` to `(M,)`, in units of their spread and clipped at 2: no task dominates."""
    m = meta_losses.shape[0] // 2
    d = meta_losses[:m] - meta_losses[m:]
    spread = d.std() if m > 1 else d.abs().mean()
    return torch.clamp(d / (spread + NOISE), -2, 2)
