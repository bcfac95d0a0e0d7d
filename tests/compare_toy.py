"""Tiny tasks for the tests of compare, and a program that compares on them (to be killed)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from learnopt import report
from learnopt.compare import Plan, compare
from learnopt.task import Batch, Task, seed_of


class TinyTask(Task):
    """Least squares on a line through `size` noisy dimensions."""

    kind = "mlp"
    datasets = frozenset({"gen:line"})
    steps = 20

    def __init__(self, name: str = "tiny", size: int = 4, offset: float = 0.0, pause: float = 0.0) -> None:
        self.name, self.size, self.offset, self.pause = name, size, offset, pause

    def _module(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.size, 6), nn.Tanh(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)
        )

    def batch(self, seed: int, step: int) -> Batch:
        time.sleep(self.pause)
        generator = torch.Generator().manual_seed(seed_of(self.name, seed, step))
        x = torch.randn(16, self.size, generator=generator)
        return x, x.sum(1, keepdim=True) + 0.3 * torch.randn(16, 1, generator=generator)

    def validation(self) -> Batch:
        generator = torch.Generator().manual_seed(seed_of(self.name, "validation"))
        x = torch.randn(64, self.size, generator=generator)
        return x, x.sum(1, keepdim=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:  # type: ignore[override]
        return (model(batch[0]) - batch[1]).square().mean() + self.offset


class BrokenTask(TinyTask):
    """Its loss is not a number from step 5 on."""

    def batch(self, seed: int, step: int) -> Batch:
        x, y = super().batch(seed, step)
        return x, y * float("nan") if step >= 5 else y


def plan(pause: float = 0.0) -> Plan:
    """Two tasks, one tuned optimizer, two seeds."""
    tasks = [TinyTask("tiny-a", pause=pause), TinyTask("tiny-b", 6, pause=pause)]
    return Plan(tasks, ["adam", "adamw"], seeds=2, trials=4)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # the pause is no part of the task's data: slow and fast runs count as the same
    result = compare(plan(float(sys.argv[2])), folder, workers=int(sys.argv[3]))
    report.write(report.document(result, "toy", 1, 0.0), result.runs, folder)
