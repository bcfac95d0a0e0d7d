"""What people do around an optimizer, 16 checks that any optimizer can take; 3 are in test_optimizer_distributed.py.

Asked of ours and of AdamW, or of those that `--judged` names. What is special to ours is in `test_optimizer*.py`.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from optimizer_toy import loss_of, network, reread, values
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.testing._internal.common_optimizers import OptimizerInfo
from torch_checks import Line, assert_equal, assert_same, run, seeded
from torch_record import SCHEDULERS

from learnopt import LearnedOptimizer

__all__ = ["seeded"]


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for t in steps:
        optimizer.zero_grad()
        loss = loss_of(model, t)
        loss.backward()
        take(optimizer, loss)


def take(optimizer: Optimizer, loss: Tensor) -> None:
    if isinstance(optimizer, LearnedOptimizer):
        optimizer.step(loss=loss)
    else:
        optimizer.step()


def begun(info: OptimizerInfo, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Optimizer]:
    model = network(dtype=dtype)
    optimizer = info.optim_cls(model.parameters())
    train(model, optimizer, range(5))
    return model, optimizer


def assert_they_go_on_alike(a: tuple[nn.Module, Optimizer], b: tuple[nn.Module, Optimizer]) -> None:
    before = values(a[0])
    assert_same(before, values(b[0]))
    for model, optimizer in (a, b):
        train(model, optimizer, range(5, 10))
    assert_same(values(a[0]), values(b[0]))
    assert any(not torch.equal(p, q) for p, q in zip(before, a[0].parameters(), strict=True))


def test_a_pickle_goes_on_exactly(info: OptimizerInfo) -> None:
    both = begun(info)
    assert_they_go_on_alike(both, pickle.loads(pickle.dumps(both)))


def test_a_deepcopy_goes_on_exactly(info: OptimizerInfo) -> None:
    both = begun(info)
    assert_they_go_on_alike(both, copy.deepcopy(both))


def test_a_file_goes_on_exactly(info: OptimizerInfo) -> None:
    both = begun(info)
    assert_they_go_on_alike(both, reread(*both, info.optim_cls))


def test_bfloat16_goes_on_exactly(info: OptimizerInfo) -> None:
    """Also what an optimizer keeps in float32 beside parameters of half precision."""
    both = begun(info, torch.bfloat16)
    other = reread(*both, info.optim_cls)
    assert_same(both[1].state_dict()["state"], other[1].state_dict()["state"])
    assert_they_go_on_alike(both, other)


def test_odd_parameters_train(info: OptimizerInfo) -> None:
    """0-d, empty, strided and long ones, of every precision."""
    parts = [
        torch.tensor(2.0), torch.zeros(0, 3), torch.randn(6, 4).t(), torch.randn(5, 2)[:, 0], torch.randn(100_000),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(4, 3).double(),
        torch.randn(4, 3).bfloat16(), torch.randn(4, 3).half(),
    ]  # fmt: skip
    params = [nn.Parameter(x + 1) for x in parts]
    before = copy.deepcopy(params)
    optimizer = info.optim_cls(params)
    for _ in range(10):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p, q in zip(params, before, strict=True):
        assert (p.dtype, p.stride()) == (q.dtype, q.stride()) or not p.numel()
        assert p.isfinite().all()
        assert p.double().sum() <= q.double().sum()
    assert all(not torch.equal(p, q) for p, q in zip(params[:5], before[:5], strict=True) if p.numel())


def test_groups_come_late_empty_or_frozen(info: OptimizerInfo) -> None:
    model = network()
    parts: Any = model
    optimizer = info.optim_cls([{"params": []}, {"params": list(parts[0].parameters())}])
    parts[0].bias.requires_grad_(False)
    train(model, optimizer, range(3))
    kept = parts[0].bias.clone()
    optimizer.add_param_group({"params": list(parts[3].parameters()), "lr": 0.01})
    late = parts[3].weight.detach().clone()
    for t in range(3, 6):
        optimizer.zero_grad()
        loss = loss_of(model, t)
        loss.backward()
        parts[0].weight.grad = None
        take(optimizer, loss)
    assert_same(kept, parts[0].bias)
    assert not torch.equal(late, parts[3].weight)
    other = copy.deepcopy(model)
    again: Any = other
    fresh = info.optim_cls([{"params": []}, {"params": list(again[0].parameters())}])
    fresh.add_param_group({"params": list(again[3].parameters())})
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_they_go_on_alike((model, optimizer), (other, fresh))


def test_grad_scaler(info: OptimizerInfo) -> None:
    model = network()
    optimizer = info.optim_cls(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    twin = copy.deepcopy(model)
    plain = info.optim_cls(twin.parameters())
    train(twin, plain, range(4))
    for t in range(5):
        optimizer.zero_grad()
        loss = loss_of(model, t)
        scaler.scale(loss).backward()
        before = values(model)
        if t == 4:
            next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
        extra = {"loss": loss} if isinstance(optimizer, LearnedOptimizer) else {}
        scaler.step(optimizer, **extra)
        scaler.update()
        if t:  # some only look at first
            assert (t == 4) == all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert_equal(values(model), values(twin), rtol=1e-4, atol=1e-6)
    assert scaler.get_scale() == 512.0


def test_gradients_can_be_accumulated_and_clipped_and_are_not_written_to(info: OptimizerInfo) -> None:
    model = network()
    optimizer = info.optim_cls(model.parameters())
    for t in range(6):
        loss = loss_of(model, t) / 2
        loss.backward()
        if t % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            take(optimizer, loss)
            assert_same(grads, [p.grad for p in model.parameters()])
            optimizer.zero_grad(set_to_none=t < 3)
            assert all((p.grad is None) if t < 3 else not p.grad.any() for p in model.parameters())  # type: ignore[union-attr]


def test_closures(info: OptimizerInfo) -> None:
    """Called with gradients enabled; what it returns is returned; the step is that of a plain step."""
    line = Line()
    twin = line.twin()
    a, b = (info.optim_cls(own.params) for own in (line, twin))
    evaluate, calls = line.closure(a), []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        return evaluate()

    with torch.no_grad():
        returned = a.step(closure)
    assert calls == [True]
    assert returned is not None
    assert_equal(returned.detach(), twin.closure(b)().detach())
    take(b, returned)
    assert_equal(line.params, twin.params)


def test_every_scheduler(info: OptimizerInfo) -> None:
    for schedules in SCHEDULERS:
        line = Line()
        optimizer = info.optim_cls(line.params)
        first = float(optimizer.param_groups[0]["lr"])
        following = [make(optimizer) for make in schedules]
        rates = {first, float(optimizer.param_groups[0]["lr"])}
        for _ in range(10):
            run(line, optimizer, 1, following)
            rates.add(float(optimizer.param_groups[0]["lr"]))
        assert len(rates) > 1
        saved = [copy.deepcopy(scheduler.state_dict()) for scheduler in following]
        for scheduler, state in zip(following, saved, strict=True):
            scheduler.load_state_dict(state)
        assert all(p.isfinite().all() for p in line.params)


def test_averaged_models(info: OptimizerInfo) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 2))
    optimizer = info.optim_cls(model.parameters())
    swa, ema = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    scheduler = SWALR(optimizer, swa_lr=float(optimizer.param_groups[0]["lr"]) / 2, anneal_epochs=5)
    visited = []
    for t in range(10):
        train(model, optimizer, range(t, t + 1))
        visited.append(values(model))
        for average in (swa, ema):
            average.update_parameters(model)
        scheduler.step()
    update_bn([torch.randn(12, 5) for _ in range(3)], swa)
    means = [torch.stack(steps).mean(0) for steps in zip(*visited, strict=True)]
    torch.testing.assert_close(values(swa), means)
    assert all(p.isfinite().all() for p in ema.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(ema.parameters(), swa.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")  # torch's own
def test_compiled_models_and_steps(info: OptimizerInfo) -> None:
    """Without the code generator, whose compiler takes long: what is traced is the same."""
    torch.compiler.reset()
    model = network()
    twin = copy.deepcopy(model)
    a, b = (info.optim_cls(m.parameters()) for m in (model, twin))
    forward, step = torch.compile(twin, backend="aot_eager"), torch.compile(lambda: b.step(), backend="eager")
    for t in range(5):
        for m, optimizer in ((model, a), (forward, b)):
            optimizer.zero_grad()
            loss_of(m, t).backward()
        a.step()
        step()
    assert_equal(values(model), values(twin), rtol=1e-4, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # torch's own, about a process group of one
def test_distributed_checkpoints(info: OptimizerInfo) -> None:
    """Reading the state of a fresh optimizer steps with zero gradients at lr 0: weights stay to the bit."""
    for flat in (False, True):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        model, optimizer = begun(info)
        optimizer.zero_grad()
        saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
        other = copy.deepcopy(model)
        fresh = info.optim_cls(other.parameters())
        before = values(other)
        get_optimizer_state_dict(other, fresh, options=options)
        assert_same(before, values(other))
        set_optimizer_state_dict(other, fresh, saved, options=options)
        assert_same(before, values(other))
        assert_they_go_on_alike((model, optimizer), (other, fresh))
