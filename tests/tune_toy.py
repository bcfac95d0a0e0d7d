"""A small classification problem to tune on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def arrays(rows: int = 300) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 6, generator=g)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
