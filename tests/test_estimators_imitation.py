"""Imitation: the teacher against torch's AdamW, the led state against the rule's own, the gradient, the fall of the
distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from meta_train_toy import Here
from torch import Tensor, nn
from toy import ToySource, ToyTask

from learnopt import meta_network, rule
from learnopt.baselines.base import multiplier
from learnopt.estimators import Episode, Imitation, imitation
from learnopt.estimators.imitation import Teacher, distance, tuned_rate
from learnopt.meta_config import MetaTrainConfig
from learnopt.meta_train import MetaTrainer
from learnopt.unroll import Problem, Runs, Telling, unroll

STEPS = 12
OFF = -30.0
"""Logit of a pull that is none."""


def theta_of(spread: float, pull: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(1)
    theta = meta_network.initial_theta(g) + spread * torch.randn(meta_network.SIZE, generator=g)
    w = meta_network.unpack(theta)
    if pull:
        for name in ("tensor_out", "tensor_skip"):
            w[name][..., meta_network.OUTPUTS.index("pull")] = 0.0
        w["tensor_bias"][..., meta_network.OUTPUTS.index("pull")] = pull
    return torch.cat([part.flatten() for part in w.values()])


class Scaled(ToyTask):
    """With a scalar parameter, and one that plays no part."""

    def _module(self) -> nn.Module:
        inner = super()._module()

        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.scale = inner, nn.Parameter(torch.tensor(1.5))
                self.idle = nn.Parameter(torch.ones(2))

            def forward(self, x: Tensor) -> Tensor:
                return self.scale * self.inner(x)

        return Module()


def test_the_teacher_is_torch_s_adamw_with_warm_up_and_cosine_decay() -> None:
    task, seeds, rates = ToyTask(), [3, 4], (0.003, 0.05)
    problem = Problem(task, seeds)
    teacher = Teacher(problem.start, torch.tensor(rates), STEPS)
    for t in range(STEPS):
        teacher.step(*problem.gradients_at(teacher.params, t))
    for i, (seed, lr) in enumerate(zip(seeds, rates, strict=True)):
        model = task.build(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=imitation.WEIGHT_DECAY)
        for t in range(STEPS):
            optimizer.param_groups[0]["lr"] = lr * multiplier("cosine", t, STEPS)
            optimizer.zero_grad()
            task.loss(model, task.batch(seed, t)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for ours, theirs in zip(teacher.params, model.parameters(), strict=True):
            torch.testing.assert_close(ours[i], theirs.detach(), rtol=1e-4, atol=1e-6)


def test_the_best_rate_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, final = Episode(ToyTask(), 5, STEPS, Telling(STEPS)), {}
    for rate in imitation.RATES:
        problem = Problem(drawn.task, [8, 9])
        teacher = Teacher(problem.start, torch.full((2,), rate), STEPS)
        for t in range(STEPS):
            teacher.step(*problem.gradients_at(teacher.params, t))
        final[rate] = float(problem.valid_losses(teacher.params).mean())
    assert tuned_rate(drawn, [8, 9]) == min(final, key=lambda rate: final[rate])
    monkeypatch.setattr(imitation, "RATES", (1e20, 1e-3))
    assert tuned_rate(drawn, [8, 9]) == 1e-3


class Itself(Teacher):
    """The rule as its own teacher."""

    def __init__(self, theta: Tensor, problem: Problem, telling: Telling) -> None:
        self._w, self._problem, self._telling = meta_network.unpack(theta), problem, telling
        self._params, self._state = list(problem.start), rule.init_state(problem.layout, problem.start)

    @property
    def params(self) -> list[Tensor]:
        return list(self._params)

    def step(self, loss: Tensor, grads: Sequence[Tensor | None]) -> list[Tensor]:
        dense = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, self._params, strict=True)]
        with torch.no_grad():
            self._params, self._state, _ = rule.apply(
                self._w, self._problem.layout, self._params, dense, self._state,
                loss if self._telling.loss else None, torch.tensor(float(self._telling.horizon)),
            )  # fmt: skip
        return self.params


@pytest.mark.parametrize("telling", [Telling(STEPS), Telling(0, loss=False)])
def test_a_rule_that_leads_itself_is_no_distance_away(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the led state holds is what the rule's own holds: any difference would show in the next step."""
    monkeypatch.setattr(imitation, "EVERY", 1)
    theta, problem = theta_of(0.05, OFF), Problem(Scaled(), [1, 2])
    teacher = Itself(theta, problem, telling)
    loss, gradient = Imitation(2, 0.1, window=5).follow(theta, problem, teacher, Episode(Scaled(), 1, STEPS, telling))
    assert abs(loss) < 1e-4
    assert gradient.norm() < 0.02
    runs, _ = unroll(problem, theta, Runs(list(problem.start), problem.begin().state), 0, STEPS, telling)
    for a, b in zip(teacher.params, runs.params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    other = Itself(theta_of(0.1, OFF), problem, telling)
    assert Imitation(2, 0.1).follow(theta, problem, other, Episode(Scaled(), 1, STEPS, telling))[0] > 1e-3


def test_one_window_in_four_is_learned_from_another_one_in_each_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[bool] = []

    def window(weights: Tensor, problem: Problem, teacher: Teacher, state: Any, *_: Any) -> tuple[Tensor, Any]:
        learned.append(torch.is_grad_enabled())
        return weights.sum()[None], state

    monkeypatch.setattr(imitation, "_window", window)
    theta, problem, phases = theta_of(0.0), Problem(ToyTask(), [1]), set()
    teacher = Teacher(problem.start, torch.tensor([1e-3]), STEPS)
    for seed in range(30):
        learned.clear()
        Imitation(1, 0.1, window=1).follow(theta, problem, teacher, Episode(ToyTask(), seed, STEPS, Telling(STEPS)))
        first = learned.index(True)
        assert learned == [i % 4 == first for i in range(STEPS)]
        phases.add(first)
    assert phases == {0, 1, 2, 3}


def test_the_pull_towards_the_averaged_weights_plays_no_part() -> None:
    episode, found = Episode(ToyTask(), 1, 6, Telling(6)), []
    for pull in (-3.0, 3.0):
        problem = Problem(ToyTask(), [1])
        teacher = Teacher(problem.start, torch.tensor([1e-2]), 6)
        loss, gradient = Imitation(1, 0.1, window=6).follow(theta_of(0.05, pull), problem, teacher, episode)
        assert not meta_network.unpack(gradient)["tensor_bias"][..., meta_network.OUTPUTS.index("pull")].any()
        found.append(loss)
    assert found[0] == found[1]


def test_distance_of_known_steps() -> None:
    old = [torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 3)]
    wanted = [torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), torch.zeros(1, 3)]  # the last did not move
    steps = [torch.tensor([[0.0, math.e]]), torch.tensor([-2.0]), torch.ones(1, 3)]
    first = 1 + imitation.LENGTH * 0.5  # at a right angle and e times as long; the second leads the other way
    torch.testing.assert_close(distance(steps, wanted, old), torch.tensor((first + 2) / 2))
    asked = [torch.zeros(1, 2, requires_grad=True), torch.ones(1, requires_grad=True), torch.ones(1, 3)]
    distance(asked, wanted, old).backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is None or x.grad.isfinite().all() for x in asked)


