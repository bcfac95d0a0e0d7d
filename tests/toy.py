"""Tiny tasks for the tests of the machinery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from learnopt.task import Batch, Task


class ToyTask(Task):
    """Classification of a teacher's labels by an MLP, a small CNN with GroupNorm, or (`bare`) one linear layer.

    Activations are smooth: a kink makes two ways to compute one gradient differ by more than rounding.
    """

    datasets = frozenset({"gen:toy"})

    def __init__(self, kind: str = "mlp", steps: int = 20, scale: float = 1.0) -> None:
        self.name, self.kind, self.steps = f"toy-{kind}", kind, steps
        self.scale = scale
        g = torch.Generator().manual_seed(3)
        self.x = torch.randn(300, 16, generator=g)
        self.y = (torch.tanh(self.x @ torch.randn(16, 8, generator=g)) @ torch.randn(8, 3, generator=g)).argmax(1)

    def _module(self) -> nn.Module:
        if self.kind == "bare":
            return nn.Linear(16, 3)
        if self.kind == "mlp":
            return nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.LayerNorm(12), nn.Linear(12, 3))
        head = [nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(64, 3)]
        return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), *head)

    def batch(self, seed: int, step: int) -> Batch:
        g = torch.Generator().manual_seed(seed % 2**40 * 1000 + step)
        i = torch.randint(0, 200, (16,), generator=g)
        return self.x[i], self.y[i]

    def validation(self) -> Batch:
        return self.x[200:], self.y[200:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.scale * functional.cross_entropy(model(batch[0]), batch[1])


class _Recurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unflatten(1, (4, 4)))[0][:, -1])


class Recurrent(ToyTask):
    """What `vmap` has no rule for, after `dropout` that it has one for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.name, self.dropout = "recurrent", dropout

    def _module(self) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.dropout), _Recurrence())


@dataclass(frozen=True)
class ToySource:
    """A task source of toy tasks."""

    def sample(self, rng: np.random.Generator) -> Task:
        return ToyTask(("mlp", "cnn")[int(rng.integers(2))])

    def validation(self) -> list[Task]:
        return [ToyTask("mlp"), ToyTask("cnn")]
