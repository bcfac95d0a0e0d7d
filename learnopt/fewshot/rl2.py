"""RL²: reinforcement learning of a recurrent policy whose state does the learning.

Sources: Duan et al. 2016 (RL²) and Wang et al. 2016; updates by PPO (Schulman et al. 2017) on generalised advantages
(Schulman et al. 2016).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt.fewshot.bandits import Bandits, Play, play
from learnopt.fewshot.fitting import Row
from learnopt.fewshot.meta_trained import MetaTrained, check_whole, short
from learnopt.fewshot.recurrent_policy import Agent, RecurrentPolicy

CLIP = 0.2
"""A minibatch's policy is moved no further than this in the ratio of its probabilities."""
VALUE, ENTROPY = 0.5, 0.01
"""Weights of the value's loss and of the policy's entropy, which falls to zero over training."""


class Batch(NamedTuple):
    """What PPO learns from: `T` pulls of `N` bandits."""

    seen: Tensor  # (T, N, A, INPUTS)
    actions: Tensor  # (T, N)
    log_probabilities: Tensor  # (T, N), of the actions when they were drawn
    advantages: Tensor  # (T, N)
    targets: Tensor  # (T, N), of the value head

    def rows(self, index: Tensor) -> Batch:
        """The bandits of these numbers."""
        return Batch(*(x[:, index] for x in self))


def advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantages of a whole play, `(T, N)`; nothing follows the last pull.

    `sum_k (discount * trace)^k (r[t + k] + discount * V[t + k + 1] - V[t + k])`.
    """
    found, running, after = torch.empty_like(rewards), torch.zeros_like(rewards[0]), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        running = rewards[t] + discount * after - values[t] + discount * trace * running
        found[t], after = running, values[t]
    return found


class RL2(MetaTrained):
    """A policy for Bernoulli bandits that learned how to explore from bandits.

    Args:
        arms: of every bandit in training; the policy plays any number.
        pulls: of every bandit in training; the policy sees what share is left.
        hidden: units of the GRU.
        discount, trace: of the generalised advantages.
        seed: of the initial weights.
        meta_lr: of Adam; falls linearly to zero unless `meta_schedule` says otherwise.
        clip: norm that gradients are cut to.

    Attributes:
        network: the policy; its state is what it has learned of a bandit.

    Raises:
        ValueError: a setting is out of its range; the message names it.
    """

    name = "rl2"

    def __init__(
        self, arms: int = 5, pulls: int = 10, *, hidden: int = 24, discount: float = 1.0, trace: float = 0.95,
        seed: int = 0, meta_lr: float = 2e-3, meta_schedule: str = "linear",
        clip: float | None = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(meta_lr=meta_lr, meta_schedule=meta_schedule, clip=clip)
        check_whole(arms=arms, pulls=pulls, hidden=hidden)
        if arms < 2:
            raise ValueError(f"a bandit needs at least 2 arms, got {arms}")
        for what, value in (("discount", discount), ("trace", trace)):
            if not 0 <= value <= 1:
                raise ValueError(f"{what} must be in [0, 1], got {value!r}")
        self.arms, self.pulls, self.discount, self.trace = arms, pulls, discount, trace
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = RecurrentPolicy(hidden)

    def slow(self) -> dict[str, Tensor]:
        return dict(self.network.named_parameters())

    def settings(self) -> dict[str, Any]:
        return super().settings() | {k: getattr(self, k) for k in ("arms", "pulls", "discount", "trace")}

    def meta_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.meta_lr, eps=1e-5)

    def agent(self, greedy: bool = True) -> Agent:
        """A player that begins to learn anew with every bandit."""
        return Agent(self.network, greedy)

    def fit(
        self, meta_steps: int = 80, *, bandits: int = 500, epochs: int = 3, minibatches: int = 4, seed: int = 0,
        out: str | Path | None = None, progress: bool = True,
    ) -> list[Row]:  # fmt: skip
        """Train; a function of the weights, the arguments and the seed, wherever it was interrupted.

        Args:
            bandits: played in a meta-step, all fresh.
            epochs: passes over them.
            minibatches: of bandits, in a pass.
            out: folder of a checkpoint; the same call goes on from it. Ctrl-C saves first.
            progress: show a bar with the time left.

        Returns:
            One row per meta-step: `meta_loss`, the failures per pull; `return`, the mean successes of a bandit.
        """
        check_whole(meta_steps=meta_steps, bandits=bandits, epochs=epochs, minibatches=minibatches)

        def step(k: int, optimizer: torch.optim.Optimizer) -> Row:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            fresh = Bandits.sample(bandits, self.arms, generator)
            played = play(self.agent(greedy=False), fresh, self.pulls, generator)
            batch, entropy, row = self.batch(played, fresh), ENTROPY * (1 - k / meta_steps), {}
            for _ in range(epochs):
                for index in torch.randperm(bandits, generator=generator).chunk(minibatches):
                    row = self._improve(batch.rows(index), entropy, optimizer)
            mean = float(played.returns.mean())
            return row | {"meta_loss": short(1 - mean / self.pulls), "return": short(mean)}

        config = {"bandits": bandits, "epochs": epochs, "minibatches": minibatches, "meta_steps": meta_steps}
        return self.outer_loop(step, meta_steps, config, seed=seed, out=out, progress=progress)

    @torch.no_grad()
    def batch(self, played: Play, bandits: Bandits) -> Batch:
        """What the policy can learn from a play of its own.

        It is judged by its regret, which training knows: what an arm pays on average less what the best one does. That
        differs from what was paid by nothing that the policy can change, and varies far less from bandit to bandit.
        The value head says how far a bandit is from the mean of them all at that pull, in units of sqrt(pulls): in
        those of a pull, and with the mean to be learned, its loss would drown the policy's.
        """
        seen = self.network.inputs(played, self.arms)
        logits, raw, _ = self.network(seen)
        unit = math.sqrt(self.pulls)
        pay = bandits.probabilities.gather(1, played.actions.mT).mT - bandits.probabilities.amax(1)
        usual = advantages(pay, torch.zeros_like(pay), self.discount, 1.0).mean(1, keepdim=True)
        found = advantages(pay, usual + unit * raw, self.discount, self.trace)
        targets = found / unit + raw
        chosen = logits.log_softmax(-1).gather(-1, played.actions[..., None]).squeeze(-1)
        return Batch(seen, played.actions, chosen, (found - found.mean()) / (found.std() + 1e-8), targets)

    def loss(self, batch: Batch, entropy: float) -> Tensor:
        """PPO's clipped loss, with that of the value and a bonus for the policy's entropy; shape `()`."""
        logits, values, _ = self.network(batch.seen)
        logs = logits.log_softmax(-1)
        ratio = (logs.gather(-1, batch.actions[..., None]).squeeze(-1) - batch.log_probabilities).exp()
        gain = torch.minimum(ratio * batch.advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * batch.advantages)
        spread = -(logs.exp() * logs).sum(-1)
        total: Tensor = VALUE * (values - batch.targets).square().mean() - gain.mean() - entropy * spread.mean()
        return total

    def _improve(self, batch: Batch, entropy: float, optimizer: torch.optim.Optimizer) -> Row:
        loss = self.loss(batch, entropy)
        return self.update(float(loss.detach()), torch.autograd.grad(loss, list(self.slow().values())), optimizer)
