"""What the estimators that truncate share: an episode goes on over several jobs, one window of steps each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from learnopt import objective
from learnopt.devices import moved
from learnopt.estimators.base import Episode, Estimator
from learnopt.unroll import Problem, Runs, Trajectory


class Window(NamedTuple):
    """One job's part of an episode."""

    runs: Runs
    start: int
    stop: int
    valid_at: tuple[int, ...]
    steps: int  # of the whole episode
    reference: Tensor | None  # initial loss, `()`; None in the first window, which measures it

    def losses(self, trajectory: Trajectory, training: float) -> tuple[Tensor, Tensor]:
        """Meta-losses of the window, `(N,)`, and the reference that they are measured against; `training` as there."""
        reference = trajectory.losses[0].detach().median() if self.reference is None else self.reference
        return objective.meta_loss(trajectory, reference, training), reference

    def carry(self, runs: Runs, reference: Tensor, **more: Any) -> dict[str, Any] | None:
        """What the next window goes on from, in the main memory; None after the last."""
        if self.stop >= self.steps:
            return None
        return {"step": self.stop, "runs": moved(runs, "cpu"), "reference": reference, **more}


class Windowed(Estimator):
    """Takes an episode in windows, each with a meta-loss of its own.

    Args:
        window: steps per job.
    """

    settings = ("window",)
    keeps_state = True

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = (), window: int = 50) -> None:
        super().__init__(pairs, sigma, frozen)
        if window < 1:
            raise ValueError(f"window must be at least 1 step, got {window}")
        self.window = window

    def next_window(self, problem: Problem, episode: Episode, carry: dict[str, Any] | None) -> Window:
        """The window after the one that left `carry`; the first one without."""
        start: int = carry["step"] if carry else 0
        stop = min(start + self.window, episode.steps)
        runs: Runs = moved(carry["runs"], problem.device) if carry else problem.begin()
        points = objective.valid_at(start, stop, episode.steps)
        return Window(runs, start, stop, points, episode.steps, carry["reference"] if carry else None)
