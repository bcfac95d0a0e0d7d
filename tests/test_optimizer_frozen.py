"""Parameters that do not train, leave or come back: the others and the run go on as if nothing was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from optimizer_toy import assert_same, busy_weights, network, optimised, train, values
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from learnopt import LearnedOptimizer, memory


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


def frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


IDLE = {
    "mask of -inf": lambda: [frozen(torch.full((6, 6), -math.inf).triu(1))],
    "mask of -1e9": lambda: [frozen(torch.full((6, 6), -1e9).triu(1))],
    "NaN": lambda: [frozen(torch.full((3, 3), math.nan))],
    "int8 codes": lambda: [frozen(torch.arange(-60, 60).reshape(10, 12).to(torch.int8))],
    "backbone": lambda: [frozen(torch.full((20, 30), 7.0)), frozen(torch.ones(20))],
    "meta device": lambda: [nn.Parameter(torch.ones(3, 3, device="meta"))],
    "lazy": lambda: list(nn.LazyLinear(3).parameters()),
    "empty": lambda: [nn.Parameter(torch.zeros(0, 3))],
}


@pytest.mark.parametrize("kind", IDLE)
@pytest.mark.parametrize("first", [True, False])
def test_what_does_not_train_changes_nothing_for_the_others(kind: str, first: bool, weights: str) -> None:
    alone, beside = network(), network()
    a, idle = LearnedOptimizer(alone.parameters(), 30, weights=weights), IDLE[kind]()
    own = list(beside.parameters())
    b = LearnedOptimizer([*idle, *own] if first else [*own, *idle], 30, weights=weights)
    assert train(alone, a, range(6)) == train(beside, b, range(6))
    assert_same(values(alone), values(beside))
    assert b.explain_run() == a.explain_run()
    rows = b.explain()[len(idle) :] if first else b.explain()[: len(own)]
    assert rows == a.explain()
    b.eval()
    b.train()
    assert_same(values(alone), values(beside))


def test_a_layer_that_begins_later_has_the_units_of_the_whole_network(weights: str) -> None:
    model, optimizer = optimised(weights)
    for p in model[0].parameters():
        p.requires_grad_(False)
    train(model, optimizer, range(2))
    for p in model[0].parameters():
        p.requires_grad_(True)
    train(model, optimizer, range(2, 4))
    other, fresh = optimised(weights)
    train(other, fresh, range(1))
    late, early = (
        [memory.field(o.state[p]["memory"], name) for p in m[0].parameters() for name in ("rms0", "unit")]
        for m, o in ((model, optimizer), (other, fresh))
    )
    assert_same(late, early)


def grouped(weights: str) -> tuple[nn.Sequential, LearnedOptimizer]:
    model = network()
    groups = [{"params": model[i].parameters()} for i in (0, 1, 3)]
    optimizer = LearnedOptimizer(groups, 30, weights=weights)
    train(model, optimizer, range(8))
    return model, optimizer


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("kernel", [True, False])
def test_the_run_outlives_groups_that_are_taken_out(
    which: int, kernel: bool, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        monkeypatch.setenv("LEARNOPT_KERNEL", "torch")
    (model, optimizer), (other, kept) = grouped(weights), grouped(weights)
    layer = (0, 1, 3)[which]
    for net in (model, other):
        for p in net[layer].parameters():
            p.requires_grad_(False)
    for p in optimizer.param_groups.pop(which)["params"]:
        del optimizer.state[p]
    before = optimizer.explain_run()
    assert before["step"] == 8
    for net, each in ((model, optimizer), (other, kept)):
        each.zero_grad()
        for p in net.parameters():
            p.grad = None
        train(net, each, range(8, 12))
    run, expected = optimizer.explain_run(), kept.explain_run()
    assert run["step"] == expected["step"] == 12
    assert run["schedule"] == pytest.approx(expected["schedule"], rel=0.3)
    assert run["loss_average"] == pytest.approx(expected["loss_average"], rel=0.3)


def test_the_run_outlives_a_parameter_that_is_replaced(weights: str) -> None:
    model, optimizer = optimised(weights)
    train(model, optimizer, range(8))
    old = model[0].weight
    model[0].weight = nn.Parameter(old.detach().clone())
    optimizer.param_groups[0]["params"][0] = model[0].weight
    del optimizer.state[old]
    train(model, optimizer, range(8, 10))
    assert optimizer.explain_run()["step"] == 10


@pytest.mark.parametrize("steps_after", [0, 2])
def test_checkpoints_without_frozen_parameters_have_the_run(steps_after: int, weights: str) -> None:
    model, optimizer = optimised(weights)
    train(model, optimizer, range(5))
    for p in model[0].parameters():
        p.requires_grad_(False)
        p.grad = None
    train(model, optimizer, range(5, 5 + steps_after))
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    other = copy.deepcopy(model)
    fresh = LearnedOptimizer(other.parameters(), weights=weights)
    set_optimizer_state_dict(other, fresh, saved)
    assert fresh.explain_run() == optimizer.explain_run()
    assert fresh.explain_run()["step"] == 5 + steps_after


def test_a_cleared_or_another_state_begins_anew(weights: str) -> None:
    model, optimizer = optimised(weights)
    start = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(5))
    later = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(start)
    assert optimizer.explain_run()["step"] == 0
    optimizer.load_state_dict(later)
    assert optimizer.explain_run()["step"] == 5
    optimizer.state.clear()
    assert optimizer.explain_run()["step"] == 0
    train(model, optimizer, range(2))
    assert optimizer.explain_run()["step"] == 2


def test_frozen_layers_stay_where_they_are_beside_others_that_are_averaged(weights: str) -> None:
    model, optimizer = optimised(weights)
    train(model, optimizer, range(5))
    for p in model[0].parameters():
        p.requires_grad_(False)
    train(model, optimizer, range(5, 9))
    before = values(model)
    optimizer.eval()
    assert_same(values(model[0]), before[:2])
    assert not torch.equal(model[3].weight, before[4])
    model[0].requires_grad_(True)
    optimizer.train()
    assert_same(values(model), before)
    model.requires_grad_(False)  # to be used, not trained
    optimizer.eval()
    assert not any(torch.equal(a, b) for a, b in zip(values(model), before, strict=True))
    optimizer.train()
    assert_same(values(model), before)


@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_infinite_entries_of_what_steps_are_refused(bad: float, weights: str) -> None:
    model, optimizer = optimised(weights)
    with torch.no_grad():
        model[1].bias[0] = bad
    before = values(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"a parameter of shape \(7,\) that is to step holds infinite values or NaN"):
        optimizer.step()
    for a, b in zip(values(model), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("steps", [math.inf, -5, 0.5, "300", True])
def test_a_groups_number_of_steps_is_checked(steps: object, weights: str) -> None:
    with pytest.raises(ValueError, match="total_steps must be a whole number of at least 1, or None, got"):
        LearnedOptimizer([{"params": [nn.Parameter(torch.ones(3))], "total_steps": steps}], weights=weights)


def test_the_number_of_steps_is_one_for_all_groups(weights: str) -> None:
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = LearnedOptimizer([{"params": [a], "total_steps": 40}, {"params": [b]}], weights=weights)
    optimizer.add_param_group({"params": [c], "lr": 0.5})
    assert [group["total_steps"] for group in optimizer.param_groups] == [40, 40, 40]
    with pytest.raises(ValueError, match="total_steps is the run's, one for all groups, got 300 and 100"):
        LearnedOptimizer(
            [{"params": [a], "total_steps": 100}, {"params": [b], "total_steps": 300}], 500, weights=weights
        )
