"""The parts that all callbacks share: losses on their way to a step, names of what is logged, reasons."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optimizer_toy import loss_of, network
from torch import nn

from learnopt import LearnedOptimizer, memory
from learnopt.integrations import decisions
from learnopt.integrations.told_loss import ToldLoss


def ready() -> tuple[nn.Module, LearnedOptimizer]:
    """A network with gradients."""
    model = network()
    loss_of(model, 0).backward()
    return model, LearnedOptimizer(model.parameters())


def last_told(optimizer: LearnedOptimizer) -> float | None:
    """The loss of the first step, None where there was none."""
    history = memory.read_run(next(s["run"] for s in optimizer.state.values() if "run" in s)).history
    return float(history.fast) if float(history.number) else None


@pytest.mark.parametrize(("reduction", "told"), [("sum", 6.0), ("mean", 3.0)])
@pytest.mark.parametrize("closure", [None, lambda: torch.tensor(9.0)], ids=["plain", "closure"])
def test_collected_losses_reach_the_step(reduction: Any, told: float, closure: Any) -> None:
    _, optimizer = ready()
    collected = ToldLoss(optimizer, reduction)
    collected.add(torch.tensor(2.0, requires_grad=True))
    collected.add(torch.tensor([4.0]))
    optimizer.step(closure)
    assert last_told(optimizer) == told


@pytest.mark.parametrize("given", ["positional", "keyword"])
def test_losses_collected_inside_the_closure_count(given: str) -> None:
    _, optimizer = ready()
    collected = ToldLoss(optimizer, "mean")

    def closure() -> torch.Tensor:
        collected.add(torch.tensor(4.0))
        return torch.tensor(9.0)

    optimizer.step(closure) if given == "positional" else optimizer.step(closure=closure)
    assert last_told(optimizer) == 4


def test_a_loss_that_is_given_wins_and_nothing_collected_says_nothing() -> None:
    _, optimizer = ready()
    ToldLoss(optimizer, "mean").add(torch.tensor(2.0))
    optimizer.step(loss=5.0)
    assert last_told(optimizer) == 5
    _, silent = ready()
    ToldLoss(silent, "mean")
    silent.step()
    assert last_told(silent) is None
    _, closed = ready()
    ToldLoss(closed, "mean")
    assert float(closed.step(lambda: torch.tensor(9.0))) == 9
    assert last_told(closed) == 9


def test_what_was_forgotten_or_removed_is_not_told() -> None:
    for action in (ToldLoss.clear, ToldLoss.remove):
        _, optimizer = ready()
        collected = ToldLoss(optimizer, "sum")
        collected.add(torch.tensor(2.0))
        action(collected)
        optimizer.step()
        assert last_told(optimizer) is None


def test_each_step_has_its_own_losses() -> None:
    model, optimizer = ready()
    collected = ToldLoss(optimizer, "sum")
    collected.add(torch.tensor(2.0))
    optimizer.step()
    optimizer.step()
    history = memory.read_run(optimizer.state[next(model.parameters())]["run"]).history
    assert float(history.number) == 1


def test_the_optimizer_is_found_inside_its_wrappers() -> None:
    _, optimizer = ready()
    wrapped = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    assert decisions.find(wrapped) is decisions.find(optimizer) is optimizer
    circle = SimpleNamespace()
    circle.optimizer = circle
    for other in (torch.optim.SGD(network().parameters(), lr=1.0), circle, SimpleNamespace(optimizer=None), None):
        with pytest.raises(ValueError, match=f"must be a LearnedOptimizer, got {type(other).__name__}"):
            decisions.find(other)


def test_tensors_without_a_name_go_by_their_place() -> None:
    model, optimizer = ready()
    optimizer.step()
    named = [(n, p) for n, p in model.named_parameters() if n != "0.bias"]
    logged = decisions.numbers(optimizer, named)
    names = ["0.weight", "1", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert list(logged)[2:] == [f"learnopt/learning_rate/{name}" for name in names]
    assert list(logged.values())[2:] == optimizer.learning_rates()
