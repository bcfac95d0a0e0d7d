"""Estimators of the meta-gradient, by name."""

from __future__ import annotations

from learnopt.estimators.backprop import Backprop
from learnopt.estimators.base import Episode, Estimate, Estimator, noise
from learnopt.estimators.es import AntitheticES
from learnopt.estimators.nodes import NodePerturbation
from learnopt.estimators.nres import NoiseReuseES
from learnopt.estimators.pes import PersistentES

ESTIMATORS: dict[str, type[Estimator]] = {
    e.name: e for e in (AntitheticES, NoiseReuseES, PersistentES, NodePerturbation, Backprop)
}

__all__ = [
    "ESTIMATORS",
    "AntitheticES",
    "Backprop",
    "Episode",
    "Estimate",
    "Estimator",
    "NodePerturbation",
    "NoiseReuseES",
    "PersistentES",
    "noise",
]
