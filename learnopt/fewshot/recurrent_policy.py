"""A GRU that plays bandits: what it has seen of a bandit is its state, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from learnopt.fewshot.bandits import Play


class RecurrentPolicy(nn.Module):
    """From what each pull paid to the next arm and to the regret that is still to come, as a value.

    Both heads start at zero: a policy that begins sure of anything stops exploring before it has learned to.

    Args:
        arms: of every bandit.
        hidden: units of the GRU.
    """

    def __init__(self, arms: int, hidden: int) -> None:
        super().__init__()
        self.arms = arms
        self.memory = nn.GRU(2 * arms + 1, hidden)
        self.policy, self.value = nn.Linear(hidden, arms), nn.Linear(hidden, 1)
        for head in (self.policy, self.value):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, seen: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(T, N, A)`, values `(T, N)` and the state after inputs `(T, N, 2 A + 1)`."""
        out, state = self.memory(seen, state)
        return self.policy(out), self.value(out).squeeze(-1), state

    def first_input(self, count: int) -> Tensor:
        """What is seen before the first pull: everything is left."""
        seen = self.policy.weight.new_zeros(count, 2 * self.arms + 1)
        seen[:, -1] = 1.0
        return seen

    def input(self, actions: Tensor, rewards: Tensor, left: Tensor) -> Tensor:
        """What is seen after a pull: which arm paid or did not, and the share of pulls that is left."""
        pulled, paid = one_hot(actions, self.arms).to(rewards), rewards[..., None]
        return torch.cat([pulled * paid, pulled * (1 - paid), left[..., None]], -1)

    def inputs(self, play: Play) -> Tensor:
        """All inputs of a whole play, `(T, N, 2 A + 1)`."""
        pulls, count = play.actions.shape
        left = 1 - torch.arange(1, pulls, dtype=play.rewards.dtype) / pulls
        later = self.input(play.actions[:-1], play.rewards[:-1], left[:, None].expand(-1, count))
        return torch.cat([self.first_input(count)[None], later])


class Agent:
    """Plays by a recurrent policy (a `Policy`); learns a bandit without changing a weight.

    Args:
        network: its weights are read, never changed.
        greedy: the likeliest arm; otherwise arms are drawn, as in training.
    """

    def __init__(self, network: RecurrentPolicy, greedy: bool = True) -> None:
        self.network, self.greedy = network, greedy

    def begin(self, count: int, arms: int, pulls: int, generator: torch.Generator) -> None:
        if arms != self.network.arms:
            raise ValueError(f"the policy was made for {self.network.arms} arms, got bandits with {arms}")
        self.seen, self.state = self.network.first_input(count), None
        self.pulls, self.left, self.generator = pulls, pulls, generator

    @torch.no_grad()
    def choose(self) -> Tensor:
        logits: Tensor
        logits, _, self.state = self.network(self.seen[None], self.state)
        if self.greedy:
            return logits[0].argmax(-1)
        return torch.multinomial(logits[0].softmax(-1), 1, generator=self.generator)[:, 0]

    def observe(self, actions: Tensor, rewards: Tensor) -> None:
        self.left -= 1
        self.seen = self.network.input(actions, rewards, torch.full_like(rewards, self.left / self.pulls))
