"""The Triton kernels against the rule they copy, in Triton's interpreter: run by test_fused.py in a process of its own,
because the interpreter has to be on before the kernels are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from optimizer_toy import assert_same_training, busy_weights
from torch import Tensor, nn

from learnopt import LearnedOptimizer, inner_step, meta_network, rule
from learnopt.kernels import fused, fused_guard, fused_step, library
from learnopt.layout import Layout
from learnopt.quick_step import QuickSteps

CPU = torch.device("cpu")
SHAPES: list[tuple[int, ...]] = [(5, 4), (5,), (3, 5, 2, 2), (), (1, 6), (5, 4), (66, 20), (20, 66), (1500,)]


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are for the CPU."""
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(fused_guard, "DEVICES", ("cpu",))


@pytest.fixture
def untried() -> Iterator[None]:
    """Nobody has tried them."""
    fused_guard._trusted.cache_clear()
    yield
    fused_guard._trusted.cache_clear()


def test_kernels_equal_the_rule() -> None:
    horizon, g = torch.tensor(12.0), torch.Generator().manual_seed(0)
    theta = meta_network.initial_theta(g) + 0.1 * torch.randn(meta_network.SIZE, generator=g)
    layout, w = Layout.of(SHAPES), meta_network.unpack(theta)
    scale = [0.0, *[0.3] * (len(SHAPES) - 1)]  # one tensor starts at zero
    params = [s * torch.randn(1, *shape, generator=g) for s, shape in zip(scale, SHAPES, strict=True)]
    age = 8.0 * (torch.arange(len(SHAPES)) % 2)  # gradients are cut after ten steps
    ours, state = [p.clone() for p in params], rule.init_state(layout, params)._replace(age=age)
    own = state._replace(
        **{name: tuple(x.clone() for x in getattr(state, name)) for name in rule.RuleState._fields[:3]}
    )
    for t in range(4):
        grads = [10.0 ** (t == 3) * torch.randn(1, *s, generator=g) for s in SHAPES]
        grads[2] *= t > 1
        loss = torch.rand(1, generator=g) + 1 if t % 2 else None
        decision, state = rule.decide(w, layout, state, loss, horizon)
        given = torch.zeros_like(decision.decay).fill_(0.01 * (t % 2))
        params, state = rule.move(w, layout, params, grads, state, decision._replace(given_decay=given))
        decision, own = rule.decide(w, layout, own, loss, horizon)
        ours, own = fused_step.move(w, layout, ours, grads, own, decision._replace(given_decay=given))
        if t == 0:
            pairs = zip(own.average[::2], ours[::2], strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)  # a first average is the value itself
    for a, b in zip(ours, params, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-5)
    for name in ("statistics", "peak"):
        torch.testing.assert_close(getattr(own, name), getattr(state, name), rtol=2e-3, atol=3e-5)
    for name, tolerance in (("fast", (1e-4, 1e-6)), ("average", (2e-3, 2e-5)), ("square", (1e-4, 1e-6))):
        for a, b in zip(getattr(own, name), getattr(state, name), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance[0], atol=tolerance[1])


def test_sums_of_many_chunks() -> None:
    sums, found = torch.randn(2, 11, generator=torch.Generator().manual_seed(0)), torch.empty(2, 2)
    spans = torch.tensor([[0, 9], [9, 11]])
    fused.gather[(2, 2)](sums, 11, spans, found, STATISTICS=2, BLOCK=4)
    torch.testing.assert_close(found, torch.stack([sums[:, :9].sum(1), sums[:, 9:].sum(1)]))


