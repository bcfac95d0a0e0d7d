"""Where the learned stopper and the learned pruner draw their lines: thresholds by their outcomes on runs set aside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learnopt.stopping import peer_train, policy, studies
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.peer_network import PeerNetwork
from learnopt.stopping.policy import Outcome
from learnopt.stopping.session import Session

KEYS = {"losses": "threshold", "metrics": "threshold_max", "limited metrics": "threshold_limit"}
"""What the card calls the thresholds: of probabilities, and of probabilities times what can at most be gained."""
TOLERANCE = 0.01
THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.014, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5)
PRUNING = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
MOST_EXCESS = 0.004
"""Mean excess that is allowed on runs set aside; the promise on others is 0.005."""
TRIALS = (30, 120)
"""Trials of the studies that the pruning threshold is set by."""
LEAST_NEAR = 0.95


class PrunedOutcome(NamedTuple):
    """Means over simulated studies."""

    compute: float  # share of the steps taken
    near: float  # share of studies whose best value is within studies.NEAR of the unpruned one's


class Stopping(NamedTuple):
    """What thresholds do to runs of one kind, whose length is told."""

    kind: str
    curves: Curves
    outcomes: list[tuple[float, Outcome]]  # by threshold
    threshold: float  # the highest whose excess is allowed, the lowest of all if none is

    @property
    def key(self) -> str:
        """The card's name of the threshold."""
        return KEYS[self.kind]


def kinds(curves: Curves) -> dict[str, Curves]:
    """Runs judged by losses and runs judged by other metrics, whichever there are."""
    curves = curves.of(curves.length > 2)
    parts = {"losses": curves.of(~curves.metric), "metrics": curves.of(curves.metric)}
    return {kind: part for kind, part in parts.items() if len(part)}


def stoppings(curve: CurveNetwork, curves: Curves) -> list[Stopping]:
    """What thresholds do to recorded runs of every kind; metrics are judged with their limit told and without."""
    parts = kinds(curves)
    if "metrics" in parts:
        parts["limited metrics"] = parts["metrics"]
    return [stopping(curve, kind, part) for kind, part in parts.items()]


def stopping(curve: CurveNetwork, kind: str, curves: Curves, tolerance: float = TOLERANCE) -> Stopping:
    """What each of `THRESHOLDS` does to recorded runs of one kind."""
    chances = policy.probabilities(curve, curves, tolerance)
    if kind == "limited metrics":
        chances = policy.prospects(chances, curves, tolerance)
    outcomes = [(t, policy.outcome(curves, policy.first_below(chances, t, curves))) for t in THRESHOLDS]
    return Stopping(kind, curves, outcomes, stopping_threshold(outcomes))


def stopping_threshold(outcomes: list[tuple[float, Outcome]]) -> float:
    """The highest threshold whose excess is allowed, the lowest of all if none is."""
    return max((t for t, o in outcomes if o.excess <= MOST_EXCESS), default=THRESHOLDS[0])


def pruning(
    curve: CurveNetwork, peer: PeerNetwork, curves: Curves, session: Session | None = None, repeats: int = 2
) -> dict[int, list[tuple[float, PrunedOutcome]]]:
    """What each of `PRUNING` does to simulated studies, by their number of trials.

    Args:
        session: keeps what was done; None: nothing does.
        repeats: studies of every task; a task with fewer recorded runs than a study has trials gives one of those it
            has for the smallest number, and none for larger ones.
    """
    tasks = studies.recorded(curve, curves)
    jobs = [
        (trials, t, repeat)
        for trials in TRIALS
        for t, task in enumerate(tasks)
        for repeat in range(repeats)
        if trials == min(TRIALS) or len(task.best) > trials // 2
    ]
    policy = peer_train.scores(peer)

    def play(i: int) -> list[list[float]]:
        trials, t, repeat = jobs[i]
        drawn = studies.draw(tasks[t], trials, np.random.default_rng([t, repeat]))
        ends = [studies.simulate(curve, tasks[t], drawn, policy, threshold).ends for threshold in PRUNING]
        return [list(map(float, studies.result(tasks[t], drawn, e))) for e in ends]

    rows = (session or Session()).gather("calibration", len(jobs), play)
    found = {}
    for trials in dict.fromkeys(job[0] for job in jobs):
        table = np.array([row for row, job in zip(rows, jobs, strict=True) if job[0] == trials]).mean(0)
        found[trials] = [(t, PrunedOutcome(*map(float, row[:2]))) for t, row in zip(PRUNING, table, strict=True)]
    return found


def pruning_threshold(outcomes: dict[int, list[tuple[float, PrunedOutcome]]]) -> float:
    """The highest threshold that keeps enough studies near, whatever their size; the lowest if none does."""
    near = {t: min(dict(rows)[t].near for rows in outcomes.values()) for t in PRUNING}
    return max((t for t in PRUNING if near[t] >= LEAST_NEAR), default=PRUNING[0])
