"""Steps under what a process, a loop or a gradient may be like: defaults, threads, views, classes of tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_toy import assert_same, busy_weights, network, snapshot, values
from torch import Tensor, nn

from learnopt import LearnedOptimizer, layout, quick_step
from learnopt.kernels import in_place

STEPS = 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel where there is one, and by torch alone."""
    if request.param == "torch":
        monkeypatch.setattr(in_place, "available", lambda tensors: False)
        monkeypatch.setattr(quick_step.QuickSteps, "step", lambda *_: False)
    return str(request.param)


def gradients(model: nn.Module, seed: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=g) for p in model.parameters()]


def trained(
    weights: str, change: Callable[[Tensor], Tensor] = lambda g: g, model: nn.Module | None = None
) -> tuple[nn.Module, LearnedOptimizer]:
    """After some steps with gradients and losses that went through `change`."""
    model = network() if model is None else model
    optimizer = LearnedOptimizer(model.parameters(), total_steps=12, weights=weights)
    for t in range(STEPS):
        for p, g in zip(model.parameters(), gradients(model, t), strict=True):
            p.grad = change(g)
        optimizer.step(loss=change(torch.tensor(1.0 / (t + 1))))
    return model, optimizer


@pytest.mark.parametrize("usual", [torch.float64, "meta"], ids=str)
def test_the_process_s_defaults_change_nothing(usual: torch.dtype | str, way: str, weights: str) -> None:
    expected, state = trained(weights)
    model = network()
    given = [gradients(model, t) for t in range(STEPS)]
    for cache in (layout._cached, in_place._fixed, in_place._jobs):
        cache.cache_clear()
    set_it: Callable[[Any], None] = (
        torch.set_default_device if isinstance(usual, str) else torch.set_default_dtype  # type: ignore[assignment]
    )
    try:
        set_it(usual)
        optimizer = LearnedOptimizer(model.parameters(), total_steps=12, weights=weights)
        for t, grads in enumerate(given):
            for p, g in zip(model.parameters(), grads, strict=True):
                p.grad = g
            optimizer.step(loss=1.0 / (t + 1))
        assert optimizer.explain() == state.explain()
        assert optimizer.explain_run() == state.explain_run()
        assert optimizer.should_stop == state.should_stop
        found, wanted = optimizer.stop_evidence(), state.stop_evidence()
        assert [e.what for e in found] == [e.what for e in wanted]
        assert [e.log_odds for e in found] == pytest.approx([e.log_odds for e in wanted], rel=1e-4)
    finally:
        set_it(None if isinstance(usual, str) else torch.float32)
    assert_same(values(model), values(expected))
    assert_same(snapshot(optimizer), snapshot(state))


def test_negated_views(way: str, weights: str) -> None:
    """As autograd gives them to a scalar that is the imaginary part of something conjugated."""
    (a, one), (b, two) = trained(weights), trained(weights, lambda g: torch._neg_view(-g))
    assert_same(values(a), values(b))
    assert_same(snapshot(one), snapshot(two))
    _, three = trained(weights, lambda x: x if x.dim() else torch._neg_view(-x))  # of the losses alone
    losses = {float(o.explain_run()["loss_average"] or 0) for o in (one, two, three)}
    assert len(losses) == 1
    assert min(losses) > 0


class Wrapper(Tensor):
    """A tensor without memory of its own: operations see what it wraps."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch.utils._pytree.tree_map_only(Wrapper, lambda x: x.inner, (args, kwargs or {}))
        found = func(*args, **kwargs)
        return cls(found) if func is torch.ops.aten.detach.default else found


def test_gradients_without_memory_of_their_own(weights: str) -> None:
    """A kernel that was given their address would end the process."""
    found = []
    for wrap in (lambda g: g, Wrapper):
        model, optimizer = trained(weights)
        for p, g in zip(model.parameters(), gradients(model, STEPS), strict=True):
            p.grad = wrap(g)
        optimizer.step()
        found.append(values(model))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


def test_gradients_that_lie_where_the_parameters_do(way: str, weights: str) -> None:
    found = []
    for apart in (True, False):
        p, q = nn.Parameter(torch.linspace(-1, 1, 70 * 80).view(70, 80)), nn.Parameter(torch.linspace(-1, 2, 600))
        optimizer = LearnedOptimizer([p, q], weights=weights)
        for _ in range(STEPS):
            for x in (p, q):
                x.grad = x.detach().clone() if apart else x.detach()
            optimizer.step()
        found.append([p.detach(), q.detach(), *snapshot(optimizer)])
    assert_same(*found)


def test_parameters_that_are_parts_of_one_tensor(way: str, weights: str) -> None:
    found = []
    for apart in (True, False):
        whole = torch.linspace(-1, 1, 900)
        parts = [whole[:600].view(20, 30), whole[600:]]
        params = [nn.Parameter(x.clone() if apart else x) for x in parts]
        optimizer = LearnedOptimizer(params, weights=weights)
        for t in range(STEPS):
            for p in params:
                p.grad = torch.cos(p.detach() * (t + 1))
            optimizer.step()
        found.append([*(p.detach().clone() for p in params), *snapshot(optimizer)])
    assert_same(*found)


def test_optimizers_in_threads_of_their_own(way: str, weights: str) -> None:
    alone, _ = trained(weights)
    models = [network() for _ in range(3)]  # torch's generator, which draws them, belongs to all threads
    threads = [threading.Thread(target=trained, args=(weights,), kwargs={"model": model}) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        assert_same(values(model), values(alone))


def test_thousands_of_tiny_parameters(way: str, weights: str) -> None:
    params = [nn.Parameter(torch.ones(1 + i % 40)) for i in range(500)]
    optimizer = LearnedOptimizer(params, weights=weights)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all((p < 1).all() for p in params)


def test_more_steps_than_were_planned(way: str, weights: str) -> None:
    p = nn.Parameter(torch.ones(4, 3))
    optimizer = LearnedOptimizer([p], total_steps=5, weights=weights)
    for _ in range(25):
        p.grad = p.detach() - 0.5
        optimizer.step(loss=float((p.detach() - 0.5).square().mean()))
        assert p.isfinite().all()
    assert 0 < optimizer.schedule < 1


def test_planned_steps_can_be_changed_after_loading(way: str, weights: str) -> None:
    model, optimizer = trained(weights)
    other = LearnedOptimizer(model.parameters(), total_steps=99, weights=weights)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["total_steps"] == 12  # what was saved
    schedules = []
    for steps in (STEPS + 1, 10_000):
        other.param_groups[0]["total_steps"] = steps
        for p, g in zip(model.parameters(), gradients(model, 9), strict=True):
            p.grad = g
        other.step()
        schedules.append(other.schedule)
    assert schedules[0] != schedules[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_a_step_changes_nothing(weights: str, way: str, dtype: torch.dtype) -> None:
    found = []
    for casting in (False, True):
        model = network(dtype=dtype)
        optimizer = LearnedOptimizer(model.parameters(), total_steps=12, weights=weights)
        for t in range(STEPS):
            for p, g in zip(model.parameters(), gradients(model, t), strict=True):
                p.grad = g.to(dtype)
            with torch.autocast("cpu", torch.bfloat16, enabled=casting):
                optimizer.step(loss=1 / (t + 1))
        found.append([*values(model), torch.tensor(optimizer.stop_probability)])
    assert all(map(torch.equal, *found))
