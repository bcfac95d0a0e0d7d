"""Tune AdamW for an MLP on scikit-learn's digits with a few short probes, then train as recommended."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from learnopt import tune


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def main(steps: int = 300) -> float:
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    result = tune(make_model, (x[:1200], y[:1200]), steps=steps, batch_size=64, progress=False)
    print(result)
    print(result.reason)
    torch.manual_seed(0)
    model = make_model()
    optimizer, scheduler = result.build(model)
    for _ in range(steps):
        rows = torch.randint(0, 1200, (64,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    accuracy = (model(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
