"""Persistent ES against the exact meta-gradient of all windows together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_unroll import rule_index
from torch import Tensor
from toy import ToyTask

from learnopt import meta_network, objective
from learnopt.estimators import Episode, Estimator, PersistentES, noise
from learnopt.task import seed_of
from learnopt.unroll import Problem, Telling, unroll

THETA = meta_network.initial_theta(torch.Generator().manual_seed(0))
STEPS, WINDOW = 8, 3


class TwoParameterPES(PersistentES):
    """Log step size and log decay; all other meta-weights stay as they are."""

    free = (rule_index("tensor_bias", 0), rule_index("tensor_bias", 2))

    def _noise(self, seed: int, size: int) -> Tensor:
        eps = torch.zeros(self.pairs, size)
        eps[:, list(self.free)] = noise(seed, self.pairs, 2)
        return eps


def episode_gradient(estimator: PersistentES, number: int) -> Tensor:
    """Sum of the estimates of all windows of one episode."""
    carry: dict[str, Any] | None = None
    total, windows = torch.zeros(len(THETA)), 0
    while windows == 0 or carry is not None:
        estimate = estimator.estimate(THETA, Episode(ToyTask(), number, STEPS, Telling(STEPS)), carry)
        assert estimate.gradient is not None
        total, carry, windows = total + estimate.gradient, estimate.carry, windows + 1
    assert windows == -(-STEPS // WINDOW)
    return total


def test_pes_agrees_with_the_exact_meta_gradient_of_all_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    sigma, jobs = 0.02, 24
    monkeypatch.setattr(objective, "paired", lambda losses: losses[: len(losses) // 2] - losses[len(losses) // 2 :])
    # every pair sees the same run; the noise still differs between episodes and windows
    monkeypatch.setattr(Estimator, "problem", lambda self, e: Problem(e.task, [7] * self.pairs, copies=2))
    estimator = TwoParameterPES(24, sigma, window=WINDOW)
    free = list(TwoParameterPES.free)
    got = torch.stack([episode_gradient(estimator, job)[free] / (2 * sigma) for job in range(jobs)])
    mean, error = got.mean(0), got.std(0) / jobs**0.5

    theta = THETA.clone().requires_grad_()
    problem = Problem(ToyTask(), [7])
    x = tuple(b[None] for b in ToyTask().validation())
    runs, start, total = problem.begin(), 0, torch.zeros(())
    reference = problem.losses(runs.params, problem.batch(0)).detach()[0]
    for window in range(0, STEPS, WINDOW):
        end, valid = min(window + WINDOW, STEPS), []
        for stop in objective.valid_at(window, end, STEPS):
            runs, trajectory = unroll(problem, theta, runs, start, stop, Telling(STEPS), differentiable=True)
            valid.append(problem.losses(runs.params, x))
            start = stop
        total = total + objective.meta_loss(trajectory._replace(valid=torch.stack(valid)), reference).sum()
    exact = torch.autograd.grad(total, theta)[0][free]
    assert (exact.abs() > 4 * error).any(), "the test has no power"
    assert ((mean - exact).abs() <= 4 * error).all(), f"PES {mean} +- {error}, exact {exact}"


def test_noise_is_fresh_in_every_window_and_accumulates() -> None:
    estimator = PersistentES(2, 0.05, window=5)
    first = estimator.estimate(THETA, Episode(ToyTask(), 3, 8, Telling(8)))
    assert first.carry is not None
    torch.testing.assert_close(first.carry["noise"], noise(seed_of(3, "window", 0), 2, len(THETA)))
    second = estimator.estimate(THETA, Episode(ToyTask(), 3, 8, Telling(8)), first.carry)
    both = first.carry["noise"] + noise(seed_of(3, "window", 5), 2, len(THETA))
    assert second.carry is None
    torch.testing.assert_close(second.gradient, second.differences @ both / 2)
