"""`LearnedOptimizer.eval()` and `train()`: the average goes into the parameters and out again, and nothing is lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from optimizer_toy import assert_same, busy_weights, loss_of, network, reread, snapshot, train, values
from torch import Tensor, nn

from learnopt import LearnedOptimizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


def averages(trajectory: list[list[Tensor]]) -> list[Tensor]:
    """The polynomial average by its definition: the weights after step t count t (t + 1) ... (t + 4)."""
    counts = torch.tensor([float(t * (t + 1) * (t + 2) * (t + 3) * (t + 4)) for t in range(1, len(trajectory) + 1)])
    shares = (counts.double() / counts.double().sum()).tolist()
    return [sum(s * x.double() for s, x in zip(shares, each, strict=True)) for each in zip(*trajectory, strict=True)]  # type: ignore[misc]


def test_it_is_the_polynomial_average(weights: str) -> None:
    model = network(dtype=torch.float64)
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    seen = []
    for t in range(15):
        train(model, optimizer, range(t, t + 1))
        seen.append(values(model))
    optimizer.eval()
    for found, expected in zip(values(model), averages(seen), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert not any(torch.equal(a, b) for a, b in zip(values(model), seen[-1], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_looking_changes_nothing(dtype: torch.dtype, weights: str) -> None:
    runs = []
    for looks in (False, True):
        model = network(dtype=dtype)
        optimizer = LearnedOptimizer(model.parameters(), weights=weights)
        for t in range(8):
            train(model, optimizer, range(t, t + 1))
            if looks:
                before = values(model)
                optimizer.eval()
                optimizer.eval()
                optimizer.train()
                assert_same(values(model), before)
                optimizer.train()
        runs.append((values(model), snapshot(optimizer)))
    assert_same(runs[0][0], runs[1][0])
    assert_same(runs[0][1], runs[1][1])


def test_a_step_from_the_average_is_refused(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(3))
    optimizer.eval()
    before, state, called = values(model), snapshot(optimizer), []
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before"):
        optimizer.step(lambda: called.append(1) or 0.0)  # type: ignore[func-returns-value]
    assert not called
    assert_same(values(model), before)
    assert_same(snapshot(optimizer), state)
    optimizer.train()
    train(model, optimizer, range(3, 4))


@pytest.mark.parametrize("turn", ["eval", "train"])
def test_an_interruption_leaves_nothing_to_step_from(turn: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(3))
    before, copy_, left = values(model), Tensor.copy_, [2]
    if turn == "train":
        optimizer.eval()

    def interrupted(x: Tensor, *args: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return copy_(x, *args)

    monkeypatch.setattr(Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        getattr(optimizer, turn)()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="hold their averages"):
        optimizer.step()
    optimizer.train()
    assert_same(values(model), before)


@pytest.mark.parametrize("way", ["file", "deepcopy"])
def test_a_run_saved_at_the_average_goes_on_exactly(way: str, weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(5))
    optimizer.eval()
    averaged = values(model)
    if way == "file":
        other, copied = reread(model, optimizer, lambda params: LearnedOptimizer(params, weights=weights))
    else:
        other, copied = copy.deepcopy((model, optimizer))
    assert_same(values(other), averaged)
    with pytest.raises(RuntimeError, match="hold their averages"):
        copied.step()
    for m, o in ((model, optimizer), (other, copied)):
        o.train()
        train(m, o, range(5, 9))
    assert_same(values(model), values(other))
    assert_same(snapshot(optimizer), snapshot(copied))


def test_it_says_so_where_the_weights_that_train_are_lost(weights: str) -> None:
    """As when `torch.distributed.checkpoint` restores the state of a fresh optimizer only."""
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(3))
    optimizer.eval()
    state = optimizer.state_dict()
    for entry in state["state"].values():
        entry.pop("param_trained", None)
    optimizer.load_state_dict(state)
    averaged = values(model)
    with pytest.warns(UserWarning, match="goes on from their average"):
        optimizer.train()
    assert_same(values(model), averaged)
    train(model, optimizer, range(3, 4))


def test_the_end_that_was_told_is_left_as_it_is(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), 6, weights=weights)
    train(model, optimizer, range(4))
    optimizer.step(loss=float("nan"))  # skipped, but one of the six all the same
    before = values(model)
    optimizer.eval()
    assert not any(torch.equal(a, b) for a, b in zip(values(model), before, strict=True))
    optimizer.train()
    train(model, optimizer, range(5, 6))
    before = values(model)
    optimizer.eval()
    assert_same(values(model), before)
    train(model, optimizer, range(6, 7))  # nothing was put away


def test_parameters_without_gradients_stay(weights: str) -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    optimizer.eval()  # before the first step there is no average
    optimizer.train()
    late = nn.Parameter(torch.ones(3))
    train(model, optimizer, range(3))
    optimizer.add_param_group({"params": [late]})
    before = [*values(model), late.detach().clone()]
    optimizer.eval()
    kept = [torch.equal(a, b) for a, b in zip([*values(model), late], before, strict=True)]
    assert kept == [True, False, False, False, False, False, True]
    optimizer.train()
    assert_same([*values(model), late.detach()], before)


def test_complex_parameters(weights: str) -> None:
    p = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)))
    optimizer = LearnedOptimizer([p], weights=weights)
    for _ in range(4):
        optimizer.zero_grad()
        (p.abs() ** 2).sum().backward()
        optimizer.step()
    before = p.detach().clone()
    optimizer.eval()
    torch.testing.assert_close(torch.view_as_real(p.detach()), optimizer.state[p]["param_avg"])
    optimizer.train()
    assert torch.equal(p.detach(), before)


def test_older_states_know_no_averages(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(3))
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["averaged"]
    optimizer.load_state_dict(state)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.eval()
    assert not all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.train()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    train(model, optimizer, range(3, 4))
    assert not any(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_weights_put_away_for_another_shape_are_refused(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), weights=weights)
    train(model, optimizer, range(2))
    optimizer.eval()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][1]["param_trained"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"state 'param_trained' of parameter 1 must have shape \(7,\), got \(3,\)"):
        optimizer.load_state_dict(state)


def test_the_average_is_better_while_steps_are_unknown() -> None:
    """On a noisy task, with the weights that ship; geometric mean over four initialisations."""
    gains = []
    for seed in range(4):
        model, g = network(seed), torch.Generator().manual_seed(seed)
        optimizer = LearnedOptimizer(model.parameters())
        for _ in range(300):
            x = torch.randn(16, 5, generator=g)
            y = torch.sin(2 * x[:, :2]) + 2 * torch.randn(16, 2, generator=g)
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step(loss=loss)
        with torch.no_grad():
            last = torch.stack([loss_of(model, number) for number in range(1000, 1050)]).mean()
            optimizer.eval()
            averaged = torch.stack([loss_of(model, number) for number in range(1000, 1050)]).mean()
        gains.append(averaged.log() - last.log())
    assert torch.stack(gains).mean() < -0.02
