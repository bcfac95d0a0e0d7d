"""Reptile on sine waves: learn where to start without meta-gradients, with Adam in the inner loop."""

from __future__ import annotations

import torch
from torch import nn

from learnopt.fewshot import Reptile
from learnopt.fewshot.rules import Adam
from learnopt.fewshot.sources.sinusoids import Sinusoids


def main(meta_steps: int = 3000) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    learner = Reptile(model, steps=8, inner_batch=10, rule=Adam(0.01, betas=(0.0, 0.999)), meta_lr=0.5)
    learner.fit(Sinusoids(shots=10, queries=40), meta_steps, meta_batch=5)
    evaluation = learner.evaluate(Sinusoids(shots=10, queries=100), count=300, steps=16)
    for row in evaluation.summary()[::4]:
        mean, half, median = (row[f"loss_{name}"] for name in ("mean", "half", "median"))
        print(f"{row['steps']} steps: mean {mean:.3f} ± {half:.3f}, median {median:.3f}")
    return evaluation.summary()[-1]["loss_mean"]


if __name__ == "__main__":
    main()
