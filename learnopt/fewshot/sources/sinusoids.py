"""Sine waves of random amplitude and phase: the regression tasks of Finn, Abbeel and Levine 2017."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from learnopt.fewshot.episode import Episode, generator

AMPLITUDE, PHASE, REACH = (0.1, 5.0), (0.0, math.pi), 5.0
FREQUENCY = (0.5, 2.0)
"""Range of the random frequency; 1 where it is fixed."""


@dataclass(frozen=True)
class Sinusoids:
    """`y = A sin(w (x - phase))`, with x uniform in [-5, 5], A in [0.1, 5], phase in [0, pi].

    Args:
        shots: points to adapt on.
        queries: points to be judged on.
        random_frequency: w is 1, or uniform in [0.5, 2].
    """

    shots: int = 10
    queries: int = 10
    random_frequency: bool = False

    def __post_init__(self) -> None:
        for what in ("shots", "queries"):
            if getattr(self, what) < 1:
                raise ValueError(f"{what} must be 1 or more, got {getattr(self, what)!r}")

    def draw(self, seed: int, count: int) -> Episode:
        g = generator("sinusoids", seed)

        def uniform(low: float, high: float, points: int = 1) -> torch.Tensor:
            return low + (high - low) * torch.rand(count, points, 1, generator=g)

        amplitude, phase = uniform(*AMPLITUDE), uniform(*PHASE)
        frequency = uniform(*FREQUENCY) if self.random_frequency else torch.ones(count, 1, 1)
        x = uniform(-REACH, REACH, self.shots + self.queries)
        y = amplitude * torch.sin(frequency * (x - phase))
        k = self.shots
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:])

    def describe(self) -> str:
        frequency = "random" if self.random_frequency else "fixed"
        return f"sinusoids, {self.shots} shots, {self.queries} queries, {frequency} frequency"
