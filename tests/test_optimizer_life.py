"""What happens to an optimizer in real training: checkpoints, odd gradients, odd parameters, scalers, schedulers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_optimizer import train
from torch import Tensor, nn
from toy import ToyTask

from learnopt import LearnedOptimizer


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def by_state_dict(model: nn.Module, optimizer: LearnedOptimizer) -> tuple[nn.Module, LearnedOptimizer]:
    other = ToyTask().build(9)
    other.load_state_dict(model.state_dict())
    fresh = LearnedOptimizer(other.parameters())
    fresh.load_state_dict(through_file(optimizer.state_dict()))
    return other, fresh


def by_deepcopy(model: nn.Module, optimizer: LearnedOptimizer) -> tuple[nn.Module, LearnedOptimizer]:
    return copy.deepcopy((model, optimizer))


def by_pickle(model: nn.Module, optimizer: LearnedOptimizer) -> tuple[nn.Module, LearnedOptimizer]:
    return pickle.loads(pickle.dumps((model, optimizer)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", [by_state_dict, by_deepcopy, by_pickle])
@pytest.mark.parametrize("before", [0, 7])
def test_goes_on_bit_exactly(way: Callable[..., Any], before: int) -> None:
    task = ToyTask()
    model = task.build(1)
    optimizer = LearnedOptimizer(model.parameters(), total_steps=20, lr=0.7)
    train(task, optimizer, model, 0, before)
    other, copied = way(model, optimizer)
    assert copied.learning_rates() == optimizer.learning_rates()
    a = train(task, optimizer, model, before, 20)
    b = train(task, copied, other, before, 20)
    assert a == b
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert copied.schedule == optimizer.schedule
    assert copied.stop_probability == optimizer.stop_probability


def test_state_of_other_weights_is_refused() -> None:
    p = nn.Parameter(torch.ones(2))
    state = LearnedOptimizer([p]).state_dict()
    state["param_groups"][0]["weights"] = "f" * 64
    with pytest.raises(ValueError, match="state_dict belongs to meta-weights ffff"):
        LearnedOptimizer([p]).load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_state_keeps_its_precision(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype))
    optimizer = LearnedOptimizer([p], 20)
    for t in range(5):
        p.grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(t)).to(dtype)
        optimizer.step(loss=1.0 / (t + 1))
    assert p.dtype == dtype
    assert torch.isfinite(p).all()
    assert optimizer.state[p]["memory"].dtype == torch.float32
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert optimizer.state[p]["exp_avg_sq"].dtype == expected
    fresh = LearnedOptimizer([p], 20)
    fresh.load_state_dict(through_file(optimizer.state_dict()))
    for key, value in optimizer.state[p].items():
        assert fresh.state[p][key].dtype == value.dtype, key
        assert torch.equal(fresh.state[p][key], value), key


def snapshot(optimizer: LearnedOptimizer) -> dict[Any, dict[str, Tensor]]:
    return {p: {k: v.clone() for k, v in s.items() if k != "run"} for p, s in optimizer.state.items()}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_what_is_not_finite_is_skipped_and_counted(bad: float, where: str) -> None:
    task = ToyTask()
    clean, dirty = task.build(1), task.build(1)
    first, second = LearnedOptimizer(clean.parameters(), 20), LearnedOptimizer(dirty.parameters(), 20)
    train(task, first, clean, 0, 5)
    train(task, second, dirty, 0, 5)
    before, weights = snapshot(second), [p.detach().clone() for p in dirty.parameters()]
    loss = task.loss(dirty, task.batch(1, 5))
    second.zero_grad()
    loss.backward()
    if where == "gradient":
        list(dirty.parameters())[2].grad[0] = bad
    second.step(loss=bad if where == "loss" else loss)
    assert second.skipped_steps == 1
    assert all(torch.equal(p, w) for p, w in zip(dirty.parameters(), weights, strict=True))
    for p, state in snapshot(second).items():
        assert all(torch.equal(state[k], before[p][k]) for k in state)
    assert train(task, first, clean, 5, 12) == train(task, second, dirty, 5, 12)
    assert first.skipped_steps == 0


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_extreme_gradients_keep_everything_finite(size: float) -> None:
    p = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = LearnedOptimizer([p], 10)
    for t in range(4):
        p.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(t)) * (size if t == 1 else 1.0)
        optimizer.step(loss=1.0)
    assert torch.isfinite(p).all()
    assert all(torch.isfinite(v).all() for v in optimizer.state[p].values())
    assert optimizer.skipped_steps == 0


def test_tensors_without_gradient_wait() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    frozen, late = model[0].bias.detach().clone(), model[1].weight.detach().clone()
    optimizer = LearnedOptimizer(model.parameters(), 20)
    for t in range(4):
        optimizer.zero_grad()
        out = model[0](torch.ones(2, 3)) if t < 2 else model(torch.ones(2, 3))
        out.square().sum().backward()
        optimizer.step(loss=1.0)
        if t == 1:
            assert torch.equal(model[1].weight, late)
            assert optimizer.learning_rates()[2] == 0
    assert torch.equal(model[0].bias, frozen)
    assert not torch.equal(model[1].weight, late)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_no_gradient_anywhere_is_no_step() -> None:
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(2))])
    assert optimizer.step() is None
    assert not optimizer.state_dict()["state"]


def test_odd_shapes() -> None:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    shapes = [torch.tensor(0.5), torch.zeros(0), torch.ones(1, 1), base.t(), torch.randn(5), torch.zeros(2, 3, 3, 3)]
    params, start = [nn.Parameter(x) for x in shapes], [x.clone() for x in shapes]
    optimizer = LearnedOptimizer(params, 10)
    for t in range(3):
        for p in params:
            p.grad = torch.full_like(p, 0.1 * (t + 1))
        optimizer.step(loss=torch.tensor([0.5]))
    for p, x in zip(params, start, strict=True):
        assert p.shape == x.shape
        assert torch.isfinite(p).all()
        assert (p < x).all()  # every gradient is positive
    assert params[3].data_ptr() == base.data_ptr()
    assert (base.t() == params[3]).all()


def test_sparse_and_complex_gradients() -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    dense = nn.Embedding(10, 4, _weight=embedding.weight.detach().clone())
    for model in (embedding, dense):
        optimizer = LearnedOptimizer(model.parameters(), 10)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.tensor([1, 3, 3])).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(embedding.weight, dense.weight)
    p = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    p.grad = torch.full((3,), 1 + 2j)
    LearnedOptimizer([p], 10).step()
    assert (p.real < 1).all()
    assert (p.imag < 0).all()


def test_parameters_added_later_are_measured_by_the_network() -> None:
    task = ToyTask()
    model = task.build(1)
    optimizer = LearnedOptimizer(model.parameters(), 40)
    train(task, optimizer, model, 0, 10)
    new = nn.Parameter(torch.zeros(5, 4))
    optimizer.add_param_group({"params": [new], "lr": 0.5})
    for _ in range(3):
        for p in [*model.parameters(), new]:
            p.grad = torch.ones_like(p)
        optimizer.step(loss=0.5)
    assert (new < 0).all()
    assert 0 < new.abs().max() < 1
    assert len(optimizer.learning_rates()) == 7
    state = optimizer.state_dict()
    fresh = LearnedOptimizer([{"params": list(model.parameters())}, {"params": [new]}])
    fresh.load_state_dict(state)
    assert fresh.param_groups[1]["lr"] == 0.5


def test_closure_is_the_loss() -> None:
    task = ToyTask()
    results = []
    for closed in (True, False):
        model = task.build(1)
        optimizer = LearnedOptimizer(model.parameters(), 10)

        def closure(model: nn.Module = model, optimizer: LearnedOptimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = task.loss(model, task.batch(1, 0))
            loss.backward()
            return loss

        if closed:
            returned = optimizer.step(closure)  # type: ignore[arg-type]
            assert returned.item() > 0  # type: ignore[attr-defined]
        else:
            optimizer.step(loss=closure())
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_grad_scaler_and_accumulation() -> None:
    task = ToyTask()
    plain, scaled = task.build(1), task.build(1)
    a, b = LearnedOptimizer(plain.parameters(), 10), LearnedOptimizer(scaled.parameters(), 10)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(4):
        for model, optimizer in ((plain, a), (scaled, b)):
            optimizer.zero_grad()
            for part in range(2):
                loss = task.loss(model, task.batch(1, 2 * t + part)) / 2
                (loss if optimizer is a else scaler.scale(loss)).backward()
            if optimizer is a:
                optimizer.step(loss=loss)
            else:
                scaler.step(optimizer, loss=loss)
                scaler.update()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    before = [p.detach().clone() for p in scaled.parameters()]
    for p in scaled.parameters():
        p.grad = torch.full_like(p, float("inf"))
    scaler.scale(torch.ones(()))
    scaler.step(b)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(scaled.parameters(), before, strict=True))


def test_gradients_are_not_written_to() -> None:
    p = nn.Parameter(torch.ones(3, 3))
    p.grad = torch.full((3, 3), 1e25)
    optimizer = LearnedOptimizer([p], 10)
    optimizer.step()
    assert (p.grad == 1e25).all()


def test_a_copy_shares_the_process_group_and_a_pickle_has_none() -> None:
    group = object()  # only handed on here
    for given, pickled in ((group, None), (False, False), (None, None)):
        optimizer = LearnedOptimizer([nn.Parameter(torch.ones(2))], process_group=given)
        assert copy.deepcopy(optimizer)._group is given
        assert pickle.loads(pickle.dumps(optimizer))._group is pickled
