"""MAML on sine waves: learn where to start, then fit a new wave from ten points in a few steps."""

from __future__ import annotations

import torch
from torch import nn

from learnopt.fewshot import MAML
from learnopt.fewshot.sources.sinusoids import Sinusoids


def main(meta_steps: int = 3000) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    learner = MAML(model, lr=0.01, steps=5, meta_lr=5e-3, meta_schedule="cosine")
    learner.fit(Sinusoids(shots=10, queries=40), meta_steps, meta_batch=25)

    wave = Sinusoids(shots=10, queries=100).draw(seed=1, count=1)  # a wave that it has not seen
    adapted = learner.adapt(wave.support_x[0], wave.support_y[0])
    for name, network in (("before", learner.model), ("after 5 steps", adapted)):
        print(f"{name}: squared error {nn.functional.mse_loss(network(wave.query_x[0]), wave.query_y[0]).item():.3f}")

    evaluation = learner.evaluate(Sinusoids(shots=10, queries=100), count=500, steps=5)
    for row in evaluation.summary():
        mean, half, median = (row[f"loss_{name}"] for name in ("mean", "half", "median"))
        print(f"{row['steps']} steps: mean {mean:.3f} ± {half:.3f}, median {median:.3f}")
    return evaluation.summary()[-1]["loss_mean"]


if __name__ == "__main__":
    main()
