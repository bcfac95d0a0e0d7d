"""Estimators of the meta-gradient, by name; `imitation` is one of another gradient, for a warm start."""

from __future__ import annotations

from learnopt.estimators.backprop import Backprop
from learnopt.estimators.base import Episode, Estimate, Estimator, noise
from learnopt.estimators.es import AntitheticES
from learnopt.estimators.imitation import Imitation
from learnopt.estimators.nodes import NodePerturbation
from learnopt.estimators.nres import NoiseReuseES
from learnopt.estimators.pes import PersistentES

ESTIMATORS: dict[str, type[Estimator]] = {
    e.name: e for e in (AntitheticES, NoiseReuseES, PersistentES, NodePerturbation, Backprop, Imitation)
}

__all__ = [
    "ESTIMATORS",
    "AntitheticES",
    "Backprop",
    "Episode",
    "Estimate",
    "Estimator",
    "Imitation",
    "NodePerturbation",
    "NoiseReuseES",
    "PersistentES",
    "noise",
]
