"""Ratings: learn a catalogue from many users, then adapt to a new one from five ratings, by learned gates."""

from __future__ import annotations

import torch

from learnopt.fewshot import MetaLSTM
from learnopt.fewshot.problems.ratings import network
from learnopt.fewshot.sources.ratings import BestPossible, ItemMeans, Ratings


def main(meta_steps: int = 600) -> dict[str, float]:
    torch.manual_seed(0)
    users = Ratings(shots=5)
    learner = MetaLSTM(network(users.items), lr=0.3, steps=5, meta_lr=1e-2, meta_schedule="cosine", clip=1.0)
    learner.fit(users, meta_steps, meta_batch=25)

    found = {p.name: float(p.evaluate(users, 500).losses.mean()) for p in (ItemMeans(users), BestPossible(users))}
    found["metalstm"] = float(learner.evaluate(users, 500).losses[:, -1].mean())
    for name, error in found.items():
        print(f"{name:14} squared error {error:.3f}")
    user = users.draw(seed=7, count=1)
    adapted = learner.adapt(user.support_x[0], user.support_y[0])
    best = adapted(torch.arange(users.items))[:, 0].argmax()
    print(f"the new user should see item {int(best)} next")
    return found


if __name__ == "__main__":
    main()
