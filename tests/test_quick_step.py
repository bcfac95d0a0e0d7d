"""The quick step is the step: the same numbers as the long way, whatever happens in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_toy import assert_same, busy_weights, loss_of, network, snapshot, values
from torch import Tensor, nn

from learnopt import LearnedOptimizer, quick_step, stop_head
from learnopt.inner_step import MOMENTS
from learnopt.kernels import library
from learnopt.quick_step import QuickSteps

pytestmark = pytest.mark.skipif(library.load() is None, reason="no C compiler, or the kernel is switched off")


class Never(QuickSteps):
    """Sends everything the long way."""

    def step(self, *_: Any) -> bool:
        return False


class Counting(QuickSteps):
    """Counts what went the quick way."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def step(self, *arguments: Any) -> bool:
        done = super().step(*arguments)
        self.taken += done
        return done


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


Event = Callable[[nn.Module, LearnedOptimizer], Any]


def replace_gradient(value: float) -> Event:
    def event(model: nn.Module, optimizer: LearnedOptimizer) -> None:
        next(model.parameters()).grad.fill_(value)  # type: ignore[union-attr]

    return event


def drop_gradient(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    list(model.parameters())[2].grad = None


def reload(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def move(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    for p in model.parameters():
        p.data = p.data.clone()
        optimizer.state[p] = {name: x.clone() for name, x in optimizer.state[p].items()}


def swap(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    for p in model.parameters():
        for x in (p, *optimizer.state[p].values()):
            x.data = x.data.clone()


def turn_state(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    state = optimizer.state[next(model.parameters())]
    state["exp_avg"].data = state["exp_avg"].t().contiguous().t()


def turn(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    first = next(model.parameters())
    assert first.grad is not None
    first.grad = first.grad.t().contiguous().t()


EVENTS: dict[str, Event] = {
    "nothing": lambda m, o: None,
    "rate": lambda m, o: o.param_groups[0].update(lr=o.param_groups[0]["lr"] * 0.5),
    "decay": lambda m, o: o.param_groups[1].update(weight_decay=0.3),
    "maximize": lambda m, o: o.param_groups[1].update(maximize=True),
    "steps": lambda m, o: o.param_groups[0].update(total_steps=None),
    "nan": replace_gradient(float("nan")), "infinite": replace_gradient(float("-inf")),
    "extreme": replace_gradient(1e20), "zero": replace_gradient(0.0), "missing": drop_gradient, "reload": reload,
    "moved": move, "turned": turn, "swapped": swap,
}  # fmt: skip


def run(weights: str, quick: QuickSteps, event: Event, loss: str) -> tuple[nn.Module, LearnedOptimizer]:
    model = network()
    params = list(model.parameters())
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = LearnedOptimizer(groups, total_steps=14, weights=weights)
    optimizer._quick = quick
    for t in range(14):
        optimizer.zero_grad()
        value = loss_of(model, t)
        value.backward()
        if t in (6, 7, 10):
            event(model, optimizer)
        given: dict[str, Tensor | float | None] = {
            "given": value, "none": None, "number": value.item(), "broken": value if t != 5 else float("nan"),
        }  # fmt: skip
        optimizer.step(loss=given[loss])
    return model, optimizer


@pytest.mark.parametrize("loss", ["given", "none", "number", "broken"])
@pytest.mark.parametrize("name", EVENTS)
def test_both_ways_are_one(name: str, loss: str, weights: str) -> None:
    counting = Counting()
    (a, one), (b, two) = (run(weights, way, EVENTS[name], loss) for way in (counting, Never()))
    assert counting.taken >= 9
    assert_same(values(a), values(b))
    assert_same(snapshot(one), snapshot(two))
    assert (one.schedule, one.skipped_steps) == (two.schedule, two.skipped_steps)
    assert one.stop_probability == pytest.approx(two.stop_probability, abs=1e-6)
    assert one.skipped_steps == (3 if name in ("nan", "infinite") else 0) + (loss == "broken")


def test_a_state_that_was_turned_where_it_is_goes_the_long_way(weights: str) -> None:
    counting = Counting()
    (a, one), (b, two) = (run(weights, way, turn_state, "given") for way in (counting, Never()))
    assert counting.taken == 5
    assert_same(values(a), values(b))
    assert_same(snapshot(one), snapshot(two))


def test_a_gradient_from_before_parameter_and_state_were_replaced_is_not_read_beyond_its_end(weights: str) -> None:
    p = nn.Parameter(torch.ones(5))
    optimizer = LearnedOptimizer([p], weights=weights)
    for _ in range(2):
        p.grad = torch.ones(100)[:5]
        optimizer.step()
    p.data = torch.ones(40)
    for name in MOMENTS:
        optimizer.state[p][name] = torch.ones(40)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


def test_the_quick_way_tells_autograd(weights: str) -> None:
    model, optimizer = run(weights, Counting(), EVENTS["nothing"], "given")
    x = torch.ones(1, 5, requires_grad=True)
    y = model(x).square().sum()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_buffers_are_kept_for_a_few_sets_of_parameters_only(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    params = list(model.parameters())
    for t in range(40):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if t == 0 or (t >> i) % 2 else None
        optimizer.step()
    assert 1 < len(optimizer._quick._bound) <= 8
    monkeypatch.setattr(quick_step, "KEPT", 10)
    again = copy.deepcopy(optimizer)
    assert not again._quick._bound
    for p in again.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    again.step()
    assert not again._quick._bound


def test_following_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    head = {name: torch.randn(shape, generator=g) for name, shape in stop_head.SHAPES.items()}
    columns = torch.randn(1, stop_head.SHAPES["in"][0], generator=g)
    now = torch.sigmoid(stop_head.logit(head, columns))[0]
    stop, seen = stop_head.follow(head, columns, torch.tensor(0.0), torch.tensor(0.0))
    assert (stop, seen) == (now, 1)
    stop, seen = stop_head.follow(head, columns, torch.tensor(0.5), torch.tensor(99.0))
    torch.testing.assert_close(stop, 0.9 * torch.tensor(0.5) + 0.1 * now)
    assert seen == 100
