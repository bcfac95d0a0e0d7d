"""Estimators of the meta-gradient, by name."""

from __future__ import annotations

from learnopt.estimators.base import Episode, Estimate, Estimator, noise
from learnopt.estimators.es import AntitheticES
from learnopt.estimators.nodes import NodePerturbation
from learnopt.estimators.nres import NoiseReuseES

ESTIMATORS: dict[str, type[Estimator]] = {e.name: e for e in (AntitheticES, NoiseReuseES, NodePerturbation)}

__all__ = [
    "ESTIMATORS",
    "AntitheticES",
    "Episode",
    "Estimate",
    "Estimator",
    "NodePerturbation",
    "NoiseReuseES",
    "noise",
]
