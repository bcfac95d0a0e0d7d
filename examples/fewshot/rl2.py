"""RL²: a policy learns how to explore; then it plays bandits that it has never seen, without changing a weight."""

from __future__ import annotations

import torch

from learnopt.fewshot import RL2
from learnopt.fewshot.bandit_policies import POLICIES
from learnopt.fewshot.bandits import Bandits, play


def main(meta_steps: int = 40) -> dict[str, float]:
    learner = RL2(arms=5, pulls=10)
    learner.fit(meta_steps, bandits=500)

    generator = torch.Generator().manual_seed(0)
    bandits = Bandits.sample(5000, 5, generator)
    players = {"rl2": learner.agent(), **{name: make() for name, make in POLICIES.items()}}
    returns = {name: play(player, bandits, 10, generator).returns for name, player in players.items()}
    for name, values in returns.items():
        print(f"{name:9} {values.mean():.2f} ± {1.96 * values.std() / len(values) ** 0.5:.2f} of 10")

    agent = learner.agent()  # one bandit, pull by pull
    bandit = Bandits(torch.tensor([[0.2, 0.9, 0.5, 0.1, 0.6]]))
    agent.begin(count=1, arms=5, pulls=10, generator=generator)
    for _ in range(10):
        arm = agent.choose()
        paid = bandit.pull(arm, generator)
        agent.observe(arm, paid)
        print(f"arm {int(arm)} {'paid' if paid else 'did not pay'}")
    return {name: float(values.mean()) for name, values in returns.items()}


if __name__ == "__main__":
    main()
