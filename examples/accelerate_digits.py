"""Accelerate: scikit-learn's digits with no learning rate, gradients accumulated over two batches."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learnopt import LearnedOptimizer


def main(steps: int = 300) -> float:
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    data = DataLoader(TensorDataset(x[:1200], y[:1200]), batch_size=32, shuffle=True)
    learned = LearnedOptimizer(model.parameters(), total_steps=steps)

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, data = accelerator.prepare(model, learned, data)
    taken = 0
    while taken < steps and not learned.should_stop:  # read-outs are the optimizer's own, not its wrapper's
        for inputs, targets in data:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step(lambda loss=loss: loss)  # a closure tells the loss; plain step() works too
                optimizer.zero_grad()
            taken += accelerator.sync_gradients
            if taken == steps:
                break
    rates = ", ".join(f"{rate:.5f}" for rate in learned.learning_rates())
    print(f"schedule {learned.schedule:.3f}, learning rates {rates}")
    optimizer.eval()  # the averaged weights, where the run was stopped
    accuracy = (model(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
