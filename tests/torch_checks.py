"""What the checks of torch's behaviours share: who takes them, the options, a small problem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.testing._internal.common_optimizers import OptimizerInfo
from torch_record import ADAMW, LEARNED

both = pytest.mark.parametrize("info", [LEARNED, ADAMW], ids=lambda info: info.name)


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

    def twin(self) -> Line:
        other = copy.deepcopy(self)
        other.params = [other.weight, other.bias]
        return other