def test_the_gradient_is_that_of_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "EVERY", 1)
    theta, drawn = theta_of(0.05), Episode(ToyTask(), 3, 6, Telling(6))
    estimator, problem = Imitation(2, 0.1), Problem(ToyTask(), [1, 2])

    def loss(at: Tensor) -> tuple[float, Tensor]:
        return estimator.follow(at, problem, Teacher(problem.start, torch.full((2,), 0.01), 6), drawn)

    _, gradient = loss(theta)
    way = gradient / gradient.norm()
    slope = (loss(theta + 1e-2 * way)[0] - loss(theta - 1e-2 * way)[0]) / 2e-2
    assert slope == pytest.approx(float(gradient.norm()), rel=0.05)


def test_the_distance_falls() -> None:
    theta, estimator = theta_of(0.0), Imitation(2, 0.1, window=6)
    theta = theta.requires_grad_()
    adam = torch.optim.Adam([theta], lr=0.03)
    losses = []
    for i in range(8):
        estimate = estimator.estimate(theta.detach(), Episode(ToyTask(), i % 2, 16, Telling(16)))
        losses.append(estimate.meta_loss)
        theta.grad = estimate.gradient
        adam.step()
    assert sum(losses[-2:]) < 0.7 * sum(losses[:2]), losses


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    settings = MetaTrainConfig(
        estimator="imitation", meta_steps=4, episodes=2, pairs=1, window=4, steps_min=6, steps_max=9, meta_lr=0.05
    )

    def trainer(out: str) -> MetaTrainer:
        return MetaTrainer(settings, ToySource(), tmp_path / out, Here())

    def interrupt(row: dict[str, Any]) -> None:
        if row["meta_step"] == 2:
            raise KeyboardInterrupt

    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole, broken = trainer("whole").run(), trainer("broken")
    broken.listener = interrupt
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert trainer("broken").state.meta_step == 2
    resumed = trainer("broken").run()
    assert torch.equal(whole.theta, resumed.theta)
    assert torch.equal(whole.average, resumed.average)
    start = meta_network.unpack(trainer("fresh").state.theta)
    moved = {name: not torch.equal(part, start[name]) for name, part in meta_network.unpack(whole.theta).items()}
    assert moved["tensor_bias"]
    assert moved["mlp_out"]


def test_bad_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1 step, got 0"):
        Imitation(2, 0.1, window=0)