class Net(nn.Module):
    """A convolution, matrices, two of one shape, vectors and a scalar; the last bias's gradient is expanded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.third = nn.Conv1d(2, 6, 3), nn.Linear(6, 6), nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x)).mean(2)
        return self.third(torch.tanh(self.second(x))) * self.scale


def train(weights: str, steps: int = 4) -> tuple[list[Tensor], LearnedOptimizer]:
    model = Net()
    groups = [
        {"params": model.first.parameters(), "lr": 0.5},
        {"params": model.second.parameters(), "weight_decay": 0.1},
        {"params": [*model.third.parameters(), model.scale], "maximize": False},
    ]
    optimizer = LearnedOptimizer(groups, total_steps=steps, weights=weights)
    x = torch.randn(32, 2, 8, generator=torch.Generator().manual_seed(1))
    for t in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - x[:, :, :3].flatten(1)).square().mean()
        loss.backward()
        if t == 2:
            model.second.bias.grad = None
        if t == 3:
            model.third.bias.grad = torch.ones(()).expand(6)
        optimizer.step(loss=loss if t % 3 else None)
    return [p.detach() for p in model.parameters()], optimizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def no_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled kernel for the CPU is out of the way."""
    monkeypatch.setattr(inner_step.in_place, "available", lambda tensors: False)
    monkeypatch.setattr(QuickSteps, "step", lambda *_: False)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the ways that steps take."""
    taken: list[str] = []

    def noted(name: str, real: Any) -> Any:
        return lambda *a: taken.append(name) or real(*a)

    for name in ("by_fused", "by_torch"):
        monkeypatch.setattr(inner_step, name, noted(name, getattr(inner_step, name)))
    return taken


@pytest.mark.usefixtures("no_c")
def test_optimizer_with_the_kernels_equals_the_one_without(
    weights: str, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, a = train(weights)
    assert ways == ["by_fused"] * 4
    monkeypatch.setenv(library.SWITCH, "torch")
    slow, b = train(weights)
    assert ways[4:] == ["by_torch"] * 4
    assert_same_training(fast, a, slow, b)


def test_neither_a_second_time_nor_the_parts_make_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved() -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        shapes: list[tuple[int, ...]] = [(5, 4), (3,), (30, 2), (5, 4), (2100,)]
        layout, w = Layout.of(shapes), meta_network.unpack(torch.randn(meta_network.SIZE, generator=g))
        params, grads = ([torch.randn(1, *s, generator=g) for s in shapes] for _ in range(2))
        decision, state = rule.decide(w, layout, rule.init_state(layout, params), None, torch.tensor(0.0))
        params, state = fused_step.move(w, layout, params, grads, state, decision)
        return [*params, state.statistics]

    usual = moved()
    assert all(torch.equal(x, y) for x, y in zip(usual, moved(), strict=True))
    fused_step._plan.cache_clear()
    monkeypatch.setattr(fused_step, "TOGETHER", 50)
    assert fused_step._parts(Layout.of([(5, 4), (3,), (30, 2), (5, 4), (4, 5), ()])) == [[1, 5, 4, 0], [3], [2]]
    apart = moved()
    fused_step._plan.cache_clear()
    torch.testing.assert_close(apart, usual, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("no_c")
def test_autograd_notices(weights: str) -> None:
    p = nn.Parameter(torch.ones(3, 4))
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    LearnedOptimizer([p], weights=weights).step(loss=loss)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("no_c")
@pytest.mark.parametrize("odd", ["strided", "double"])
def test_what_does_not_fit_is_left_to_torch(odd: str, weights: str, ways: list[str]) -> None:
    p = nn.Parameter(torch.ones(3, 4).mT if odd == "strided" else torch.ones(3, 4, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    LearnedOptimizer([p], weights=weights).step()
    assert ways == ["by_torch"]


class Changed:
    """A kernel with other constants."""

    def __init__(self, kernel: Any, **constants: Any) -> None:
        self.kernel, self.constants = kernel, constants

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *a, **options: self.kernel[grid](*a, **{**options, **self.constants})


@pytest.mark.usefixtures("no_c", "untried")
@pytest.mark.parametrize(
    ("name", "constants", "said"),
    [
        ("moments", {"CLIP": 3.3}, "off by"),
        ("move", {"CAUTION": 0.12}, "params of tensor 0 are off by"),
        ("gather", {"STATISTICS": 8}, "off by"),
        ("move", {"WIDTH": "two"}, "Error"),
    ],
)
def test_wrong_kernels_are_found(
    name: str, constants: dict[str, Any], said: str, weights: str, ways: list[str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(fused, name, Changed(getattr(fused, name), **constants))
    with caplog.at_level(logging.WARNING, "learnopt"):
        for _ in range(2):
            p = nn.Parameter(torch.ones(3))
            p.grad = torch.ones(3)
            LearnedOptimizer([p], weights=weights).step()
    assert ways == ["by_torch"] * 2
    assert len(caplog.records) == 1
    assert "does without its Triton kernels on cpu" in caplog.text
    assert said in caplog.text
