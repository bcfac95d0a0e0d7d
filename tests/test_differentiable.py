"""`LearnedOptimizer` in `higher`: the same steps, and the meta-gradient of our own unroll."""

from __future__ import annotations

import higher
import pytest
import torch
from torch import nn
from toy import ToyTask

from learnopt import LearnedOptimizer, meta_network
from learnopt.unroll import Problem, Telling, unroll

STEPS = 5


def theta() -> torch.Tensor:
    g = torch.Generator().manual_seed(6)
    return meta_network.initial_theta(g) + 0.05 * torch.randn(meta_network.SIZE, generator=g)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_meta_gradient_equals_that_of_the_unroll(kind: str) -> None:
    task = ToyTask(kind, steps=STEPS)
    model = task.build(3)
    weights = theta().requires_grad_()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=STEPS)
    with higher.innerloop_ctx(model, optimizer, override={"theta": [weights]}) as (fast, steps):
        for t in range(STEPS):
            steps.step(task.loss(fast, task.batch(3, t)))
        last = task.loss(fast, task.batch(3, STEPS))
        (gradient,) = torch.autograd.grad(last, weights)

    other = theta().requires_grad_()
    problem = Problem(task, [3])
    runs, _ = unroll(problem, other, problem.begin(), 0, STEPS, Telling(STEPS), differentiable=True)
    loss = problem.losses(runs.params, problem.batch(STEPS))
    (expected,) = torch.autograd.grad(loss.sum(), other)
    torch.testing.assert_close(last, loss[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=1e-5)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("maximize", [False, True])
def test_steps_equal_those_of_the_optimizer_that_it_continues(maximize: bool) -> None:
    task, sign = ToyTask(), -1 if maximize else 1
    model = task.build(0)
    groups = [
        {"params": list(model.parameters())[:2], "lr": 0.5, "weight_decay": 0.1},
        {"params": list(model.parameters())[2:]},
    ]
    optimizer = LearnedOptimizer(groups, total_steps=9, maximize=maximize)

    def train(first: int, last: int) -> None:
        for t in range(first, last):
            optimizer.zero_grad()
            loss = sign * task.loss(model, task.batch(0, t))
            loss.backward()
            optimizer.step(loss=loss)

    train(0, 4)
    with higher.innerloop_ctx(model, optimizer, track_higher_grads=False) as (fast, steps):
        for t in range(4, 9):
            steps.step(sign * task.loss(fast, task.batch(0, t)))
        moved = [p.detach().clone() for p in fast.parameters()]
    train(4, 9)
    for a, b in zip(moved, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=2e-4, atol=1e-5)


def test_frozen_parameters_stay_and_complex_ones_are_refused() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    with higher.innerloop_ctx(model, LearnedOptimizer(model.parameters())) as (fast, steps):
        steps.step(fast(torch.ones(4, 3)).square().mean())
        weight, bias = fast.parameters()
        assert not torch.equal(weight, model.weight)
        assert torch.equal(bias, model.bias)
    odd = nn.Linear(2, 2, dtype=torch.complex64)
    with (
        higher.innerloop_ctx(odd, LearnedOptimizer(odd.parameters())) as (fast, steps),
        pytest.raises(ValueError, match="complex"),
    ):
        steps.step(fast(torch.ones(1, 2, dtype=torch.complex64)).abs().sum())
