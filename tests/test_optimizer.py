"""LearnedOptimizer is the rule: K steps equal a K-step unroll; read-outs, arguments, options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import ToyTask

from learnopt import LearnedOptimizer, artifact
from learnopt.unroll import Problem, Telling, unroll


def train(
    task: ToyTask, optimizer: torch.optim.Optimizer, model: nn.Module, start: int, stop: int, **step: Any
) -> list[float]:
    """Plain training; the loss is handed over unless `loss=False`."""
    tell, losses = step.get("loss", True), []
    for t in range(start, stop):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(1, t))
        loss.backward()
        if tell:
            optimizer.step(loss=loss)  # type: ignore[call-arg]
        else:
            optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("told", [True, False])
def test_steps_equal_an_unroll(kind: str, told: bool) -> None:
    task, k = ToyTask(kind), 20
    problem = Problem(task, [1])
    telling = Telling(k if told else 0, loss=told)
    runs, trajectory = unroll(problem, artifact.load().theta, problem.begin(), 0, k, telling)
    model = task.build(1)
    optimizer = LearnedOptimizer(model.parameters(), total_steps=k if told else None)
    losses = train(task, optimizer, model, 0, k, loss=told)
    # gradients differ by their rounding, which normalised steps make grow to a hundredth of one step
    torch.testing.assert_close(torch.tensor(losses), trajectory.losses[:, 0], rtol=1e-3, atol=1e-4)
    for p, q in zip(model.parameters(), runs.params, strict=True):
        torch.testing.assert_close(p.detach(), q[0], rtol=1e-3, atol=1e-4)


def test_it_trains() -> None:
    task = ToyTask()
    model = task.build(0)
    losses = train(task, LearnedOptimizer(model.parameters(), 150), model, 0, 150)
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_read_outs() -> None:
    task = ToyTask()
    model = task.build(0)
    optimizer = LearnedOptimizer(model.parameters(), total_steps=30)
    assert optimizer.learning_rates() == [0.0] * 6
    assert optimizer.schedule == optimizer.stop_probability == 0
    assert not optimizer.should_stop
    train(task, optimizer, model, 0, 10)
    middle, rates = optimizer.schedule, optimizer.learning_rates()
    assert all(r > 0 for r in rates)
    assert len(rates) == 6
    rows = optimizer.explain()
    assert [r["shape"] for r in rows] == [tuple(p.shape) for p in model.parameters()]
    for r in rows:
        assert r["gradient"] + r["momentum"] == pytest.approx(1, abs=1e-5)
        assert (r["orthogonal"] > 0) == (len(r["shape"]) > 1)
        assert r["decay"] == 0 if len(r["shape"]) < 2 else r["decay"] >= 0
    train(task, optimizer, model, 10, 30)
    assert 0 < optimizer.schedule < middle
    assert 0 <= optimizer.stop_probability <= 1


def test_learning_rate_is_the_step_that_is_taken() -> None:
    """A tensor of one element moves by its rate times a direction of size about 1."""
    p = nn.Parameter(torch.tensor(2.0))
    optimizer = LearnedOptimizer([p], total_steps=100)
    for _ in range(30):
        before = p.item()
        p.grad = torch.tensor(1.0)
        optimizer.step()
    moved = before - p.item()
    assert 0.05 < moved / optimizer.learning_rates()[0] < 20


def test_lr_multiplies_and_zero_moves_nothing() -> None:
    task = ToyTask()
    moves = {}
    for lr in (0.0, 0.5, 1.0):
        model = task.build(0)
        start = [p.detach().clone() for p in model.parameters()]
        train(task, LearnedOptimizer(model.parameters(), 10, lr=lr), model, 0, 1)
        moves[lr] = [p.detach() - s for p, s in zip(model.parameters(), start, strict=True)]
    assert all((m == 0).all() for m in moves[0.0])
    for half, full in zip(moves[0.5], moves[1.0], strict=True):
        torch.testing.assert_close(2 * half, full, rtol=1e-3, atol=1e-6)


def test_zero_gradients_at_lr_zero_leave_weights_untouched_to_the_bit() -> None:
    model = ToyTask().build(0)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = LearnedOptimizer(model.parameters(), lr=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))


def test_weight_decay_is_adamws() -> None:
    results = []
    for decay in (0.0, 0.1):
        p = nn.Parameter(torch.full((4, 3), 0.5))
        optimizer = LearnedOptimizer([p], 10, weight_decay=decay)
        p.grad = torch.ones_like(p)
        optimizer.step()
        results.append((p.detach().clone(), optimizer.learning_rates()[0], optimizer.explain()[0]["decay"]))
    (plain, rate, none), (decayed, _, share) = results
    assert none == 0
    assert share == pytest.approx(0.1 * rate, rel=1e-5)
    torch.testing.assert_close(plain - decayed, torch.full((4, 3), 0.1 * rate * 0.5), rtol=1e-2, atol=1e-7)


def test_groups_have_their_own_options() -> None:
    a, b = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b], "lr": 0.0}], 10)
    for p in (a, b):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert (a != 1).all()
    assert (b == 1).all()
    assert optimizer.learning_rates()[1] == 0


def test_maximize_is_the_mirror() -> None:
    down, up = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    first, second = LearnedOptimizer([down], 10), LearnedOptimizer([up], 10, maximize=True)
    g = torch.tensor([1.0, -2.0, 3.0])
    down.grad, up.grad = g, -g
    first.step()
    second.step()
    assert torch.equal(down, up)
    assert torch.equal(up.grad, -g)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"total_steps": -1}, r"total_steps .* got -1"),
    ({"total_steps": 0}, r"total_steps .* got 0"),
    ({"total_steps": 1e-3}, r"total_steps .* got 0.001; no learning rate is needed"),
    ({"total_steps": 2.5}, r"total_steps .* got 2.5"),
    ({"total_steps": True}, r"total_steps .* got True"),
    ({"total_steps": np.bool_(True)}, r"total_steps .* got np.True_"),
    ({"total_steps": np.float64(30)}, r"total_steps .* got np.float64"),
    ({"lr": -0.1}, r"lr .* got -0.1"),
    ({"lr": float("nan")}, r"lr .* got nan"),
    ({"lr": torch.ones(2)}, r"lr .* shape \(2,\)"),
    ({"weight_decay": -1}, r"weight_decay .* got -1"),
    ({"weight_decay": float("inf")}, r"weight_decay .* got inf"),
    ({"weights": "v99"}, r"unknown weights 'v99'; choose from: default"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=str)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([nn.Parameter(torch.ones(2))], **arguments)


def test_numbers_of_steps_out_of_numpy() -> None:
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(2))], np.int64(30))
    assert type(optimizer.state_dict()["param_groups"][0]["total_steps"]) is int
    assert optimizer.param_groups[0]["total_steps"] == 30


@pytest.mark.parametrize("loss", [torch.ones(2), torch.zeros(0)])
def test_bad_loss(loss: Tensor) -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="loss must be one number"):
        LearnedOptimizer([p]).step(loss=loss)
    assert (p == 1).all()


def test_a_loss_in_the_place_of_the_closure() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(TypeError, match=r"closure must be a function, got tensor\(1\.\); .* step\(loss=loss\)"):
        LearnedOptimizer([p]).step(torch.tensor(1.0))  # type: ignore[call-overload]
    assert (p == 1).all()


def test_bad_group_options() -> None:
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=r"lr .* got -2"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": -2})
