"""Bernoulli bandits, thousands at a time, with the loop in which any policy plays them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Bandits(NamedTuple):
    """`N` bandits of `A` arms whose success probabilities are uniform on [0, 1]."""

    probabilities: Tensor  # (N, A)

    @staticmethod
    def sample(count: int, arms: int, generator: torch.Generator) -> Bandits:
        """Draw `count` bandits.

        Raises:
            ValueError: fewer than one bandit or two arms.
        """
        if count < 1:
            raise ValueError(f"the number of bandits must be at least 1, got {count}")
        if arms < 2:
            raise ValueError(f"a bandit needs at least 2 arms, got {arms}")
        return Bandits(torch.rand(count, arms, generator=generator))

    def pull(self, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Rewards of 0 or 1, `(N,)`, of pulling arm `actions[i]` of bandit `i`."""
        chosen = self.probabilities.gather(1, actions[:, None])[:, 0]
        return (torch.rand(len(chosen), generator=generator) < chosen).float()


class Policy(Protocol):
    """Whoever plays a set of bandits: told once when it begins, then asked and told at every pull."""

    def begin(self, count: int, arms: int, pulls: int, generator: torch.Generator) -> None:
        """Forget everything; `count` bandits of `arms` arms will be pulled `pulls` times each."""

    def choose(self) -> Tensor:
        """The arm to pull of each bandit, `(N,)` integers."""

    def observe(self, actions: Tensor, rewards: Tensor) -> None:
        """What was pulled and what it paid, `(N,)` each."""


class Play(NamedTuple):
    """What happened in `T` pulls of `N` bandits."""

    actions: Tensor  # (T, N)
    rewards: Tensor  # (T, N)

    @property
    def returns(self) -> Tensor:
        """Successes of each bandit, `(N,)`."""
        return self.rewards.sum(0)


@torch.no_grad()
def play(policy: Policy, bandits: Bandits, pulls: int, generator: torch.Generator) -> Play:
    """Let a policy pull every bandit `pulls` times."""
    if pulls < 1:
        raise ValueError(f"pulls must be at least 1, got {pulls}")
    count, arms = bandits.probabilities.shape
    policy.begin(count, arms, pulls, generator)
    actions, rewards = [], []
    for _ in range(pulls):
        actions.append(policy.choose())
        rewards.append(bandits.pull(actions[-1], generator))
        policy.observe(actions[-1], rewards[-1])
    return Play(torch.stack(actions), torch.stack(rewards))
