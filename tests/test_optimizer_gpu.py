"""`LearnedOptimizer` where only a GPU can tell: CUDA graphs, states that come from a CPU, mixed precision."""

from __future__ import annotations

import copy

import pytest
import torch
from optimizer_toy import loss_of, network, train, values
from torch import Tensor, nn
from torch.nn import functional

from learnopt import LearnedOptimizer, inner_step
from learnopt.kernels import fused_guard, library

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is False")


def rows(t: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(t))
    return x.cuda(), torch.sin(2 * x[:, :2]).cuda()


def descend(model: nn.Module, forward: nn.Module, optimizer: LearnedOptimizer, steps: int) -> None:
    for t in range(steps):
        x, y = rows(t)
        optimizer.zero_grad(set_to_none=False)
        loss = functional.mse_loss(forward(x), y)
        loss.backward()
        optimizer.step(loss=loss)


@pytest.mark.parametrize("way", ["graphed", "compiled"])
def test_passes_in_a_cuda_graph(way: str) -> None:
    """Forward and backward pass are replayed, the step is taken outside: the same as without."""
    model = network().cuda()
    twin = copy.deepcopy(model)
    a, b = (LearnedOptimizer(m.parameters(), total_steps=20) for m in (model, twin))
    if way == "graphed":
        forward = torch.cuda.make_graphed_callables(twin, (rows(0)[0],))
    else:
        forward = torch.compile(twin, mode="reduce-overhead")
    descend(model, model, a, 20)
    descend(twin, forward, b, 20)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)


def test_a_step_in_a_cuda_graph_is_refused() -> None:
    p = nn.Parameter(torch.ones(3, device="cuda"))
    p.grad = torch.ones_like(p)
    optimizer = LearnedOptimizer([p])
    optimizer.step()
    with pytest.raises(RuntimeError, match="cannot be captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def test_states_move_between_devices() -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=20)
    train(model, optimizer, range(5))
    there = copy.deepcopy(model).cuda()
    other = LearnedOptimizer(there.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert {v.device.type for s in other.state.values() for v in s.values()} == {"cuda"}
    for t in range(5, 10):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        optimizer.step()
        for p, q in zip(there.parameters(), model.parameters(), strict=True):
            p.grad = q.grad.cuda() if q.grad is not None else None
        other.step()
    torch.testing.assert_close([p.cpu() for p in values(there)], values(model), rtol=1e-2, atol=1e-3)


def test_autocast_and_scaler() -> None:
    model = network().cuda()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=30)
    scaler, losses = torch.amp.GradScaler("cuda"), []
    for t in range(30):
        x, y = rows(t)
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = functional.mse_loss(model(x).float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer, loss=loss)
        scaler.update()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_triton_kernels_equal_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device itself, in single steps and over a training; nothing falls back to torch."""
    pytest.importorskip("triton")
    monkeypatch.delenv(library.SWITCH, raising=False)
    assert fused_guard.difference(torch.device("cuda", torch.cuda.current_device())) is None
    by_torch = inner_step.by_torch
    monkeypatch.setattr(inner_step, "by_torch", None)
    model = network().cuda()
    twin = copy.deepcopy(model)
    a, b = (LearnedOptimizer(m.parameters(), total_steps=20) for m in (model, twin))
    descend(model, model, a, 20)
    monkeypatch.setattr(inner_step, "by_torch", by_torch)
    monkeypatch.setenv(library.SWITCH, "torch")
    descend(twin, twin, b, 20)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)
