"""Inner rules against `torch.optim`, and `LearnedRule` against `LearnedOptimizer`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from fewshot_toy import Blobs, Lines, classifier, network
from torch import nn

from learnopt import LearnedOptimizer
from learnopt.fewshot import FOMAML, MAML
from learnopt.fewshot.engine import unroll
from learnopt.fewshot.learned import LearnedRule
from learnopt.fewshot.rates import LearnedRates
from learnopt.fewshot.rules import SGD, Adam, Params, RMSprop, Rule

PAIRS: dict[str, tuple[Rule, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (SGD(0.05, 0.9), lambda p: torch.optim.SGD(p, 0.05, 0.9)),
    "nesterov": (SGD(0.05, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.05, 0.9, nesterov=True)),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam without momentum": (Adam(0.01, (0.0, 0.99)), lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.99))),
}
X, Y = (torch.linspace(-2, 2, 40, dtype=torch.float64).reshape(20, 2), torch.linspace(-1, 1, 20, dtype=torch.float64))


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)).double()


def loss_of(module: nn.Module, rows: slice) -> torch.Tensor:
    return (module(X[rows])[:, 0] - Y[rows]).square().mean()


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_equals_torchs_optimizer_over_100_steps(name: str) -> None:
    rule, make = PAIRS[name]
    batches = [slice(k % 5, None, 1 + k % 3) for k in range(100)]
    theirs = model()
    optimizer = make(theirs.parameters())
    losses = []
    for rows in batches:
        optimizer.zero_grad()
        loss = loss_of(theirs, rows)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    ours = model()

    def loss(params: Params, rows: slice) -> torch.Tensor:
        return (torch.func.functional_call(ours, params, X[rows])[:, 0] - Y[rows]).square().mean()

    end = unroll(loss, rule, {}, dict(ours.named_parameters()), None, batches, second_order=False)
    torch.testing.assert_close(end.losses.detach(), torch.stack(losses), rtol=1e-9, atol=1e-12)
    for n, p in theirs.named_parameters():
        torch.testing.assert_close(end.params[n].detach(), p.detach(), rtol=1e-9, atol=1e-12)
    assert losses[-1] < losses[0] / 2


def test_learned_rates_at_their_start_are_sgd() -> None:
    params = {"w": torch.tensor([1.0, 2.0])}
    grads, loss = {"w": torch.tensor([0.5, -1.0])}, torch.zeros(())
    expected = SGD(0.1).step({}, params, grads, {}, loss)[0]["w"]
    for rates in ("parameter", "tensor"):
        for schedule in ("none", "shared", "tensor"):
            rule = LearnedRates(0.1, 3, rates, schedule)
            moved, state = rule.step(rule.theta(params), params, grads, rule.init(params), loss)
            assert torch.equal(moved["w"], expected)
            assert int(state["step"]) == 1


def test_a_learned_schedule_has_a_value_for_each_step_and_holds_the_last() -> None:
    params, loss = {"w": torch.zeros(2)}, torch.zeros(())
    rule = LearnedRates(1.0, 2, "tensor", "shared")
    theta = {"rate.w": torch.tensor(2.0), "schedule.": torch.tensor([1.0, 10.0])}
    state, moves = rule.init(params), []
    for _ in range(3):
        moved, state = rule.step(theta, params, {"w": torch.tensor([1.0, -1.0])}, state, loss)
        moves.append(moved["w"][0].item())
    assert moves == [-2.0, -20.0, -20.0]


def test_the_learned_rule_moves_as_the_learned_optimizer_does() -> None:
    e = Lines().draw(3, 1)
    x, y = e.support_x[0], e.support_y[0]
    ours = FOMAML(network(), steps=6, rule=LearnedRule(6)).adapt(x, y)
    theirs = network()
    optimizer = LearnedOptimizer(theirs.parameters(), total_steps=6)
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(theirs(x), y)
        loss.backward()
        optimizer.step(loss=loss)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.equal(next(ours.parameters()), next(network().parameters()))


def test_the_learned_rule_is_learned_on_with_the_initialisation() -> None:
    learner = FOMAML(classifier(), steps=2, rule=LearnedRule(2, learn=True), clip=1.0, vectorise=False)
    before = copy.deepcopy({n: p.detach() for n, p in learner.slow().items()})
    learner.fit(Blobs(), 2, meta_batch=2, progress=False)
    assert "rule.theta" in before
    for name, p in learner.slow().items():
        assert p.isfinite().all()
        assert not torch.equal(p.detach(), before[name]), name


def test_the_learned_rule_has_no_second_derivatives() -> None:
    with pytest.raises(ValueError, match="LearnedRule has no second derivatives: pass second_order=False"):
        MAML(network(), rule=LearnedRule())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.0), "lr must be a positive number, got 0.0"),
        (lambda: SGD(float("nan")), "lr must be a positive number, got nan"),
        (lambda: SGD(0.1, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: Adam(0.1, (0.9, 1.0)), r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: LearnedRates(0.1, 1, "layer"), "rates must be one of parameter, tensor, got 'layer'"),
        (lambda: LearnedRates(0.1, 1, schedule="x"), "schedule must be one of none, shared, tensor, got 'x'"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Rule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
