"""Policies for Bernoulli bandits that need no training: they count, under a uniform prior, and choose."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from learnopt.fewshot.gittins import discounted_indices, finite_indices


class Counting(ABC):
    """A policy that pulls the arm of the highest score, ties at random, where scores rest on counts alone."""

    def begin(self, count: int, arms: int, pulls: int, generator: torch.Generator) -> None:
        self.successes = torch.zeros(count, arms)
        self.failures = torch.zeros(count, arms)
        self.left, self.generator = pulls, generator

    def choose(self) -> Tensor:
        scores = self.scores()
        best = scores >= scores.amax(1, keepdim=True) - 1e-9
        return (best * torch.rand(scores.shape, generator=self.generator).clamp_min(1e-12)).argmax(1)

    def observe(self, actions: Tensor, rewards: Tensor) -> None:
        rows = torch.arange(len(actions))
        self.successes[rows, actions] += rewards
        self.failures[rows, actions] += 1 - rewards
        self.left -= 1

    @property
    def means(self) -> Tensor:
        """Posterior means, `(N, A)`."""
        return (self.successes + 1) / (self.successes + self.failures + 2)

    @abstractmethod
    def scores(self) -> Tensor:
        """How much each arm is worth pulling now, `(N, A)`."""


class Random(Counting):
    """Any arm, whatever it paid."""

    def scores(self) -> Tensor:
        return torch.zeros_like(self.successes)


class Greedy(Counting):
    """The highest posterior mean."""

    def scores(self) -> Tensor:
        return self.means


class UCB1(Counting):
    """Posterior mean and `width * sqrt(2 ln t / (n + 1))` for an arm pulled `n` times at pull `t` (Auer et al. 2002).

    `width` 1 is the published bound, which explores too long for budgets of 10 to 100 pulls; 0.15 did best there.
    """

    def __init__(self, width: float = 0.15) -> None:
        if not width >= 0:
            raise ValueError(f"width must be at least 0, got {width}")
        self.width = width

    def scores(self) -> Tensor:
        pulled = self.successes + self.failures
        t = float(pulled[0].sum()) + 1
        return self.means + self.width * (2 * math.log(t) / (pulled + 1)).sqrt()


class Thompson(Counting):
    """The highest of one draw from each arm's posterior (Thompson 1933)."""

    def begin(self, count: int, arms: int, pulls: int, generator: torch.Generator) -> None:
        super().begin(count, arms, pulls, generator)
        # torch draws from Beta with its global generator only
        self.draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    def scores(self) -> Tensor:
        return torch.from_numpy(self.draws.beta(self.successes.numpy() + 1, self.failures.numpy() + 1)).float()


class Gittins(Counting):
    """The highest Gittins index: of what is left of the budget, or of an endless future with a discount."""

    def __init__(self, discount: float | None = None) -> None:
        self.discount = discount

    def begin(self, count: int, arms: int, pulls: int, generator: torch.Generator) -> None:
        super().begin(count, arms, pulls, generator)
        table = finite_indices(pulls) if self.discount is None else discounted_indices(pulls, self.discount)
        self.table = torch.from_numpy(table).float()

    def scores(self) -> Tensor:
        table = self.table[self.left] if self.discount is None else self.table
        return table[self.successes.long(), self.failures.long()]


POLICIES: Final[dict[str, Callable[[], Counting]]] = {
    "random": Random, "greedy": Greedy, "thompson": Thompson, "ucb1": UCB1, "gittins": Gittins,
}  # fmt: skip
