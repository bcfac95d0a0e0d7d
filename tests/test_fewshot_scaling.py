"""Problems in random units: the same losses, gradients by the chain rule, other steps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.func import grad

from learnopt.fewshot import L2L, LSTMRule
from learnopt.fewshot.l2l import losses
from learnopt.fewshot.optimizees import DigitsMLP, Quadratics
from learnopt.fewshot.problems import l2l
from learnopt.fewshot.rules import SGD
from learnopt.fewshot.scaling import RandomScaling

PLAIN = DigitsMLP(hidden=5, batch=8)


def test_losses_are_those_of_the_problem_at_the_scaled_point() -> None:
    scaled = RandomScaling(PLAIN, 2.0)
    start, own = scaled.start(3, 2), PLAIN.start(3, 2)
    c = scaled.factors(3, own)
    factors, batch = scaled.batches(3, 2, 4, 3)
    assert all(torch.equal(a, b) for a, b in zip(batch, PLAIN.batches(3, 2, 4, 3), strict=True))
    for k in range(2):
        for t in range(3):
            at = {n: x[k] + 0.1 for n, x in start.items()}
            told = ({n: x[k, t] for n, x in factors.items()}, tuple(x[k, t] for x in batch))
            there = {n: x * c[n][k] for n, x in at.items()}
            assert scaled.loss(at, told).item() == pytest.approx(PLAIN.loss(there, told[1]).item(), rel=1e-6)
            found, expected = grad(scaled.loss)(at, told), grad(PLAIN.loss)(there, told[1])
            assert all(torch.allclose(found[n], c[n][k] * expected[n], atol=1e-6) for n in at)
    assert all(torch.allclose(start[n] * c[n], own[n], atol=1e-6) for n in own)


def test_every_coordinate_of_every_problem_has_a_factor_that_seeds_fix() -> None:
    like = {"a": torch.zeros(3, 40, 50), "b": torch.zeros(3, 7)}
    found = RandomScaling(PLAIN, 2.0).factors(1, like)
    again, other = (RandomScaling(PLAIN, 2.0).factors(seed, like) for seed in (1, 2))
    logs = found["a"].log()
    assert logs.abs().max() <= 2 + 1e-5
    assert logs.mean().item() == pytest.approx(0.0, abs=0.1)
    assert logs.std().item() == pytest.approx(2 / math.sqrt(3), rel=0.05), "uniform in logs"
    assert all(torch.equal(found[n], again[n]) and not torch.equal(found[n], other[n]) for n in like)
    assert len(found["a"].unique()) > 5900, "of its own: float32 repeats few of 6,000 numbers"


def test_without_a_spread_nothing_changes_with_one_steps_do() -> None:
    problems = Quadratics(4)
    plain, none, wide = (losses(SGD(0.01), {}, p, 5, 20, 21, window=8)
                         for p in (problems, RandomScaling(problems, 0.0), RandomScaling(problems, 3.0)))  # fmt: skip
    assert torch.allclose(plain, none)
    assert torch.allclose(plain[:, 0], wide[:, 0], rtol=1e-4), "the same start"
    assert not torch.isclose(plain[:, -1], wide[:, -1], rtol=0.1).any()


def test_factors_stay_from_window_to_window() -> None:
    scaled = RandomScaling(PLAIN, 2.0)
    (first, batch), (second, later) = scaled.batches(2, 2, 0, 4), scaled.batches(2, 2, 2, 2)
    assert all(torch.equal(first[n][:, 2:], second[n]) for n in first)
    assert all(torch.equal(a[:, 2:], b) for a, b in zip(batch, later, strict=True))


def test_a_rule_learns_on_it_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def learner(spread: float = 2.0) -> L2L:
        rule = LSTMRule(hidden=4, inputs="moments")
        return L2L(rule, RandomScaling(Quadratics(3), spread), horizon=8, window=4, meta_schedule="constant")

    whole, first, second = learner(), learner(), learner()
    whole.fit(4, meta_batch=4, progress=False)
    first.fit(2, meta_batch=4, progress=False, out=tmp_path)
    assert len(second.fit(4, meta_batch=4, progress=False, out=tmp_path)) == 4
    assert all(torch.equal(whole.theta[n], second.theta[n]) for n in whole.theta)
    assert not any(torch.equal(whole.theta[n], learner().theta[n]) for n in whole.theta)
    with pytest.raises(ValueError, match=r"other settings .*e\^2.*e\^3"):
        learner(3.0).fit(5, meta_batch=4, progress=False, out=tmp_path)


def test_the_digits_plan_learns_in_random_units_of_sigmoid_units_alone() -> None:
    told = l2l.PLANS["digits"].lessons().describe()
    assert told == "digits, 20 sigmoid units, batches of 128, coordinates scaled by e^-3 to e^3"
    assert l2l.PLANS["quadratics"].lessons() is l2l.PLANS["quadratics"].train


@pytest.mark.parametrize("spread", [-1.0, 20.0, math.nan])
def test_bad_spread(spread: float) -> None:
    with pytest.raises(ValueError, match=f"spread must be 0 or more and below 20, got {spread}"):
        RandomScaling(PLAIN, spread)
