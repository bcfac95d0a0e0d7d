"""The stopping decision: a small network that reads what the rule sees of a run and says whether going on pays.

Unlike the rule it is learned supervised, on recorded runs (`learnopt.stop_train`), as Adriaensen et al. 2023 (LC-PFN)
learn from curves when to stop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learnopt import features

HIDDEN = 8
THRESHOLD = 0.9
"""Probability above which `should_stop` turns true, where the artifact's card does not say otherwise."""

MEMORY = 0.1
"""Weight of a new probability in the smoothed one."""

SHAPES: dict[str, tuple[int, int]] = {
    "in": (len(features.GLOBAL), HIDDEN), "bias": (1, HIDDEN), "out": (HIDDEN, 1), "out_bias": (1, 1),
}  # fmt: skip


def initial_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Random input weights, zero output: probability 1/2 everywhere."""
    weights = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    weights["in"] = torch.randn(SHAPES["in"], generator=generator) / SHAPES["in"][0] ** 0.5
    return weights


def logit(weights: dict[str, Tensor], columns: Tensor) -> Tensor:
    """Log-odds that the best validation loss will not improve any more, `(...)`, from `(..., len(GLOBAL))`."""
    hidden = torch.tanh(columns @ weights["in"] + weights["bias"][0])
    return (hidden @ weights["out"] + weights["out_bias"])[..., 0]


def follow(weights: dict[str, Tensor], columns: Tensor, stop: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The smoothed probability and the number of steps in it after one more step.

    Args:
        columns: `(1, len(GLOBAL))`.
        stop: smoothed over `seen` steps so far, both of shape `()`.
    """
    now = torch.sigmoid(logit(weights, columns))[0]
    return torch.lerp(stop, now, torch.clamp_min(1 / (seen + 1), MEMORY)), seen + 1
