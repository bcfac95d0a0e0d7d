"""What torch's tests ask of every optimizer as it trains (`TestOptimRenewed` of its test_optim.py): 19 of the 42.

`--judged` names the optimizers asked, by default ours and AdamW: what torch's own AdamW fails is no fair check. The
behaviours of states, copies and hooks are in test_torch_states.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo
from torch_checks import Line, assert_equal, cases, run, seeded

__all__ = ["seeded"]


def test_records_leave_the_ways_to_execute_alone(info: OptimizerInfo) -> None:
    assert all(not {"foreach", "fused", "differentiable"} & set(kwargs) for _, kwargs in cases(info))


def test_errors(info: OptimizerInfo) -> None:
    for wrong in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        case = wrong.optimizer_error_input
        params = case.params
        if params is None and "lr" not in case.kwargs:
            params = [nn.Parameter(torch.randn(1, 1))]
        assert wrong.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
        expected = pytest.warns if issubclass(wrong.error_type, Warning) else pytest.raises
        with expected(wrong.error_type, match=wrong.error_regex):  # type: ignore[operator]
            info.optim_cls(params, **case.kwargs)


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
@pytest.mark.parametrize("scheduled", [False, True], ids=["plain", "scheduled"])
def test_it_goes_in_the_right_direction(info: OptimizerInfo, contiguous: bool, scheduled: bool) -> None:
    for schedules in info.scheduler_inputs if scheduled else ((),):
        for name, kwargs in cases(info):
            line = Line(contiguous)
            optimizer = info.optim_cls(line.params, **kwargs)
            first = line.closure(optimizer)()
            last = run(line, optimizer, 20, [make(optimizer) for make in schedules])
            assert (last > first) if kwargs.get("maximize") else (last < first), name


def test_groups_with_schedulers_go_in_the_right_direction(info: OptimizerInfo) -> None:
    for schedules in info.scheduler_inputs:
        line = Line()
        optimizer = info.optim_cls([{"params": [line.weight]}, {"params": [line.bias], "lr": 0.01}])
        first = line.closure(optimizer)()
        assert run(line, optimizer, 20, [make(optimizer) for make in schedules]) < first


@pytest.mark.parametrize("dims", [0, 1, 2])
def test_tensor_lr(info: OptimizerInfo, dims: int) -> None:
    """A learning rate in a tensor is the number in it; or it is refused in so many words, as torch allows."""
    for _, kwargs in cases(info):
        line = Line()
        twin = line.twin()
        kwargs.pop("lr", None)
        a = info.optim_cls(line.params, **kwargs, lr=1e-3)
        try:
            b = info.optim_cls(twin.params, **kwargs, lr=torch.tensor(1e-3).reshape([1] * dims))
        except ValueError as error:
            assert "lr as a Tensor is not supported" in str(error)  # noqa: PT017
            continue
        for _ in range(5):
            run(line, a, 1)
            run(twin, b, 1)
            assert_equal(line.params, twin.params)
        assert isinstance(b.param_groups[0]["lr"], Tensor)


def bowl(x: Tensor) -> Tensor:
    return (x - torch.tensor([1.0, -2.0])).square().sum()


@pytest.mark.parametrize("scheduled", [False, True], ids=["plain", "scheduled"])
def test_sparse_gradients_move_as_dense_ones_do(info: OptimizerInfo, scheduled: bool) -> None:
    """Uncoalesced ones too; or they are refused in so many words, as most of torch's optimizers do."""
    for name, kwargs in cases(info):
        own = [nn.Parameter(torch.tensor([1.5, 1.5])) for _ in range(2)]
        optimizers = [info.optim_cls([p], **kwargs) for p in own]
        following = [make(o) for o in optimizers for make in info.scheduler_inputs[0][:1] if scheduled]
        start = bowl(own[0]).item()
        for t in range(100):
            for p, optimizer, sparse in zip(own, optimizers, (True, False), strict=True):
                i, grad = t % 2, torch.autograd.grad(bowl(p), p)[0]
                values = torch.stack([grad[i] / 4, grad[i] - grad[i] / 4])
                p.grad = torch.sparse_coo_tensor([[i, i]], values, (2,), check_invariants=True)
                p.grad = p.grad if sparse else p.grad.to_dense()
                try:
                    optimizer.step()
                except Exception as error:
                    assert sparse, name
                    assert "sparse" in str(error).lower()  # noqa: PT017
                    return
            for scheduler in following:
                scheduler.step()
            assert_equal(own[0], own[1], rtol=1e-5, atol=5e-6)
        assert (bowl(own[0]).item() > start) == bool(kwargs.get("maximize")), name


