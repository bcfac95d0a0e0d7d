"""Train a small CNN on scikit-learn's digits with no learning rate, and print what the meta-network chose."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from learnopt import LearnedOptimizer


def main(steps: int = 300) -> float:
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )  # fmt: skip
    optimizer = LearnedOptimizer(model.parameters(), total_steps=steps)
    for step in range(steps):
        rows = torch.randint(0, 1200, (64,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        if step % 50 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}  schedule {optimizer.schedule:.2f}")
        if optimizer.should_stop:
            print(f"stopped: {optimizer.stop_reason}")
            break
    optimizer.eval()  # the averaged weights, where the run was stopped
    model.eval()
    accuracy = (model(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    for row in optimizer.explain():
        print(f"{row['shape']!s:16} learning rate {row['learning_rate']:.5f}  decay {row['decay']:.5f}")
    return accuracy


if __name__ == "__main__":
    main()
