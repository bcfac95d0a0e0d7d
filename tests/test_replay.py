"""Recorded passes: replays against the functions themselves, on arguments that they were not recorded with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_kernels import thetas
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from toy import ToyTask

from learnopt import replay
from learnopt.estimators import ESTIMATORS
from learnopt.estimators.base import Episode
from learnopt.kernels import in_place
from learnopt.recorded_graph import Recorded
from learnopt.replay import Replay, record
from learnopt.task import Batch, Task
from learnopt.unroll import RECORD_FROM, Problem, Telling, unroll


class Mixed(nn.Module):
    """Tokens through an embedding, attention over few of them, in-place operations and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.norm = nn.Embedding(20, 8), nn.Linear(8, 24), nn.LayerNorm(8)
        self.conv, self.drop, self.head = nn.Conv1d(8, 8, 3, padding=1), nn.Dropout(0.3), nn.Linear(8, 5)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("place", torch.linspace(0, 1, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.place
        q, k, v = self.qkv(h).chunk(3, -1)
        h = h + torch.softmax(q @ k.mT, -1) @ v
        h = self.drop(self.conv(self.norm(h).mT).mT)
        h = h.clone()
        h += 1.0
        h[..., 0] *= 2.0
        return self.head(F.elu_(h).mean(1))


class Images(ToyTask):
    """Channels that are no multiples of anything, pooling of all kinds."""

    def __init__(self) -> None:
        super().__init__("images")

    def _module(self) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)), nn.Upsample(scale_factor=4), nn.Conv2d(1, 6, 3, padding=1), nn.MaxPool2d(2),
            nn.Conv2d(6, 12, 3, stride=2, dilation=2, padding=2), nn.MaxPool2d(3, stride=1, padding=1), nn.SiLU(),
            nn.Conv2d(12, 7, 1, bias=False), nn.MaxPool2d(2), nn.ConvTranspose2d(7, 5, 2), nn.Flatten(),
            nn.Linear(45, 3),
        )  # fmt: skip


class Tokens(Task):
    """Classes of random token rows; `rows` of them in batch number `step`."""

    name, kind, datasets, steps = "tokens", "mixed", frozenset(["gen:toy"]), 20

    def __init__(self, rows: Callable[[int], int] = lambda step: 20) -> None:
        self.rows = rows

    def _module(self) -> nn.Module:
        return Mixed()

    def batch(self, seed: int, step: int) -> Batch:
        g = torch.Generator().manual_seed(1000 * seed + step)
        return torch.randint(20, (self.rows(step), 18), generator=g), torch.randint(5, (self.rows(step),), generator=g)

    def validation(self) -> Batch:
        return self.batch(10**6, 0)

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)


@pytest.mark.parametrize(
    "task", [ToyTask("bare"), ToyTask("mlp"), ToyTask("cnn"), Images(), Tokens()], ids=lambda t: t.name
)
def test_replayed_passes_equal_autograd_s(task: Task) -> None:
    problem = Problem(task, [1, 2], copies=2)
    params = [p.clone().requires_grad_() for p in problem.start]
    problem.gradients(params, problem.batch(0), recorded=True)
    (recorded,) = problem._recordings.values()
    assert isinstance(recorded, Replay)
    params = [(p.detach() + 0.1 * torch.randn(p.shape)).requires_grad_() for p in params]
    found = []
    for quick in (True, False):
        torch.manual_seed(5)  # of dropout
        found.append(problem.gradients(params, problem.batch(1), recorded=quick))
    (loss, grads), (true_loss, true_grads) = found
    torch.testing.assert_close(loss, true_loss)
    for g, true, p in zip(grads, true_grads, params, strict=True):
        torch.testing.assert_close(g, torch.zeros_like(p) if true is None else true, rtol=1e-4, atol=1e-6)


