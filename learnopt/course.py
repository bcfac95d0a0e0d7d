"""What the rule does over a run before the meta-network says anything: hand-designed schedules, bounds of a step.

The meta-network multiplies the schedule and each tensor's step and adds to the logit of the pull.
"""

from __future__ import annotations

import torch
from torch import Tensor

WARMUP = 0.03
"""Share of the told horizon that the base schedule warms up for."""
FLOOR = 0.005
"""The base schedule does not fall below this, so that a horizon told too short does not freeze the run."""
UNTOLD, UNTOLD_STEPS = 2.0, 100.0
"""The base schedule where the horizon is unknown: a scale, and the steps of warm-up, after which it falls."""
PULL_LOGIT = (-6.0, 2.0)
"""Base logit of the pull towards the averaged weights before the end of the told horizon, and at the end."""
ENDING = 0.1
"""Share of the told horizon over which that logit rises."""
LONGEST = 0.1
"""Largest step of a tensor, as a share of (rms of the weights + their unit): whatever the meta-network says, no single
step starts a run anew, and runs of ten steps do not end above their start."""
FARTHEST = 0.17
"""The same where batches agree on the way altogether, as they do on an output that has far to go to raw targets."""
AGREED_FROM = 5
"""Steps of a tensor before agreement counts."""


def base_schedule(step: Tensor, horizon: Tensor) -> Tensor:
    """Hand-designed schedule, shape `()`: warm-up, then decay; horizon 0 means unknown.

    Linear and within [FLOOR, 1] where the horizon is told; where it is not, every step may be the last, so that the
    schedule falls early and then ever more slowly.
    """
    share = (step + 1) / horizon.clamp_min(1)
    told = (share / WARMUP).clamp(max=1.0) * (1 - step / horizon.clamp_min(1)).clamp(min=FLOOR)
    untold = UNTOLD * ((step + 1) / UNTOLD_STEPS).clamp(max=1.0) / (1 + step / UNTOLD_STEPS)
    return torch.where(horizon > 0, told, untold)


def base_pull(step: Tensor, horizon: Tensor) -> Tensor:
    """Base logit of the pull towards the averaged weights, shape `()`: rises only as the told horizon ends."""
    low, high = PULL_LOGIT
    share = (step + 1) / horizon.clamp_min(1)
    ending = ((share - (1 - ENDING)) / ENDING).clamp(0, 1) * (horizon > 0) * (share <= 1)
    return low + (high - low) * ending


def longest_step(agreement: Tensor, age: Tensor) -> Tensor:
    """Bound of each tensor's step, in the unit of `LONGEST`, `(N, n)`.

    Args:
        agreement: `features.agreement`, `(N, n)`. Its 16th power counts: nothing is added below 0.7.
        age: steps that each tensor has taken, `(n,)`.
    """
    sure = agreement.clamp(0, 1).square().square().square().square()
    return LONGEST + (FARTHEST - LONGEST) * sure * (age > AGREED_FROM)
