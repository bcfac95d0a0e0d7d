"""Watch the optimizer at work: record a run, read the recording, and leave a file for `learnopt report`."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from learnopt import LearnedOptimizer, Recorder


def main(steps: int = 300, path: str = "watch.json") -> float:
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = LearnedOptimizer(model.parameters(), total_steps=steps)
    with Recorder(optimizer, names=model, path=path) as recorder:  # the loop stays as it is
        for _ in range(steps):
            rows = torch.randint(0, 1200, (64,))
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
            if optimizer.should_stop:
                print(f"stopped: {optimizer.stop_reason}")
                break
    optimizer.eval()  # the averaged weights, where the run was stopped
    model.eval()
    accuracy = (model(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(recorder.recording.frame().iloc[:: max(1, steps // 6)].round(4))
    for name, value in recorder.latest().items():
        print(f"{name:24} {value:.3g}")  # effective learning rate by layer and all else, as any logger takes it
    print("What the stop probability rests on, in log-odds:")
    for what, log_odds in optimizer.stop_evidence():
        print(f"  {log_odds:+.2f} {what}")
    print(f"test accuracy {accuracy:.3f}; the effective learning rate of every layer over time: learnopt report {path}")
    return accuracy


if __name__ == "__main__":
    main()
