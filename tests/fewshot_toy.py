"""Small models and tasks for the few-shot learners' tests."""

from __future__ import annotations

import torch
from torch import nn

from learnopt.fewshot import Episode
from learnopt.fewshot.episode import generator


def network(double: bool = False) -> nn.Module:
    """A smooth network, so that finite differences have something to approach."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    return model.double() if double else model


class Lines:
    """Regression on lines of random slope and offset, in any dtype."""

    def __init__(self, shots: int = 5, queries: int = 5, dtype: torch.dtype = torch.float32) -> None:
        self.shots, self.queries, self.dtype = shots, queries, dtype

    def draw(self, seed: int, count: int) -> Episode:
        g = generator("lines", seed)
        slope, offset = torch.randn(2, count, 1, 1, generator=g, dtype=torch.float64)
        x = torch.randn(count, self.shots + self.queries, 1, generator=g, dtype=torch.float64)
        x, y = x.to(self.dtype), (slope * x + offset).to(self.dtype)
        k = self.shots
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:])

    def describe(self) -> str:
        return f"lines, {self.shots} shots, {self.queries} queries, {self.dtype}"


class Blobs:
    """Classification of points around three random centres; labels are shuffled from task to task."""

    def __init__(self, shots: int = 2, ways: int = 3) -> None:
        self.shots, self.ways = shots, ways

    def draw(self, seed: int, count: int) -> Episode:
        g = generator("blobs", seed)
        centres = 3 * torch.randn(count, self.ways, 1, 4, generator=g)
        x = centres + 0.3 * torch.randn(count, self.ways, self.shots + 4, 4, generator=g)
        y = torch.arange(self.ways)[None, :, None].expand(x.shape[:3])
        k = self.shots
        parts = (x[:, :, :k], y[:, :, :k], x[:, :, k:], y[:, :, k:])
        return Episode(*(p.flatten(1, 2) for p in parts))

    def describe(self) -> str:
        return f"blobs, {self.ways} ways, {self.shots} shots"


def classifier(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs))
