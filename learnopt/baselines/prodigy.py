"""Prodigy from its package: estimates the learning rate by itself [Mishchenko and Defazio 2023, arXiv:2306.06101]."""

from __future__ import annotations

from torch import nn

from learnopt.baselines.base import Baseline, Settings, Stepper


def _make(model: nn.Module, settings: Settings, total_steps: int, weights: str) -> Stepper:
    from prodigyopt import Prodigy

    parameters = [p for p in model.parameters() if p.requires_grad]
    return Stepper([Prodigy(parameters, lr=settings.lr)], settings.schedule, total_steps)


# its authors recommend cosine annealing with lr=1
BASELINES = [Baseline("prodigy", "Prodigy", _make, Settings(1.0, "cosine"), package="prodigyopt")]