def test_dropout_is_drawn_anew() -> None:
    problem = Problem(Tokens(), [1])
    params, batch = [p.requires_grad_() for p in problem.start], problem.batch(0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (problem.gradients(params, batch, recorded=True)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.set_rng_state(before)  # recording drew nothing that was not put back
    assert torch.equal(problem.gradients(params, batch, recorded=True)[0], first)


class Counted(nn.Module):
    """A layer that grows with the number of its calls, which a buffer counts; another buffer cannot be written to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("one", torch.ones(1).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1.0
        return self.layer(x) * (self.one - 0.9 / (1 + self.calls / 10))


class CountedTask(ToyTask):
    def _module(self) -> nn.Module:
        return Counted()


def test_recording_leaves_buffers_as_they_were() -> None:
    losses = []
    for kernel in (True, False):
        problem = Problem(CountedTask(), [1, 2], kernel=kernel)
        _, t = unroll(problem, thetas(2), problem.begin(), 0, RECORD_FROM, Telling(RECORD_FROM))
        assert all(problem._recordings.values())
        assert problem._module.model.calls == RECORD_FROM
        losses.append(t.losses)
    torch.testing.assert_close(*losses, rtol=2e-3, atol=1e-4)


def test_recordings_leave_nothing_behind() -> None:
    """fx keeps the source text of every module that it compiles."""
    before = len(torch.fx.graph_module._loader.eval_cache)
    assert record(lambda x: [x + x], [torch.ones(3)]) is not None
    assert len(torch.fx.graph_module._loader.eval_cache) == before


def looks_at_values(x: Tensor) -> list[Tensor]:
    return [x * 2 if x.sum().item() > 0 else x]


def with_a_generator(x: Tensor) -> list[Tensor]:
    return [x + torch.rand(3, generator=torch.Generator().manual_seed(0))]


def of_nothing(x: Tensor) -> list[Tensor]:
    raise RuntimeError("broken")


@pytest.mark.parametrize("function", [looks_at_values, with_a_generator, of_nothing], ids=lambda f: f.__name__)
def test_what_cannot_be_recorded_is_not(function: Callable[..., list[Tensor]]) -> None:
    assert record(function, [torch.ones(3)]) is None


def test_what_never_reaches_the_recorder_is_no_constant() -> None:
    def hidden(x: Tensor) -> list[Tensor]:
        with _disable_current_modes():  # as another thread would
            return [x * 2]

    assert record(hidden, [torch.ones(3)]) is None


def test_a_replay_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(recorded: Recorded, values: dict[Any, Any]) -> None:
        (node,) = [n for n in recorded.graph.nodes if n.op == "call_function"]
        node.target = torch.ops.aten.sub.Tensor

    assert record(lambda x: [x + x], [torch.ones(3)]) is not None
    monkeypatch.setattr(replay.graph_passes, "simplify", break_it)
    assert record(lambda x: [x + x], [torch.ones(3)]) is None


def test_every_shape_of_batch_is_recorded_up_to_a_limit() -> None:
    problem = Problem(Tokens(lambda step: 4 + step % 6), [1, 2])
    unroll(problem, thetas(2), problem.begin(), 0, RECORD_FROM, Telling(RECORD_FROM))
    assert len(problem._recordings) == 4
    assert all(problem._recordings.values())
    params = [p.detach().clone().requires_grad_() for p in problem.start]
    for step in range(6):  # one step each: over a whole run rounding would grow into another run
        found = []
        for quick in (True, False):
            torch.manual_seed(5)  # of dropout
            found.append(problem.gradients(params, problem.batch(step), recorded=quick))
        (loss, grads), (true_loss, true_grads) = found
        torch.testing.assert_close(loss, true_loss)
        for p, *both in zip(params, grads, true_grads, strict=True):
            g, true = (torch.zeros_like(p) if x is None else x for x in both)
            torch.testing.assert_close(g, true, rtol=1e-4, atol=1e-6)
    assert len(problem._recordings) == 4


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_recorded_unroll_equals_the_slow_one(kind: str, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule by the kernel, and by torch where there is none."""
    if not kernel:
        monkeypatch.setattr(in_place, "available", lambda tensors: False)
    steps, losses, valid = RECORD_FROM + 5, [], []
    for quick in (True, False):
        problem = Problem(ToyTask(kind), [1, 2], copies=2, kernel=quick)
        _, t = unroll(problem, thetas(4), problem.begin(), 0, steps, Telling(steps), valid_at=(steps,))
        assert bool(problem._recordings) == quick
        losses.append(t.losses)
        valid.append(t.valid)
    torch.testing.assert_close(*losses, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(*valid, rtol=2e-3, atol=1e-4)


def test_short_unrolls_and_looped_ones_record_nothing() -> None:
    for vectorise, steps in ((True, RECORD_FROM - 1), (False, RECORD_FROM)):
        problem = Problem(ToyTask("bare"), [1], vectorise=vectorise)
        unroll(problem, thetas(1), problem.begin(), 0, steps, Telling(steps))
        assert not any(problem._recordings.values())


def test_an_estimate_is_the_same_whenever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """As resuming needs; and without the kernel it is made by torch alone."""
    episode = Episode(ToyTask("bare"), 3, RECORD_FROM, Telling(RECORD_FROM))
    estimator = ESTIMATORS["es"](2, 0.05)
    first, second = (estimator.estimate(thetas(1)[0], episode, None) for _ in range(2))
    assert torch.equal(first.differences, second.differences)
    estimator.kernel = False
    monkeypatch.setattr(in_place, "InPlaceRuns", None)
    monkeypatch.setattr("learnopt.unroll.record", None)
    plain = estimator.estimate(thetas(1)[0], episode, None)
    torch.testing.assert_close(plain.differences, first.differences, rtol=0.01, atol=0.01)
