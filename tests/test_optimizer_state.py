"""`LearnedOptimizer`: stopping, saving, copying and going on give the run that never stopped, bit by bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from optimizer_toy import assert_same, busy_weights, loss_of, network, reread, snapshot, train, values
from torch import nn

from learnopt import LearnedOptimizer, artifact, memory, meta_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


Pair = tuple[nn.Sequential, LearnedOptimizer]
Travel = Callable[[nn.Sequential, LearnedOptimizer, str], Pair]


def through_state_dict(model: nn.Sequential, optimizer: LearnedOptimizer, weights: str) -> Pair:
    other = copy.deepcopy(model)
    fresh = LearnedOptimizer(other.parameters(), weights=weights)
    fresh.load_state_dict(optimizer.state_dict())
    return other, fresh


def through_a_file(model: nn.Sequential, optimizer: LearnedOptimizer, weights: str) -> Pair:
    return reread(model, optimizer, lambda params: LearnedOptimizer(params, 3, weights=weights))


def through_pickle(model: nn.Sequential, optimizer: LearnedOptimizer, weights: str) -> Pair:
    other: Pair = pickle.loads(pickle.dumps((model, optimizer)))
    return other


def through_deepcopy(model: nn.Sequential, optimizer: LearnedOptimizer, weights: str) -> Pair:
    return copy.deepcopy((model, optimizer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("travel", [through_state_dict, through_a_file, through_pickle, through_deepcopy])
@pytest.mark.parametrize("before", [0, 1, 7])
def test_going_on_is_exact(travel: Travel, dtype: torch.dtype, before: int, weights: str) -> None:
    model = network(dtype=dtype)
    optimizer = LearnedOptimizer(model.parameters(), 30, weights=weights, lr=0.9)
    train(model, optimizer, range(before))
    if before == 7:
        optimizer.step(loss=float("nan"))
    other, copied = travel(model, optimizer, weights)
    assert_same(snapshot(optimizer), snapshot(copied))
    for a, b in zip(snapshot(optimizer), snapshot(copied), strict=True):
        assert a.dtype == b.dtype
    train(model, optimizer, range(before, before + 6))
    train(other, copied, range(before, before + 6))
    if before == 0 and travel is through_a_file:
        return  # nothing was saved but the settings: the run starts afresh
    assert_same(values(model), values(other))
    assert_same(snapshot(optimizer), snapshot(copied))
    for name in ("schedule", "stop_probability", "should_stop", "skipped_steps"):
        assert getattr(optimizer, name) == getattr(copied, name)
    assert optimizer.learning_rates() == copied.learning_rates()


def test_a_loaded_state_is_a_copy(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(3))
    other, loaded = through_state_dict(model, optimizer, weights)
    state = snapshot(optimizer)
    train(other, loaded, range(3))
    assert_same(state, snapshot(optimizer))


def test_recurrent_state_stays_float32(weights: str) -> None:
    model = network(dtype=torch.bfloat16)
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(2))
    _, loaded = through_state_dict(model, optimizer, weights)
    assert {v.dtype for v in snapshot(loaded)} == {torch.float32}


def test_other_meta_weights_are_refused(weights: str, tmp_path: Path) -> None:
    theta = meta_network.initial_theta(torch.Generator().manual_seed(77))
    path = artifact.save(tmp_path / "other.safetensors", theta, None, {})
    state = LearnedOptimizer(network().parameters(), weights=weights).state_dict()
    with pytest.raises(ValueError, match="meta-weights"):
        LearnedOptimizer(network().parameters(), weights=path).load_state_dict(state)


def test_another_shape_is_refused(weights: str) -> None:
    state = LearnedOptimizer([nn.Parameter(torch.ones(2))], weights=weights).state_dict()
    with pytest.raises(ValueError, match="group"):
        LearnedOptimizer(network().parameters(), weights=weights).load_state_dict(state)


def test_groups_added_later(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model[0].parameters(), 20, weights=weights)
    train(model, optimizer, range(3))
    with torch.no_grad():
        model[3].weight.zero_()  # measured by the network, not by itself
    kept = model[3].weight.detach().clone()
    optimizer.add_param_group({"params": list(model[3].parameters()), "lr": 0.5})
    train(model, optimizer, range(3, 5))
    assert not torch.equal(kept, model[3].weight)
    rates = optimizer.learning_rates()
    assert len(rates) == 4
    assert 0.01 < rates[2] / rates[0] < 100
    other, copied = through_pickle(model, optimizer, weights)
    train(model, optimizer, range(5, 8))
    train(other, copied, range(5, 8))
    assert_same(values(model), values(other))
    with pytest.raises(ValueError, match=r"lr .* got -1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": -1})


def test_parameters_added_later_have_the_units_that_they_would_have_had(weights: str) -> None:
    """Those of the network at its initialisation, whatever it has become."""
    units = []
    for later in (True, False):
        first, second = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.zeros(5))
        optimizer = LearnedOptimizer([first] if later else [first, second], weights=weights)
        first.grad, second.grad = torch.ones(4, 3), torch.ones(5)
        optimizer.step()
        first.data.mul_(3.0)
        if later:
            optimizer.add_param_group({"params": [second]})
        optimizer.step()
        units.append(memory.field(optimizer.state[second]["memory"], "unit"))
    assert torch.equal(*units)


def test_order_of_steps_without_some_gradients_survives_saving(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    for t in range(3):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        model[0].weight.grad = None  # the first parameter has never stepped
        optimizer.step(loss=1.0 + t)
    other, copied = through_a_file(model, optimizer, weights)
    train(model, optimizer, range(3, 6))
    train(other, copied, range(3, 6))
    assert_same(values(model), values(other))
