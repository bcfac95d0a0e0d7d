"""The optimizers of a comparison. A new one is a file with `BASELINES` and a line here."""

from __future__ import annotations

from learnopt.baselines import adaptive, learned, momentum, muon, prodigy, schedule_free
from learnopt.baselines.base import SCHEDULES, Baseline, Settings, Space, Stepper, multiplier

REGISTRY: dict[str, Baseline] = {
    baseline.name: baseline
    for family in (learned, adaptive, momentum, muon, schedule_free, prodigy)
    for baseline in family.BASELINES
}

__all__ = ["REGISTRY", "SCHEDULES", "Baseline", "Settings", "Space", "Stepper", "get", "multiplier"]


def get(name: str) -> Baseline:
    """The baseline called `name`.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown optimizer {name!r}; choose from: {', '.join(REGISTRY)}")
    return REGISTRY[name]