def test_complex_parameters_move_as_pairs_of_numbers(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        values = [torch.randn(10, 5, dtype=torch.complex64), torch.randn(10, dtype=torch.complex64), torch.randn(10, 5)]
        mixed = [nn.Parameter(v.clone()) for v in values]
        real = [nn.Parameter(as_real(v).clone()) for v in values]
        a, b = info.optim_cls(mixed, **kwargs), info.optim_cls(real, **kwargs)
        for _ in range(3):
            for p, q in zip(mixed, real, strict=True):
                p.grad = torch.randn_like(p)
                q.grad = as_real(p.grad).clone()
            a.step()
            b.step()
            assert_equal([as_real(p.detach()) for p in mixed], [q.detach() for q in real])


def as_real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def valley(x: Tensor) -> Tensor:
    """Rosenbrock's function of two numbers."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_a_complex_vector_moves_as_two_real_ones(info: OptimizerInfo, request: pytest.FixtureRequest) -> None:
    if info.name == "LearnedOptimizer":
        reason = "decides per tensor: one tensor is not two; as a pair of numbers, in one tensor, it moves the same"
        request.applymarker(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))
    for _, kwargs in cases(info):
        whole = nn.Parameter(torch.randn(2, dtype=torch.complex64))
        parts = [nn.Parameter(part.detach().clone()) for part in (whole.real, whole.imag)]
        a, b = info.optim_cls([whole], **kwargs), info.optim_cls(parts, **kwargs)
        for _ in range(3):
            for optimizer, x in ((a, whole), (b, torch.complex(*parts))):
                optimizer.zero_grad()
                valley(x).abs().backward()
            a.step()
            b.step()
            assert_equal([whole.real, whole.imag], parts)


def test_weight_decay_of_groups(info: OptimizerInfo) -> None:
    for name, kwargs in cases(info):
        line = Line()
        bias: dict[str, Any] = {**kwargs, "weight_decay": 0.0}
        optimizer = info.optim_cls([{"params": [line.weight], **kwargs}, {"params": [line.bias], **bias}])
        first = line.closure(optimizer)()
        last = run(line, optimizer, 20)
        assert (last > first) if kwargs.get("maximize") else (last < first), name


def test_rates_of_groups(info: OptimizerInfo) -> None:
    for name, kwargs in cases(info):
        line, still = Line(), nn.Parameter(torch.randn(2))
        before = still.detach().clone()
        kwargs.setdefault("lr", 1e-3)
        optimizer = info.optim_cls([{"params": line.params, **kwargs}, {"params": [still]}], lr=1e-28)
        closure = line.closure(optimizer)
        first = closure()
        for _ in range(20):
            closure()
            still.grad = torch.rand_like(still)
            optimizer.step()
        assert (closure() > first) if kwargs.get("maximize") else (closure() < first), name
        assert_equal(still.detach(), before)


def test_a_step_without_gradients_is_none(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        params = [torch.randn(2, 3) for _ in range(2)]
        before = [p.clone() for p in params]
        info.optim_cls(params, **kwargs).step(lambda: torch.tensor([1.0]))
        assert_equal(params, before, rtol=0, atol=0)


def test_a_step_of_zero_gradients_is_none(info: OptimizerInfo) -> None:
    for name, kwargs in cases(info):
        if not kwargs.get("weight_decay"):
            param = nn.Parameter(torch.randn(5, 1))
            before = param.detach().clone()
            if name != "default" or info.name == "AdamW":
                kwargs["weight_decay"] = 0.0  # what decays moves
            optimizer = info.optim_cls([param], **kwargs)
            param.grad = torch.zeros_like(param)
            optimizer.step(lambda: torch.tensor([1.0]))
            assert_equal(param.detach(), before)


def test_it_can_be_printed(info: OptimizerInfo) -> None:
    for _, kwargs in cases(info):
        assert "Parameter Group 0" in repr(info.optim_cls(Line().params, **kwargs))
