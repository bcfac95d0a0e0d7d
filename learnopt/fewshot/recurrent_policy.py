"""A GRU that plays bandits: what it has seen of a bandit is its state, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from learnopt.fewshot.bandits import Play

INPUTS = 3
"""What an arm sees of a pull: whether it paid, whether it failed to, and the share of pulls that is left."""


class RecurrentPolicy(nn.Module):
    """From what each pull paid to the next arm and to the regret that is still to come, as a value.

    Arms are exchangeable, so that all share one GRU and each has a state of its own: the order of arms makes no
    difference, and there may be any number of them. Heads read an arm's state beside the mean of all; they start at
    zero, since a policy that begins sure of anything stops exploring before it has learned to.

    Args:
        hidden: units of the GRU.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.memory = nn.GRU(INPUTS, hidden)
        self.together = nn.Linear(2 * hidden, hidden)
        self.policy, self.value = nn.Linear(hidden, 1), nn.Linear(hidden, 1)
        for head in (self.policy, self.value):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, seen: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(T, N, A)`, values `(T, N)` and the state after inputs `(T, N, A, INPUTS)`."""
        pulls, count, arms, _ = seen.shape
        out, state = self.memory(seen.reshape(pulls, count * arms, INPUTS), state)
        own = out.reshape(pulls, count, arms, -1)
        both = torch.relu(self.together(torch.cat([own, own.mean(2, keepdim=True).expand_as(own)], -1)))
        return self.policy(both).squeeze(-1), self.value(both.mean(2)).squeeze(-1), state

    def first_input(self, count: int, arms: int) -> Tensor:
        """What is seen before the first pull, `(N, A, INPUTS)`: everything is left."""
        return self.policy.weight.new_tensor([0.0, 0.0, 1.0]).expand(count, arms, INPUTS)

    def input(self, actions: Tensor, rewards: Tensor, left: Tensor, arms: int) -> Tensor:
        """What is seen after a pull, `(..., A, INPUTS)`, of actions, rewards and shares left `(...)`."""
        pulled, paid = one_hot(actions, arms).to(rewards), rewards[..., None]
        return torch.stack([pulled * paid, pulled * (1 - paid), left[..., None].expand_as(pulled)], -1)

    def inputs(self, play: Play, arms: int) -> Tensor:
        """All inputs of a whole play, `(T, N, A, INPUTS)`."""
        pulls, count = play.actions.shape
        left = torch.arange(pulls - 1, 0, -1, dtype=play.rewards.dtype) / pulls
        later = self.input(play.actions[:-1], play.rewards[:-1], left[:, None].expand(-1, count), arms)
        return torch.cat([self.first_input(count, arms)[None], later])


class Agent:
    """Plays by a recurrent policy (a `Policy`); learns a bandit without changing a weight.

    Args:
        network: its weights are read, never changed.
        greedy: the likeliest arm; otherwise arms are drawn, as in training.
    """

    def __init__(self, network: RecurrentPolicy, greedy: bool = True) -> None:
        self.network, self.greedy = network, greedy

    def begin(self, count: int, arms: int, pulls: int, generator: torch.Generator) -> None:
        self.seen, self.state = self.network.first_input(count, arms), None
        self.arms, self.pulls, self.left, self.generator = arms, pulls, pulls, generator

    @torch.no_grad()
    def choose(self) -> Tensor:
        logits: Tensor
        logits, _, self.state = self.network(self.seen[None], self.state)
        if self.greedy:
            return logits[0].argmax(-1)
        return torch.multinomial(logits[0].softmax(-1), 1, generator=self.generator)[:, 0]

    def observe(self, actions: Tensor, rewards: Tensor) -> None:
        self.left -= 1
        left = torch.full_like(rewards, self.left / self.pulls)
        self.seen = self.network.input(actions, rewards, left, self.arms)
