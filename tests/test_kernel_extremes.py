"""The compiled kernel where numbers are extreme: what is clamped, cut or lost is so in the rule too."""

from __future__ import annotations

import platform

import pytest
import torch
from optimizer_toy import busy_weights
from test_kernels import SHAPES, Wide, needs_compiler, thetas
from torch import nn

from learnopt import LearnedOptimizer, inner_step, meta_network, rule
from learnopt.kernels import in_place
from learnopt.layout import Layout
from learnopt.quick_step import QuickSteps


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


@needs_compiler
def test_longest_steps_equal_the_rule_s() -> None:
    g, theta, shapes = torch.Generator().manual_seed(0), thetas(1)[0], SHAPES[:9]
    layout, params = Layout.of(shapes), [torch.randn(2, *shape, generator=g) for shape in shapes]
    nudge = torch.zeros(2, len(shapes), len(meta_network.OUTPUTS))
    nudge[..., meta_network.OUTPUTS.index("log_step")] = 50.0
    grads, state = [torch.randn(2, *shape, generator=g) for shape in shapes], rule.init_state(layout, params)
    fast = in_place.InPlaceRuns(theta, layout, params, state)
    fast.step(list(grads), None, 30.0, nudge)
    new, _, _ = rule.apply(meta_network.unpack(theta), layout, params, grads, state, None, torch.tensor(30.0), nudge)
    for a, b, before in zip(fast.params, new, params, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-3, atol=1e-5)
        assert (b - before).abs().mean() > 0.1


@needs_compiler
@pytest.mark.parametrize("size", [50.0, -50.0])
@pytest.mark.parametrize("level", [2.0, -2.0, 0.0])
def test_extreme_outputs_and_losses_of_every_sign_equal_the_rule_s(size: float, level: float) -> None:
    """What is clamped, and logarithms that say nothing."""
    g, theta, shapes = torch.Generator().manual_seed(0), thetas(1)[0], SHAPES[:9]
    layout, params = Layout.of(shapes), [torch.randn(2, *shape, generator=g) for shape in shapes]
    for output in range(len(meta_network.OUTPUTS)):
        nudge = torch.zeros(2, len(shapes), len(meta_network.OUTPUTS))
        nudge[..., output] = size
        now, state = params, rule.init_state(layout, params)
        state = state._replace(rms0=state.rms0 / 2)  # grown: only what has grown decays
        fast, horizon = in_place.InPlaceRuns(theta, layout, params, state), 9.0 if level else 1000.0
        for t in range(3):
            grads = [torch.randn(2, *shape, generator=g) for shape in shapes]
            loss = torch.tensor([level, level - 0.1]) - 0.01 * t
            fast.step(list(grads), loss, horizon, nudge)
            now, state, decision = rule.apply(
                meta_network.unpack(theta), layout, now, grads, state, loss, torch.tensor(horizon), nudge
            )
            torch.testing.assert_close(fast.columns, decision.columns, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(fast.tensor_columns, decision.tensor_columns, rtol=2e-3, atol=2e-3)
        for a, b in zip(fast.params, now, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=2e-3, atol=1e-4)


@needs_compiler
def test_extreme_options_are_cut_as_without_the_kernel(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = []
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(inner_step.in_place, "available", lambda tensors: False)
            monkeypatch.setattr(QuickSteps, "step", lambda *_: False)
        model = Wide()
        groups = [
            {"params": model.first.parameters(), "lr": 4.0},
            {"params": model.second.parameters(), "weight_decay": 1e4},
        ]
        optimizer = LearnedOptimizer(groups, total_steps=3, lr=50.0, weights=weights)  # the pull is strongest at last
        for _ in range(3):
            for p in [*model.first.parameters(), *model.second.parameters()]:
                p.grad = -p.detach()  # they grow, so that there is something to decay
            optimizer.step()
        decided.append(optimizer.decisions())
    assert decided[1]["pull"][2] == 1.0
    assert decided[1]["decay"][2] == 1.0
    assert 1e-6 < decided[1]["decay"][0] < 1
    torch.testing.assert_close(*decided, rtol=1e-3, atol=0.0)


@needs_compiler
def test_losses_and_nudges_of_another_precision() -> None:
    """A task that computes in float64 has such losses."""
    g, layout = torch.Generator().manual_seed(0), Layout.of([(5, 4), (5,)])
    params = [torch.randn(2, *t.shape, generator=g) for t in layout.tensors]
    found = []
    for dtype in (torch.float32, torch.float64):
        runs = in_place.InPlaceRuns(thetas(1)[0], layout, params, rule.init_state(layout, params))
        for t in range(3):
            nudge = torch.full((2, 2, len(meta_network.OUTPUTS)), 0.25 * t, dtype=dtype)
            runs.step(list(params), torch.tensor([2.0, 1.5], dtype=dtype) / (t + 1), 9.0, nudge)
        found.append([*runs.params, *runs.state().history])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors are quick with them")
def test_denormal_momenta_are_not_kept_and_the_process_keeps_its_own() -> None:
    p = nn.Parameter(torch.ones(40))
    p.grad = torch.full((40,), 1e-3)
    optimizer = LearnedOptimizer([p])
    optimizer.step()
    p.grad[:20] = 0.0
    for _ in range(1000):
        optimizer.step()
    momentum = optimizer.state[p]["exp_avg"]
    assert (momentum[:20] < 1e-36).all()
    assert ((momentum == 0.0) | (momentum >= torch.finfo(torch.float32).tiny)).all()
    assert momentum[20:].all()
    assert torch.full((40,), 1e-40).mul(2.0).all()
