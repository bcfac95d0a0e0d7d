"""The compiled kernel against the rule it copies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from optimizer_toy import assert_same_training, busy_weights
from torch import Tensor, nn
from toy import ToyTask

from learnopt import LearnedOptimizer, course, features, inner_step, meta_network, rule
from learnopt.kernels import in_place, library
from learnopt.kernels.in_place import InPlaceNet
from learnopt.layout import Layout
from learnopt.quick_step import QuickSteps
from learnopt.unroll import Problem, Telling, unroll

needs_compiler = pytest.mark.skipif(library.load() is None, reason="no C compiler, or LEARNOPT_KERNEL=torch")
SHAPES: list[tuple[int, ...]] = [(5, 4), (5,), (3, 5, 2, 2), (3,), (), (1, 6), (4, 5), (7, 33), (33,), (5, 4)]
SHAPES += [(3, 40), (21, 4), (66, 70), (260, 256), (70, 200), (200, 70), (2, 3)]


@pytest.fixture
def in_float32() -> Iterator[None]:
    """The AMX unit, which rounds more, is left alone."""
    loaded = library.load()
    assert loaded is not None
    before = loaded.amx_used()
    loaded.amx_allow(0)
    yield
    loaded.amx_allow(before)


def thetas(n: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return meta_network.initial_theta(g) + 0.1 * torch.randn(n, meta_network.SIZE, generator=g)


@needs_compiler
@pytest.mark.parametrize("horizon", [0.0, 30.0])
@pytest.mark.parametrize("withheld", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("in_float32")
def test_kernel_equals_rule(horizon: float, withheld: bool, shared: bool) -> None:
    n, g = 3, torch.Generator().manual_seed(0)
    theta = thetas(1)[0] if shared else thetas(n)
    layout, w = Layout.of(SHAPES), meta_network.unpack(theta)
    scale = torch.tensor([0.0, *[0.3] * (len(SHAPES) - 1)])  # one tensor starts at zero
    params = [s * torch.randn(n, *shape, generator=g) for s, shape in zip(scale, SHAPES, strict=True)]
    state = rule.init_state(layout, params)
    fast = in_place.InPlaceRuns(theta, layout, params, state)
    for t in range(35):
        grads: list[Tensor | None] = [torch.randn(n, *s, generator=g) for s in SHAPES]
        if t == 3:
            grads[2] = None
        if t == 5:
            grads[0] = torch.full((n, *SHAPES[0]), float("nan"))
        loss = torch.rand(n, generator=g) + 0.5 + 1 / (t + 1)
        if t == 7:
            loss[1] = float("nan")
        clean = [torch.zeros(n, *s) if x is None else x.nan_to_num(0.0) for x, s in zip(grads, SHAPES, strict=True)]
        told = None if withheld else loss
        nudge = None if withheld else 0.3 * torch.randn(n, len(SHAPES), len(meta_network.OUTPUTS), generator=g)
        params, state, decision = rule.apply(w, layout, params, clean, state, told, torch.tensor(horizon), nudge)
        fast.step(grads, told, horizon, nudge)
        torch.testing.assert_close(fast.columns, decision.columns, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fast.tensor_columns, decision.tensor_columns, rtol=2e-3, atol=2e-3)
    for a, b in zip(fast.params, params, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=2e-3, atol=2e-5)
    now = fast.state()
    for name in ("hidden", "cell", "statistics", "peak", "age", "step"):
        torch.testing.assert_close(getattr(now, name), getattr(state, name), rtol=2e-3, atol=3e-5)
    for name, tolerance in (("fast", (1e-4, 1e-6)), ("average", (2e-3, 2e-5)), ("square", (1e-4, 1e-6))):
        for a, b in zip(getattr(now, name), getattr(state, name), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance[0], atol=tolerance[1])
    for a, b in zip(now.history, state.history, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@needs_compiler
@pytest.mark.usefixtures("in_float32")
def test_kernel_equals_rule_where_batches_agree() -> None:
    """The bound of a step rises there; half of the gradients is the same in every batch."""
    n, g, shapes = 2, torch.Generator().manual_seed(0), [(5, 4), (5,), (3, 5), (3,)]
    theta, layout = thetas(n), Layout.of(shapes)
    params = [0.3 * torch.randn(n, *shape, generator=g) for shape in shapes]
    steady = [torch.randn(n, *shape, generator=g) for shape in shapes]
    state, w = rule.init_state(layout, params), meta_network.unpack(theta)
    fast = in_place.InPlaceRuns(theta, layout, params, state)
    nudge = torch.zeros(n, len(shapes), len(meta_network.OUTPUTS))
    nudge[..., meta_network.OUTPUTS.index("log_step")] = 50.0
    for _ in range(12):
        noisy = [x + s * torch.randn(x.shape, generator=g) for x, s in zip(steady, (0.0, 1.0, 0.3, 0.1), strict=True)]
        params, state, decision = rule.apply(w, layout, params, noisy, state, None, torch.tensor(30.0), nudge)
        fast.step(list(noisy), None, 30.0, nudge)
        for a, b in zip(fast.params, params, strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=2e-3, atol=2e-4)
    bound = course.longest_step(features.agreement(decision.tensor_columns), state.age - 1)
    assert bound.min() < 1.01 * course.LONGEST
    assert bound.max() > 0.99 * course.FARTHEST


@needs_compiler
def test_what_it_is_given_stays_as_it_was() -> None:
    problem = Problem(ToyTask(), [1, 2])
    before = [p.clone() for p in problem.start]
    runs = problem.begin()
    unroll(problem, thetas(2), runs, 0, 5, Telling(5))
    assert all(torch.equal(a, b) for a, b in zip(before, problem.start, strict=True))
    assert int(runs.state.step) == 0
    assert not runs.state.history.number.any()


@needs_compiler
@pytest.mark.parametrize(("told", "record_from"), [(20, 100), (0, 100), (20, 8)])
def test_unroll_in_one_go_equals_two_windows_and_the_torch_path(
    told: int, record_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learnopt.unroll.RECORD_FROM", record_from)
    problem, theta = Problem(ToyTask(), [1, 2]), thetas(2)
    plain = Problem(ToyTask(), [1, 2], kernel=False)
    _, slow = unroll(plain, theta, plain.begin(), 0, 20, Telling(told), valid_at=(20,))
    _, whole = unroll(problem, theta, problem.begin(), 0, 20, Telling(told), valid_at=(20,))
    half, first = unroll(problem, theta, problem.begin(), 0, 8, Telling(told))
    _, rest = unroll(problem, theta, half, 8, 20, Telling(told), valid_at=(20,))
    assert torch.equal(torch.cat([first.losses, rest.losses]), whole.losses)
    assert torch.equal(rest.valid, whole.valid)
    torch.testing.assert_close(whole.losses, slow.losses, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(whole.valid, slow.valid, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(whole.columns, slow.columns, rtol=1e-2, atol=1e-4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


class Wide(nn.Module):
    """Two layers, a tied shape, a scalar, and a parameter that is not contiguous where asked."""

    def __init__(self, contiguous: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.scale = nn.Linear(6, 6), nn.Linear(6, 6), nn.Parameter(torch.tensor(1.5))
        if not contiguous:
            self.first.weight = nn.Parameter(self.first.weight.detach().mT.contiguous().mT)

    def forward(self, x: Tensor) -> Tensor:
        # contiguous(): matrix products round differently for another order of memory, the optimizer's step must not
        h = nn.functional.linear(x, self.first.weight.contiguous(), self.first.bias)
        return self.second(torch.tanh(h)) * self.scale


def train(model: Wide, weights: str, steps: int = 12) -> tuple[list[Tensor], LearnedOptimizer]:
    groups = [
        {"params": model.first.parameters(), "lr": 0.5},
        {"params": model.second.parameters(), "weight_decay": 0.1},
        {"params": [model.scale]},
    ]
    optimizer = LearnedOptimizer(groups, total_steps=steps, weights=weights)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    for t in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - x.roll(1, 1)).square().mean()
        loss.backward()
        if t == 4:
            model.second.bias.grad = None
        optimizer.step(loss=loss if t % 3 else None)
    return [p.detach() for p in model.parameters()], optimizer


@needs_compiler
def test_optimizer_with_the_kernel_equals_the_one_without(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real = InPlaceNet.move
    monkeypatch.setattr(InPlaceNet, "move", lambda *a: taken.append(1) or real(*a))
    fast, a = train(Wide(), weights)
    assert len(taken) == 12
    monkeypatch.setattr(inner_step.in_place, "available", lambda tensors: False)
    monkeypatch.setattr(QuickSteps, "step", lambda *_: False)
    slow, b = train(Wide(), weights)
    assert len(taken) == 12
    assert_same_training(fast, a, slow, b)


@needs_compiler
def test_parameters_in_another_order_of_memory_take_the_kernel_too(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train(Wide(), weights)
    monkeypatch.setattr(inner_step, "by_torch", None)
    odd, _ = train(Wide(contiguous=False), weights)
    assert all(torch.equal(x, y) for x, y in zip(whole, odd, strict=True))


@needs_compiler
def test_autograd_notices_that_a_step_changed_its_tensors() -> None:
    model = Wide()
    optimizer = LearnedOptimizer(model.parameters())
    x = torch.ones(2, 6)
    loss = model(x).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step(loss=loss)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_compiler
def test_a_forked_process_steps_on() -> None:
    code = """
import os, torch
from learnopt import LearnedOptimizer
torch.set_num_threads(2)
p = torch.nn.Parameter(torch.zeros(512, 512))
p.grad = torch.ones(512, 512)
optimizer = LearnedOptimizer([p])
for _ in range(3):
    optimizer.step()
child = os.fork()
before = p[0, 0].item()
optimizer.step()
moved = p[0, 0].item() != before
if child == 0:
    os._exit(7 if moved else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_precisions_are_left_to_torch() -> None:
    assert not in_place.available([torch.zeros(2, dtype=torch.float64)])
    assert not in_place.available([torch.zeros(2, device="meta")])
