"""What the tests of the optimizer share: busy meta-weights, a tiny network and its training."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from learnopt import LearnedOptimizer, artifact, meta_network, stop_head


def busy_weights(folder: Path) -> str:
    """Meta-weights with every output and a stop head at work, so that the tests do not depend on what ships."""
    g = torch.Generator().manual_seed(1)
    theta = meta_network.initial_theta(g) + 0.1 * torch.randn(meta_network.SIZE, generator=g)
    head = {k: torch.randn(s, generator=g) for k, s in stop_head.SHAPES.items()}
    return str(artifact.save(folder / "busy.safetensors", theta, head, {"name": "busy"}))


def assert_same_training(fast: list[Tensor], a: LearnedOptimizer, slow: list[Tensor], b: LearnedOptimizer) -> None:
    """Parameters, decisions and stop probability of two executions of one arithmetic."""
    for x, y in zip(fast, slow, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-2, atol=1e-3)
    for i, j in zip(a.explain(), b.explain(), strict=True):
        assert i.pop("shape") == j.pop("shape")
        assert i == pytest.approx(j, rel=2e-2, abs=1e-5)
    assert a.schedule == pytest.approx(b.schedule, rel=1e-2)
    assert a.stop_probability == pytest.approx(b.stop_probability, rel=1e-2)


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2)).to(dtype)


def reread(
    model: nn.Module, optimizer: Optimizer, make: Callable[[Iterator[nn.Parameter]], Optimizer]
) -> tuple[nn.Sequential, Any]:
    """Both as they come back from a file, into another network and the optimizer that `make` makes for it."""
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network(seed=5, dtype=next(model.parameters()).dtype)
    other.load_state_dict(saved["model"])
    fresh = make(other.parameters())
    fresh.load_state_dict(saved["optimizer"])
    return other, fresh


def loss_of(model: nn.Module, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 5, generator=g).to(next(model.parameters()).dtype)
    return functional.mse_loss(model(x), torch.sin(x[:, :2] * 2))


def train(model: nn.Module, optimizer: LearnedOptimizer, steps: range) -> list[float]:
    losses = []
    for t in steps:
        optimizer.zero_grad()
        loss = loss_of(model, t)
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(float(loss.detach()))
    return losses


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def snapshot(optimizer: LearnedOptimizer) -> list[Tensor]:
    """All the state but the run's, in order."""
    states = [optimizer.state[p] for g in optimizer.param_groups for p in g["params"]]
    return [v.clone() for s in states for k, v in sorted(s.items()) if k != "run"]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def optimised(weights: str, **options: Any) -> tuple[nn.Sequential, LearnedOptimizer]:
    """The tiny network and its optimizer."""
    model = network()
    return model, LearnedOptimizer(model.parameters(), weights=weights, **options)


class Written:
    """Stands in for a SummaryWriter."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        assert isinstance(scalar_value, float)
        assert math.isfinite(scalar_value)
        self.rows.append((tag, scalar_value, global_step))
