"""What the checks of torch's behaviours share: the options, a small problem, steps, comparisons."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import Optimizer
from torch.testing._internal.common_optimizers import OptimizerInfo


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def cases(info: OptimizerInfo) -> list[tuple[str, dict[str, Any]]]:
    return [(case.desc, dict(case.kwargs)) for case in info.optim_inputs_func("cpu")]


class Line:
    """`(W x + b)^2` summed: a weight, a bias and an input, as in torch's tests."""

    def __init__(self, contiguous: bool = True, dtype: torch.dtype = torch.float32) -> None:
        weight, bias = (torch.randn(10, 5), torch.randn(10)) if contiguous else (
            torch.randn(10, 5, 2)[..., 0], torch.randn(10, 2)[..., 0]
        )  # fmt: skip
        self.weight, self.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype))
        self.input = torch.randn(5, dtype=dtype)
        self.params = [self.weight, self.bias]

    def closure(self, optimizer: Optimizer) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = (self.weight.mv(self.input) + self.bias).square().sum()
            loss.backward()
            return loss

        return evaluate

    def given(self, names: bool) -> list[Any]:
        """What an optimizer is given: parameters, or pairs of name and parameter."""
        return [("weight", self.weight), ("bias", self.bias)] if names else self.params

    def twin(self) -> Line:
        other = copy.deepcopy(self)
        other.params = [other.weight, other.bias]
        return other


def run(line: Line, optimizer: Optimizer, steps: int, schedulers: Sequence[Any] = ()) -> Tensor:
    """Some steps, schedulers after each; returns the last loss."""
    closure = line.closure(optimizer)
    for _ in range(steps):
        loss = closure()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*([loss.detach()] if isinstance(scheduler, ReduceLROnPlateau) else []))
    return closure().detach()


def assert_equal(a: Any, b: Any, **tolerance: float) -> None:
    """Equal all the way down; tensors within `tolerance` (torch's by default) and of the same dtype."""
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, **tolerance)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key], **tolerance)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y, **tolerance)
    else:
        assert a == b


def assert_same(a: Any, b: Any) -> None:
    """Equal to the bit."""
    assert_equal(a, b, rtol=0, atol=0)
