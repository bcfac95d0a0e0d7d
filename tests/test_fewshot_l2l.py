"""Rules that look at one coordinate at a time: against torch's own LSTM, by finite differences, whole against cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnopt.fewshot import L2L, LSTMRule, MetaLSTM
from learnopt.fewshot.coordinatewise import lstm_cell, lstm_weights, preprocess
from learnopt.fewshot.engine import OverTasks
from learnopt.fewshot.episode import Episode
from learnopt.fewshot.l2l import losses, windows
from learnopt.fewshot.l2l_report import Setting, crossing, learned_row, shipped_rows
from learnopt.fewshot.learned import LearnedRule
from learnopt.fewshot.lstm_rule import KEPT, Moments
from learnopt.fewshot.meta_lstm import GateRule
from learnopt.fewshot.optimizees import DigitsMLP, Quadratics
from learnopt.fewshot.rules import SGD, Params
from learnopt.fewshot.sources.ratings import Ratings

SMALL = Quadratics(3)


def test_inputs_are_those_of_the_paper() -> None:
    values = torch.tensor([math.e, -1.0, 1e-3, -1e-5, 0.0])
    expected = [
        (0.1, 1), (0.0, -1), (math.log(1e-3) / 10, 1), (-1, -1e-5 * math.exp(10)), (-1, 0),
    ]  # fmt: skip
    assert torch.allclose(preprocess(values), torch.tensor(expected), atol=1e-6)


def test_cell_is_torchs() -> None:
    w = lstm_weights(2, 4, torch.Generator().manual_seed(0))
    reference = nn.LSTMCell(2, 4)
    i, f, o, g = (torch.arange(4) + 4 * k for k in range(4))  # torch has the new content before the output gate
    order = torch.cat([i, f, g, o])
    with torch.no_grad():
        reference.weight_ih.copy_(w["input"].T[order])
        reference.weight_hh.copy_(w["hidden"].T[order])
        reference.bias_ih.copy_(w["bias"][order])
        reference.bias_hh.zero_()
    x, h, c = torch.randn(7, 2), torch.randn(7, 4), torch.randn(7, 4)
    for ours, theirs in zip(lstm_cell(w, x, h, c), reference(x, (h, c)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def run(learner: L2L, steps: int, cut: int | None, count: int = 2) -> tuple[Tensor, list[Tensor]]:
    """Losses over `steps` steps in windows of `cut`, carrying the state with its graph; gradients of their mean."""
    params, state, parts = SMALL.start(5, count), None, []
    for first in range(0, steps, cut or steps):
        batches = SMALL.batches(5, count, first, cut or steps)
        params, state, part = windows(learner.over_tasks, SMALL, learner.rule, learner.theta, params, state, batches)
        parts.append(part)
    found = torch.cat(parts, 1)
    return found, list(torch.autograd.grad(found.mean(), list(learner.theta.values())))


def test_windows_that_carry_state_on_equal_the_whole_unroll() -> None:
    learner = L2L(LSTMRule(hidden=4), SMALL, horizon=6, window=6)
    whole, gradients = run(learner, 6, None)
    cut, joined = run(learner, 6, 2)
    assert torch.allclose(whole, cut, rtol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(gradients, joined, strict=True))
    assert all(bool(g.abs().sum() > 0) for g in gradients)


def test_training_cuts_the_graph_where_it_says() -> None:
    """A run of two windows is two updates, each with the gradient of its own window from detached values."""
    learner, plain = (L2L(LSTMRule(hidden=4), SMALL, horizon=4, window=2) for _ in range(2))
    optimizer = torch.optim.SGD(learner.theta.values(), lr=1e-4)
    row = learner.run(7, 3, optimizer)
    params, state, seen = SMALL.start(7, 3), None, []
    for first in (0, 2):
        end = windows(OverTasks(), SMALL, plain.rule, plain.theta, params, state, SMALL.batches(7, 3, first, 2))
        gradients = torch.autograd.grad(end.losses.mean(), list(plain.theta.values()))
        with torch.no_grad():
            for w, g in zip(plain.theta.values(), gradients, strict=True):
                w -= 1e-4 * g
        params = {n: x.detach() for n, x in end.params.items()}
        state = {k: tuple(x.detach() for x in pair) for k, pair in end.state.items()}
        seen.append(end.losses.mean().item())
    assert row["run_loss"] == pytest.approx(sum(seen) / 2, rel=1e-5)
    assert all(torch.allclose(learner.theta[n], plain.theta[n], atol=1e-7) for n in plain.theta)


@pytest.mark.parametrize(
    "rule",
    [LSTMRule(hidden=3), LSTMRule(hidden=3, inputs="moments", bound=0.1), GateRule(0.1, hidden=3)],
)
def test_meta_gradient_equals_finite_differences(rule: Any) -> None:
    """On linear losses, where constant gradients are no approximation."""
    params = {"a": torch.randn(2, 2, dtype=torch.double), "b": torch.randn(3, dtype=torch.double)}
    grads = {n: torch.randn_like(p) for n, p in params.items()}
    target = {n: torch.randn_like(p) for n, p in params.items()}

    def final(weights: Params) -> Tensor:
        now, state, two = params, rule.init(params), torch.tensor(2.0, dtype=torch.double)
        for step in range(3):
            now, state = rule.step(weights, now, {n: g * (step + 1) for n, g in grads.items()}, state, two)
        return torch.stack([(now[n] - target[n]).square().sum() for n in now]).sum()

    theta = {n: (x.double() + 0.1).requires_grad_() for n, x in rule.theta(params).items()}
    assert torch.autograd.gradcheck(lambda *w: final(dict(zip(theta, w, strict=True))), tuple(theta.values()))


def test_coordinates_do_not_know_each_other() -> None:
    rule = LSTMRule(hidden=4)
    params = {"a": torch.randn(4), "b": torch.randn(2, 3)}
    grads = {n: torch.randn_like(p) for n, p in params.items()}
    theta = rule.theta(params)
    both, _ = rule.step(theta, params, grads, rule.init(params), torch.tensor(0.0))
    one = {"b": params["b"][1:, :1]}
    alone, _ = rule.step(theta, one, {"b": grads["b"][1:, :1]}, rule.init(one), torch.tensor(0.0))
    assert both["b"].shape == (2, 3)
    assert torch.allclose(both["b"][1:, :1], alone["b"], atol=1e-7)


def test_inputs_by_moments_do_not_depend_on_the_scale_of_the_loss() -> None:
    """The rule moves alike where a loss is a thousandth of another."""
    rule, params = LSTMRule(hidden=4, inputs="moments"), {"w": torch.randn(5)}
    theta = rule.theta(params)
    ends = []
    for factor in (1.0, 1e-3):
        p, state = params, rule.init(params)
        for t in range(6):
            grads = {"w": factor * torch.tensor([1.0, -2.0, 0.1, 10.0, 0.0]) * (-0.7) ** t}
            p, state = rule.step(theta, p, grads, state, torch.tensor(0.0))
        ends.append(p["w"])
    assert torch.allclose(ends[0], ends[1], atol=1e-6)
    assert not torch.allclose(ends[0], params["w"], atol=1e-4)


def test_no_step_exceeds_its_bound_and_short_ones_are_as_without() -> None:
    params, grads = {"w": torch.zeros(50)}, {"w": torch.randn(50)}
    for size, tolerance in ((1e-3, 1e-4), (1e3, math.inf)):
        moves = []
        for bound in (None, 0.1):
            rule = LSTMRule(hidden=4, inputs="moments", bound=bound)
            theta = rule.theta(params)
            theta["out"] *= size
            moves.append(rule.step(theta, params, grads, rule.init(params), torch.tensor(0.0))[0]["w"])
        assert moves[1].abs().max() <= 0.1
        assert torch.equal(moves[0].sign(), moves[1].sign())
        assert torch.allclose(*moves, rtol=tolerance) or (size > 1 and moves[0].abs().max() > 0.2)


def test_moments_are_adams_and_tell_how_far_gradients_fell() -> None:
    seen = Moments(*torch.zeros(3, 2), torch.zeros(()))
    gradients = [torch.tensor([3.0, 0.0]) * 10.0**-t for t in range(3)]
    for g in gradients:
        seen = seen.after(g)
    weights = torch.tensor([KEPT**2, KEPT, 1.0]) / (KEPT**2 + KEPT + 1)
    means = [float(sum(w * g[0] ** k for w, g in zip(weights, gradients, strict=True))) for k in (1, 2)]
    expected = [means[0] / means[1] ** 0.5, 0.03 / means[1] ** 0.5, 0.5 * math.log10(means[1] / 9)]
    found = seen.inputs(gradients[-1])
    assert found[0].tolist() == pytest.approx(expected, rel=1e-4)
    assert found[1].tolist() == [0, 0, 0]


def test_problems_are_functions_of_their_seed_and_train() -> None:
    for problems in (Quadratics(), DigitsMLP(hidden=3, batch=8)):
        first, again = problems.batches(2, 2, 0, 4), problems.batches(2, 2, 2, 2)
        assert all(torch.equal(a[:, 2:], b) for a, b in zip(first, again, strict=True)), "windows of one stream"
        course = losses(SGD(0.02), {}, problems, 1, 3, 30, window=7).mean(0)
        assert course.shape == (30,)
        assert course[-1] < course[0]
    w, y = SMALL.batches(0, 1, 0, 1)
    x = torch.linalg.solve(w[0, 0], y[0, 0])
    assert SMALL.loss({"x": x}, (w[0, 0], y[0, 0])).item() == pytest.approx(0.0, abs=1e-6)


def test_it_learns_to_optimize_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    make = {"horizon": 20, "window": 10, "objective": "log-mean", "meta_lr": 1e-2, "meta_schedule": "constant"}
    learner = L2L(LSTMRule(hidden=6), SMALL, **make)  # type: ignore[arg-type]
    before = losses(learner.rule, learner.theta, SMALL, 9, 50, 21)[:, -1].mean()
    learner.fit(12, meta_batch=8, progress=False)
    assert losses(learner.rule, learner.theta, SMALL, 9, 50, 21)[:, -1].mean() < 0.5 * before
    first = L2L(LSTMRule(hidden=6), SMALL, **make)  # type: ignore[arg-type]
    first.fit(5, meta_batch=8, progress=False, out=tmp_path)
    second = L2L(LSTMRule(hidden=6), SMALL, **make)  # type: ignore[arg-type]
    assert len(second.fit(12, meta_batch=8, progress=False, out=tmp_path)) == 12
    assert all(torch.equal(learner.theta[n], second.theta[n]) for n in learner.theta)


def test_shipped_rule_in_a_comparison_is_learned_optimizer() -> None:
    from learnopt import LearnedOptimizer

    setting = Setting(SMALL, (5,), 2, 1)
    told = setting.courses  # the problems of the comparison
    rows = shipped_rows(setting)
    seed_losses = []
    from learnopt.task import seed_of

    start, (w, y) = SMALL.start(seed_of("l2l", "test"), 2), SMALL.batches(seed_of("l2l", "test"), 2, 0, 6)
    for k in range(2):
        x = nn.Parameter(start["x"][k].clone())
        optimizer = LearnedOptimizer([x], total_steps=5)
        for _ in range(5):
            loss = SMALL.loss({"x": x}, (w[k, 0], y[k, 0]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(loss=loss)
        seed_losses.append(SMALL.loss({"x": x.detach()}, (w[k, 0], y[k, 0])).item())
    assert rows[0]["loss"]["5"]["mean"] == pytest.approx(sum(seed_losses) / 2, rel=1e-3)
    own = learned_row(setting, "sgd", SGD(0.01), [{}, {}], 60.0)
    assert own["loss"]["5"]["mean"] == pytest.approx(told(SGD(0.01), {}, "test")[:, 5].mean().item(), rel=1e-5)
    assert own["cpu_minutes"] == 1.0


def test_crossing() -> None:
    own = [9.0, 5.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert crossing(own, [9, 8, 7, 6, 5, 4, 1, 1, 1], start=2) == 6
    assert crossing(own, [9, 8, 7, 1, 5, 4, 3, 1, 1], start=2) == 7
    assert crossing(own, [9, 8, 7, 6, 5, 4, 3, 3, 3], start=2) is None
    assert crossing(own, [0.0] * 9, start=2) == 2


def wrong_shape() -> Episode:
    return Ratings(shots=90, queries=20)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: L2L(SGD(0.1), SMALL), "SGD has no weights to learn"),
        (lambda: L2L(LSTMRule(), SMALL, horizon=50, window=20), "multiple of window, got 50 and 20"),
        (lambda: L2L(LSTMRule(), SMALL, objective="sum"), "one of mean, log-mean, log, got 'sum'"),
        (lambda: LSTMRule(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: LSTMRule(bound=0.0), "bound must be a positive number or None, got 0.0"),
        (lambda: LSTMRule(bound=math.inf), "bound must be a positive number or None, got inf"),
        (lambda: LSTMRule(inputs="moment"), "inputs must be one of log, moments, got 'moment'"),
        (lambda: MetaLSTM(nn.Linear(1, 1), gate_share=0.0), "gate_share must be a positive number, got 0.0"),
        (lambda: GateRule(lr=1.0), "below 1, as a gate is, got 1.0"),
        (lambda: DigitsMLP(activation="gelu"), "one of sigmoid, relu, tanh, got 'gelu'"),
        (lambda: Quadratics(0), "size must be at least 1, got 0"),
        (wrong_shape, "90 shots and 20 queries need as many items, got 100"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_shipped_rule_is_mapped_by_vmap_as_it_runs_alone() -> None:
    ends = []
    for over_tasks in (OverTasks(True), OverTasks(False)):
        start, batches = SMALL.start(0, 3), SMALL.batches(0, 3, 0, 4)
        ends.append(windows(over_tasks, SMALL, LearnedRule(4), {}, start, None, batches).params["x"])
    assert torch.allclose(*ends, atol=1e-5)
