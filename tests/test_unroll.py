"""Unrolls: vectorised against looped, whole against segments."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy import ToyTask

from learnopt import features, meta_network
from learnopt.task import Batch
from learnopt.unroll import Problem, Telling, unroll

THETA = meta_network.initial_theta(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_vectorised_equals_looped(kind: str) -> None:
    results = []
    for vectorise in (True, False):
        problem = Problem(ToyTask(kind), [1, 2, 3], vectorise=vectorise)
        _, trajectory = unroll(problem, THETA, problem.begin(), 0, 8, Telling(8), valid_at=(4, 8))
        results.append(trajectory)
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[0].valid, results[1].valid, rtol=1e-4, atol=1e-5)
    assert results[0].valid_steps == (4, 8)


def test_segments_equal_the_whole() -> None:
    problem = Problem(ToyTask(), [1, 2])
    _, whole = unroll(problem, THETA, problem.begin(), 0, 10, Telling(10), valid_at=(10,))
    runs, first = unroll(problem, THETA, problem.begin(), 0, 4, Telling(10))
    _, second = unroll(problem, THETA, runs, 4, 10, Telling(10), valid_at=(10,))
    assert torch.equal(torch.cat([first.losses, second.losses]), whole.losses)
    assert torch.equal(second.valid, whole.valid)


class Dropped(ToyTask):
    """With dropout, the same batch in every step."""

    def _module(self) -> nn.Module:
        return nn.Sequential(nn.Linear(16, 12), nn.Dropout(0.5), nn.Linear(12, 3))

    def batch(self, seed: int, step: int) -> Batch:
        return super().batch(seed, 0)


def test_dropout_is_a_function_of_seeds_and_step_alone() -> None:
    problem, found = Problem(Dropped(), [1, 2]), []
    with torch.random.fork_rng():
        for seed in (3, 4):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            found.append(unroll(problem, THETA, problem.begin(), 0, 5, Telling(5))[1].losses)
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(*found)
        first, again, second = (problem.gradients_at(problem.start, step)[0] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_validation_is_without_dropout_and_only_after_the_steps_of_the_window() -> None:
    problem = Problem(Dropped(), [1, 2])
    model = Dropped().build(1).eval()
    batch = problem.task.validation()
    expected = problem.task.loss(model, batch)
    torch.testing.assert_close(problem.valid_losses(problem.start)[0], expected.detach())
    runs, _ = unroll(problem, THETA, problem.begin(), 0, 3, Telling(9))
    _, trajectory = unroll(problem, THETA, runs, 3, 6, Telling(9), valid_at=(3, 5, 8))
    assert (trajectory.valid_steps, trajectory.valid.shape) == ((5,), (1, 2))


@pytest.mark.parametrize("kernel", [True, False])
def test_what_is_not_told_is_not_seen(kernel: bool) -> None:
    problem = Problem(ToyTask(), [1, 2], kernel=kernel)
    for told in (True, False):
        _, trajectory = unroll(problem, THETA, problem.begin(), 0, 3, Telling(9 * told, loss=told))
        for name in ("loss_known", "horizon_known"):
            assert (trajectory.columns[..., features.GLOBAL.index(name)] == told).all()


def test_copies_share_initialisation_and_batches() -> None:
    problem = Problem(ToyTask(), [1, 2], copies=2)
    assert problem.n == 4
    for p in problem.start:
        assert torch.equal(p[:2], p[2:])
    assert not torch.equal(problem.start[0][0], problem.start[0][1])
    x, y = problem.batch(3)
    assert torch.equal(x[:2], x[2:])
    assert torch.equal(y[:2], y[2:])
    assert not torch.equal(x[0], x[1])


def test_differentiable_unroll_has_the_gradient_of_finite_differences() -> None:
    problem = Problem(ToyTask(), [1])
    index = rule_index("tensor_bias", 0)  # the log step size of every tensor

    def final(value: float) -> torch.Tensor:
        theta = THETA.clone()
        theta[index] = value
        theta.requires_grad_()
        _, t = unroll(problem, theta, problem.begin(), 0, 5, Telling(5), differentiable=True)
        loss = t.losses[-1].sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        return torch.stack([loss.detach(), gradient[index]])

    low, middle, high = (final(0.5 + d) for d in (-0.01, 0.0, 0.01))
    assert middle[1] != 0
    torch.testing.assert_close((high[0] - low[0]) / 0.02, middle[1], rtol=0.02, atol=1e-4)


def rule_index(name: str, k: int) -> int:
    start = 0
    for part, (a, b) in meta_network.SHAPES.items():
        if part == name:
            return start + k
        start += a * b
    raise KeyError(name)


def test_an_initialisation_is_a_function_of_the_task_s_name_and_the_seed_alone() -> None:
    def weight(name: str, seed: int) -> torch.Tensor:
        task = ToyTask("bare")
        task.name = name
        model = task.build(seed)
        assert isinstance(model, nn.Linear)
        return model.weight.detach()

    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = weight("a", 0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(weight("a", 0), first)
    assert not torch.equal(weight("a", 1), first)
    assert not torch.equal(weight("b", 0), first)
