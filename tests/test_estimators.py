"""Estimators of the meta-gradient against the exact one."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from test_unroll import rule_index
from torch import Tensor, nn
from toy import ToyTask

from learnopt import meta_network, objective
from learnopt.estimators import (
    ESTIMATORS,
    AntitheticES,
    Backprop,
    Episode,
    Estimate,
    Estimator,
    NoiseReuseES,
    base,
    noise,
)
from learnopt.estimators.windows import Windowed
from learnopt.meta_config import MetaTrainConfig
from learnopt.meta_train import make_estimator
from learnopt.task import Batch, seed_of
from learnopt.unroll import Problem, Telling, Trajectory, unroll

THETA = meta_network.initial_theta(torch.Generator().manual_seed(0))
STEPS = 6


class TwoParameterES(AntitheticES):
    """The rule with two meta-parameters: log step size and schedule; all other meta-weights stay as they are."""

    name = "two"
    free: ClassVar[list[int]] = [rule_index("tensor_bias", 0), rule_index("tensor_bias", 2)]

    def perturbed(self, theta: Tensor, seed: int) -> Tensor:
        eps = torch.zeros(self.pairs, theta.numel())
        eps[:, self.free] = self.sigma * noise(seed, self.pairs, 2)
        return torch.cat([theta + eps, theta - eps])


def test_es_agrees_with_the_exact_meta_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences undivided and unclipped are antithetic ES proper: E[d * eps] / (2 sigma) is the gradient."""
    sigma, pairs, jobs = 0.02, 16, 12
    monkeypatch.setattr(objective, "paired", lambda losses: losses[: len(losses) // 2] - losses[len(losses) // 2 :])
    # every pair sees the same run: the expectation is over the noise alone
    monkeypatch.setattr(Estimator, "problem", lambda self, e: Problem(e.task, [7] * self.pairs, copies=2))
    estimator = TwoParameterES(pairs, sigma)
    samples = []
    for job in range(jobs):
        episode = Episode(ToyTask(), job, STEPS, Telling(STEPS))
        estimate = estimator.estimate(THETA, episode)
        samples.append(estimate.differences[:, None] * noise(job, pairs, 2) / (2 * sigma))
    each = torch.cat(samples)
    mean, error = each.mean(0), each.std(0) / len(each) ** 0.5

    theta = THETA.clone().requires_grad_()
    problem = Problem(ToyTask(), [7])
    runs, start, valid = problem.begin(), 0, []
    x = tuple(b[None] for b in ToyTask().validation())
    reference = problem.losses(runs.params, problem.batch(0)).detach()[0]
    for stop in objective.valid_at(0, STEPS, STEPS):  # the validation losses, differentiably
        runs, trajectory = unroll(problem, theta, runs, start, stop, Telling(STEPS), differentiable=True)
        valid.append(problem.losses(runs.params, x))
        start = stop
    loss = objective.meta_loss(trajectory._replace(valid=torch.stack(valid)), reference)
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    exact = gradient[TwoParameterES.free]
    assert (exact.abs() > 4 * error).any(), "the test has no power"
    assert ((mean - exact).abs() <= 4 * error).all(), f"ES {mean} +- {error}, exact {exact}"


def test_gradient_is_the_mean_of_differences_times_noise() -> None:
    es = AntitheticES(3, 0.1)
    estimates = [Estimate(s, torch.tensor([1.0, -0.5, 2.0]), 0.0, 0) for s in (4, 5)]
    slow = sum(d * noise(e.seed, 3, 10)[i] for e in estimates for i, d in enumerate([1.0, -0.5, 2.0])) / 6
    torch.testing.assert_close(es.gradient(10, estimates), slow)


@pytest.mark.parametrize("kind", list(ESTIMATORS.values()), ids=lambda k: k.name)
def test_frozen_parts_are_neither_perturbed_nor_moved(kind: type[Estimator]) -> None:
    estimator = kind(3, 0.1, ["lstm_in", "mlp_bias"])
    theta = THETA + 0.1 * noise(0, 1, len(THETA))[0]  # nothing is zero: everything matters
    moved = meta_network.unpack((estimator.perturbed(theta, 5) - theta).abs().amax(0))
    estimate = estimator.estimate(theta, Episode(ToyTask(), 4, 5, Telling(5)), None)
    gradient = meta_network.unpack(estimator.gradient(meta_network.SIZE, [estimate]))
    for name in meta_network.SHAPES:
        frozen = name in estimator.frozen
        assert bool((gradient[name] == 0).all()) == frozen, name
        assert not (frozen and moved[name].any()), name


def test_noise_is_a_function_of_the_seed() -> None:
    assert torch.equal(noise(3, 2, 5), noise(3, 2, 5))
    assert not torch.equal(noise(3, 2, 5), noise(4, 2, 5))
    theta = AntitheticES(2, 0.1).perturbed(torch.ones(5), 3)
    torch.testing.assert_close(theta[:2] + theta[2:], torch.full((2, 5), 2.0))


def test_noise_reuse_over_the_whole_horizon_is_antithetic_es() -> None:
    episode = Episode(ToyTask(), 3, 8, Telling(8))
    full, reuse = AntitheticES(4, 0.05), NoiseReuseES(4, 0.05, window=8)
    a, b = full.estimate(THETA, episode), reuse.estimate(THETA, episode)
    assert torch.equal(a.differences, b.differences)
    assert b.carry is None


def test_noise_reuse_windows_walk_through_the_episode_under_one_noise() -> None:
    episode = Episode(ToyTask(), 3, 8, Telling(8))
    reuse = NoiseReuseES(2, 0.05, window=5)
    first = reuse.estimate(THETA, episode)
    assert first.carry is not None
    assert first.carry["step"] == 5
    second = reuse.estimate(THETA, episode, first.carry)
    assert second.carry is None
    assert second.inner_steps == 3 * 4
    problem = Problem(ToyTask(), [seed_of(3, i) for i in range(2)], copies=2)
    runs, _ = unroll(problem, reuse.perturbed(THETA, 3), problem.begin(), 0, 5, Telling(8))
    for a, b in zip(runs.params, first.carry["runs"].params, strict=True):
        assert torch.equal(a, b)


WINDOWED = [e for e in ESTIMATORS.values() if issubclass(e, Windowed)]


@pytest.mark.parametrize("kind", WINDOWED, ids=lambda k: k.name)
def test_all_windows_are_measured_against_the_first_loss(kind: type[Windowed]) -> None:
    estimator, carry, references = kind(1, 0.01, window=2), None, []
    for _ in range(3):
        carry = estimator.estimate(THETA, Episode(ToyTask(), 3, 8, Telling(8)), carry).carry
        assert carry is not None
        references.append(float(carry["reference"]))
    assert references == [references[0]] * 3


@pytest.mark.parametrize("kind", WINDOWED, ids=lambda k: k.name)
def test_windows_have_at_least_one_step(kind: type[Windowed]) -> None:
    with pytest.raises(ValueError, match="window must be at least 1 step, got 0"):
        kind(2, 0.05, window=0)


def test_paired_differences_do_not_depend_on_the_tasks_scale_and_are_clipped() -> None:
    losses = torch.tensor([3.0, 1.0, 2.0, 0.0, 1.0, 2.5])
    d = objective.paired(losses)
    torch.testing.assert_close(objective.paired(10 * losses), d, rtol=2e-2, atol=1e-3)
    assert objective.paired(torch.tensor([100.0] + [0.0] * 39)).max() == 2


def test_meta_loss_terms() -> None:
    valid = torch.tensor([[0.5], [0.25], [0.3], [0.125]])
    t = Trajectory(torch.ones(10, 1), valid, (2, 4, 6, 10), torch.zeros(10, 1, 1))

    def log(x: float) -> float:
        return math.log(x + objective.FLOOR)

    expected = 0.85 * log(0.125) + 0.05 * (log(0.5) + log(0.25) + log(0.3))
    assert float(objective.meta_loss(t, torch.tensor(1.0))[0]) == pytest.approx(expected, rel=1e-5)
    scaled = t._replace(valid=t.valid * 100)
    assert float(objective.meta_loss(scaled, torch.tensor(100.0))[0]) == pytest.approx(expected, rel=1e-5)
    last = t._replace(valid=t.valid[-1:], valid_steps=(10,))
    assert float(objective.meta_loss(last, torch.tensor(1.0))[0]) == pytest.approx(log(0.125), rel=1e-5)
    trained = t._replace(losses=torch.linspace(1.0, 0.1, 10)[:, None])
    mixed = float(objective.meta_loss(trained, torch.tensor(1.0), 0.25)[0])
    assert mixed == pytest.approx(0.75 * expected + 0.25 * log(0.1), rel=1e-5)
    broken = t._replace(valid=torch.full((4, 1), float("nan")))
    assert torch.isfinite(objective.meta_loss(broken, torch.tensor(1.0))).all()


@pytest.mark.parametrize("name", ["es", "nres", "pes", "nodes", "backprop"])
def test_training_loss_can_be_part_of_the_meta_loss(name: str) -> None:
    """All of it, on a task whose validation loss is a constant: only training losses can make a difference."""

    class Unvalidated(ToyTask):
        def validation(self) -> Batch:
            return self.x[:1] * 0, self.y[:1]

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().loss(model, batch) if len(batch[0]) > 1 else 0.7 + 0 * model(batch[0]).sum()

    estimated = {}
    for share in (0.0, 1.0):
        estimator = make_estimator(MetaTrainConfig(estimator=name, pairs=2, training_share=share))
        estimate = estimator.estimate(THETA, Episode(Unvalidated(), 4, 6, Telling(6)), None)
        estimated[share] = float(estimator.gradient(meta_network.SIZE, [estimate]).norm())
    assert estimated[0.0] < 1e-6 < estimated[1.0]


def test_validation_points_of_windows_join_to_those_of_the_run() -> None:
    assert objective.valid_at(0, 100, 100) == (15, 35, 60, 100)
    assert objective.valid_at(0, 50, 100) == (15, 35, 50)
    assert objective.valid_at(50, 100, 100) == (60, 100)
    assert objective.valid_at(0, 2, 2) == (1, 2)
    assert objective.valid_at(0, 1, 1) == (1,)


def test_backprop_over_the_whole_run_is_the_slope_of_the_meta_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences of the compiled unroll's meta-loss along the estimate."""
    monkeypatch.setattr(base, "LONGEST", 1e3)
    steps = 5
    g = torch.Generator().manual_seed(8)
    theta = THETA + 0.03 * torch.randn(meta_network.SIZE, generator=g)
    estimate = Backprop(2, 1.0, window=steps).estimate(theta, Episode(ToyTask(), 3, steps, Telling(steps)))
    assert estimate.gradient is not None
    assert estimate.carry is None
    problem = Problem(ToyTask(), [seed_of(3, i) for i in range(4)])

    def meta_loss(at: Tensor) -> float:
        points = objective.valid_at(0, steps, steps)
        _, t = unroll(problem, at, problem.begin(), 0, steps, Telling(steps), valid_at=points)
        return float(objective.meta_loss(t, t.losses[0].median()).double().mean())

    direction = estimate.gradient / estimate.gradient.norm()
    slope = (meta_loss(theta + 0.005 * direction) - meta_loss(theta - 0.005 * direction)) / 0.01
    assert slope > 0.1
    assert float(estimate.gradient.norm()) == pytest.approx(slope, rel=0.03)


def test_backprop_walks_in_windows_and_clips() -> None:
    episode = Episode(ToyTask(), 3, 8, Telling(8))
    estimator = Backprop(1, 1.0, window=5)
    first = estimator.estimate(THETA, episode)
    assert first.carry is not None
    assert first.carry["step"] == 5
    assert not any(p.requires_grad for p in first.carry["runs"].params)
    second = estimator.estimate(THETA, episode, first.carry)
    assert second.carry is None
    assert first.inner_steps == 2 * 5
    for estimate in (first, second):
        assert estimate.gradient is not None
        assert float(estimate.gradient.norm()) <= base.LONGEST * 1.0001
