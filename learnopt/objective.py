"""From what a run went through to one number that says how good its meta-weights are."""

from __future__ import annotations

import torch
from torch import Tensor

from learnopt.unroll import Trajectory

FLOOR = 3e-4
"""Share of the initial loss below which a further gain in validation loss counts little."""
CEILING = 15.0
"""Multiple of the initial loss above which a run counts as diverged; worse is not worse."""
FINAL = 0.85
"""Weight of the final validation loss; the rest is shared by those on the way. Training loss has no part unless asked
for: with a weight of 0.1 for its logarithm, halving it by memorising was worth 9 % of validation loss."""
LATE = 0.1
"""Share of the steps, the last ones, whose training loss counts where it has a part."""
ON_THE_WAY = (0.15, 0.35, 0.6)
"""Shares of the run after which validation loss is measured besides the end."""
NOISE = 0.03
"""Spread of meta-losses that counts as noise: tasks on which perturbations differ by less speak more softly."""


def valid_at(start: int, stop: int, steps: int) -> tuple[int, ...]:
    """Step counts after which the steps `start` to `stop` of a run of `steps` need the validation loss; `stop` last."""
    points = {max(1, round(share * steps)) for share in ON_THE_WAY}
    return (*sorted(p for p in points if start < p < stop), stop)


def log_loss(losses: Tensor, reference: Tensor) -> Tensor:
    """Logarithm of the loss in units of `reference`, between log(FLOOR) and log(CEILING); NaN counts as diverged."""
    ratio = (losses / reference).nan_to_num(CEILING, CEILING, CEILING)
    return (ratio.clamp(0, CEILING) + FLOOR).log()


def meta_loss(trajectory: Trajectory, reference: Tensor, training: float = 0.0) -> Tensor:
    """Meta-loss of every run, shape `(N,)`; free of the task's scale.

    Args:
        trajectory: with at least one validation loss, the last one at the end.
        reference: the task's initial loss, shape `()`.
        training: share of the mean training loss of the last `LATE` of the steps; the rest is validation loss.
    """
    valid = log_loss(trajectory.valid, reference)
    mean = valid[0] if len(valid) == 1 else FINAL * valid[-1] + (1 - FINAL) * valid[:-1].mean(0)
    if not training:
        return mean
    late = trajectory.losses[-max(1, round(LATE * len(trajectory.losses))) :].mean(0)
    return torch.lerp(mean, log_loss(late, reference), training)


def paired(meta_losses: Tensor) -> Tensor:
    """Antithetic differences, `(2M,)` to `(M,)`, in units of their spread and clipped at 2: no task dominates."""
    m = meta_losses.shape[0] // 2
    d = meta_losses[:m] - meta_losses[m:]
    spread = d.std() if m > 1 else d.abs().mean()
    return torch.clamp(d / (spread + NOISE), -2, 2)
