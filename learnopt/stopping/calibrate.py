"""Where the learned stopper and the learned pruner draw their lines: thresholds by their outcomes on runs set aside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learnopt.stopping import peer_train, policy
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.peer_network import PeerNetwork
from learnopt.stopping.policy import Outcome

TOLERANCE = 0.01
THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5)
PRUNING = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)
MOST_EXCESS = 0.004
"""Mean excess that is allowed on runs set aside; the promise on others is 0.005."""
NEAR = 0.01
"""A study is as good as unpruned if its best value is within this share of the unpruned one's."""
LEAST_NEAR = 0.95


class PrunedOutcome(NamedTuple):
    """Means over simulated studies."""

    compute: float  # share of the steps taken
    near: float  # share of studies whose best value is within NEAR of the unpruned one's


def stopping(curve: CurveNetwork, curves: Curves, tolerance: float = TOLERANCE) -> list[tuple[float, Outcome]]:
    """What each of `THRESHOLDS` does to recorded runs whose length is told."""
    curves = curves.of(curves.length > 2)
    chances = policy.probabilities(curve, curves, tolerance)
    return [(t, policy.outcome(curves, policy.first_below(chances, t, curves))) for t in THRESHOLDS]


def stopping_threshold(outcomes: list[tuple[float, Outcome]]) -> float:
    """The highest threshold whose excess is allowed, the lowest of all if none is."""
    return max((t for t, o in outcomes if o.excess <= MOST_EXCESS), default=THRESHOLDS[0])


def pruning(
    curve: CurveNetwork, peer: PeerNetwork, curves: Curves, trials: int = 30, seeds: int = 3
) -> list[tuple[float, PrunedOutcome]]:
    """What each of `PRUNING` does to simulated studies, `seeds` of every task; leaders are not pruned."""
    tasks = peer_train.recorded(curve, curves)
    results = []
    for threshold in PRUNING:
        rows = []
        for i, task in enumerate(tasks):
            for seed in range(seeds):
                order = np.random.default_rng([i, seed]).permutation(len(task.best))[:trials].tolist()
                study = peer_train.simulate(curve, task, order, peer_train.chances(peer), threshold, 0.0)
                full = float(task.best[order, -1].min())
                rows.append((study.compute, float(study.completed <= full + NEAR * abs(full))))
        results.append((threshold, PrunedOutcome(*map(float, np.mean(rows, 0)))))
    return results


def pruning_threshold(outcomes: list[tuple[float, PrunedOutcome]]) -> float:
    """The highest threshold that keeps enough studies near, the lowest of all if none does."""
    return max((t for t, o in outcomes if o.near >= LEAST_NEAR), default=PRUNING[0])
