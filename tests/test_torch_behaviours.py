"""What torch's tests ask of every optimizer (`TestOptimRenewed` of its test_optim.py), asked of ours and of AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo
from torch_checks import Line, both, cases, seeded
from torch_record import ADAMW, LEARNED

__all__ = ["seeded"]


@both
def test_records_leave_the_ways_to_execute_alone(info: OptimizerInfo) -> None:
    assert all(not {"foreach", "fused", "differentiable"} & set(kwargs) for _, kwargs in cases(info))


@both
def test_errors(info: OptimizerInfo) -> None:
    for wrong in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        case = wrong.optimizer_error_input
        params = [nn.Parameter(torch.randn(1, 1))] if case.params is None and "lr" not in case.kwargs else case.params
        assert wrong.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
        if issubclass(wrong.error_type, Warning):
            with pytest.warns(wrong.error_type, match=wrong.error_regex):
                info.optim_cls(params, **case.kwargs)
        else:
            params = [nn.Parameter(torch.randn(1, 1))] if case.params is None and not case.kwargs else params
            with pytest.raises(wrong.error_type, match=wrong.error_regex):
                info.optim_cls(params, **case.kwargs)


@both
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("scheduled", [False, True])
def test_it_goes_in_the_right_direction(info: OptimizerInfo, contiguous: bool, scheduled: bool) -> None:
    for schedules in info.scheduler_inputs if scheduled else (None,):
        for name, kwargs in cases(info):
            if schedules is not None and isinstance(kwargs.get("lr"), Tensor) and info is ADAMW:
                continue  # torch's own tests do not mix these
            line = Line(contiguous)
            optimizer = info.optim_cls(line.params, **kwargs)
            closure = line.closure(optimizer)
            first = closure().item()
            following = [make(optimizer) for make in schedules or ()]
            for _ in range(20):
                loss = optimizer.step(closure)
                for scheduler in following:
                    scheduler.step(*([loss.detach()] if isinstance(scheduler, ReduceLROnPlateau) else []))
            last = closure().item()
            assert (last > first) if kwargs.get("maximize") else (last < first), name


@both
def test_groups_with_schedulers_go_in_the_right_direction(info: OptimizerInfo) -> None:
    for schedules in info.scheduler_inputs:
        line = Line()
        optimizer = info.optim_cls([{"params": [line.weight], "lr": 0.01}, {"params": [line.bias]}])
        closure = line.closure(optimizer)
        first = closure().item()
        following = [make(optimizer) for make in schedules]
        for _ in range(20):
            loss = optimizer.step(closure)
            for scheduler in following:
                scheduler.step(*([loss.detach()] if isinstance(scheduler, ReduceLROnPlateau) else []))
        assert closure().item() < first


@both
@pytest.mark.parametrize("dims", [0, 1, 2])
def test_tensor_lr(info: OptimizerInfo, dims: int) -> None:
    for _, kwargs in cases(info):
        line = Line()
        twin = line.twin()
        rate = float(kwargs.pop("lr", 1e-3))
        a = info.optim_cls(line.params, **kwargs, lr=rate)
        b = info.optim_cls(twin.params, **kwargs, lr=torch.tensor(rate).reshape([1] * dims))
        for _ in range(5):
            a.step(line.closure(a))
            b.step(twin.closure(b))
            torch.testing.assert_close(line.params, twin.params)
        assert isinstance(b.param_groups[0]["lr"], Tensor)


@both
def test_complex_parameters_move_as_pairs_of_numbers(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        value = torch.randn(5, 5, dtype=torch.complex64)
        pair = nn.Parameter(value.clone())
        real = nn.Parameter(torch.view_as_real(value).clone())
        a, b = info.optim_cls([pair], **kwargs), info.optim_cls([real], **kwargs)
        for _ in range(5):
            pair.grad = torch.randn(5, 5, dtype=torch.complex64)
            real.grad = torch.view_as_real(pair.grad).clone()
            a.step()
            b.step()
            torch.testing.assert_close(torch.view_as_real(pair.detach()), real.detach())


@both
def test_weight_decay_of_groups(info: OptimizerInfo) -> None:
    line = Line()
    optimizer = info.optim_cls(
        [{"params": [line.weight], "weight_decay": 0.1}, {"params": [line.bias], "weight_decay": 0.0}]
    )
    closure = line.closure(optimizer)
    first = closure().item()
    for _ in range(20):
        optimizer.step(closure)
    assert closure().item() < first


@both
def test_rates_of_groups(info: OptimizerInfo) -> None:
    line = Line()
    still = nn.Parameter(torch.randn(2, 3))
    before = still.detach().clone()
    optimizer = info.optim_cls([{"params": line.params}, {"params": [still], "lr": 0.0}])
    for _ in range(5):
        closure = line.closure(optimizer)
        optimizer.zero_grad()
        (closure() + still.square().sum()).item()
        still.grad = torch.ones_like(still)
        optimizer.step()
    assert torch.equal(still, before)


@both
def test_a_step_without_gradients_is_none(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        params = [nn.Parameter(torch.randn(2, 3)) for _ in range(2)]
        before = [p.detach().clone() for p in params]
        optimizer = info.optim_cls(params, **kwargs)
        optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


@both
def test_a_step_of_zero_gradients_is_none(info: OptimizerInfo) -> None:
    for name, kwargs in cases(info):
        kwargs["weight_decay"] = 0.0
        param = nn.Parameter(torch.randn(4, 3))
        before = param.detach().clone()
        optimizer = info.optim_cls([param], **kwargs)
        for _ in range(3):
            param.grad = torch.zeros_like(param)
            optimizer.step()
            torch.testing.assert_close(param.detach(), before, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("info", "sparse"), [(LEARNED, False), (LEARNED, True), (ADAMW, False)], ids=["own", "own-sparse", "AdamW"]
)
def test_what_never_had_a_gradient_stays(info: OptimizerInfo, sparse: bool) -> None:
    embed = nn.Embedding(9, 4, sparse=sparse)
    before = embed.weight.detach().clone()
    optimizer = info.optim_cls(embed.parameters(), weight_decay=0.0)
    for t in range(10):
        optimizer.zero_grad()
        embed(torch.tensor([1, 2 + t % 3])).square().sum().backward()
        optimizer.step()
    moved = (embed.weight != before).any(1)
    assert moved.tolist() == [False, True, True, True, True, False, False, False, False]


@both
def test_it_can_be_printed(info: OptimizerInfo) -> None:
    optimizer = info.optim_cls(Line().params)
    assert "Parameter Group 0" in repr(optimizer)
    assert "lr" in repr(optimizer)


def test_a_compiled_step_is_the_step() -> None:
    line = Line()
    twin = line.twin()
    a, b = (LEARNED.optim_cls(own.params, total_steps=6) for own in (line, twin))
    step = torch.compile(lambda: b.step(), backend="eager")
    for _ in range(6):
        line.closure(a)()
        twin.closure(b)()
        a.step()
        step()
    assert all(torch.equal(p, q) for p, q in zip(line.params, twin.params, strict=True))


def test_sparse_gradients_move_as_dense_ones_do() -> None:
    for _, kwargs in cases(LEARNED):
        value = torch.tensor([[1.5, -0.5], [0.3, 2.0]])
        p, q = nn.Parameter(value.clone()), nn.Parameter(value.clone())
        a, b = (LEARNED.optim_cls([x], **kwargs) for x in (p, q))
        for t in range(20):
            i, v = torch.tensor([[t % 2, t % 2], [0, 1]]), torch.randn(2)
            twice = torch.cat([i, i], 1), torch.cat([v / 4, 3 * v / 4])
            p.grad = torch.sparse_coo_tensor(*twice, (2, 2), check_invariants=True)
            q.grad = p.grad.to_dense()
            a.step()
            b.step()
            torch.testing.assert_close(p, q)


@both
def test_parameters_of_mixed_precision(info: OptimizerInfo) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    params = [nn.Parameter(torch.randn(3, 2).to(dtype)) for dtype in dtypes]
    before = [p.detach().clone() for p in params]
    optimizer = info.optim_cls(params, lr=0.1 if info is ADAMW else 1.0)
    for _ in range(20):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert [p.dtype for p in params] == list(dtypes)
    assert all((p < q).all() for p, q in zip(params, before, strict=True))
