"""Meta-steps in one process: what they compute, and what is left of one that does not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from meta_train_toy import Here, config
from test_meta_train import rows
from toy import ToySource

from learnopt import meta_network
from learnopt.meta_train import MetaTrainer


def test_the_second_moment_of_a_part_is_shared() -> None:
    values = torch.arange(float(meta_network.SIZE))
    shared, own = meta_network.unpack(meta_network.mean_by_part(values)), meta_network.unpack(values)
    for name, part in own.items():
        torch.testing.assert_close(shared[name], part.mean().expand_as(part))


def test_the_meta_optimizer_is_adam_with_these_second_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one and the same gradient, every step is the first one."""
    settings = config("es", 3).model_copy(update={"meta_lr_final": 1.0, "valid_every": 10})
    trainer = MetaTrainer(settings, ToySource(), tmp_path, Here())
    gradient = torch.linspace(-1, 2, meta_network.SIZE)
    monkeypatch.setattr(trainer.estimator, "gradient", lambda size, estimates: gradient)
    step = settings.meta_lr * gradient / meta_network.mean_by_part(gradient**2).sqrt()
    for _ in range(2):
        before = trainer.state.theta
        trainer.step()
        torch.testing.assert_close(before - trainer.state.theta, step, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "call", "done"), [
    ("estimate", 1, 0), ("estimate", 3, 2), ("validate", 1, 0), ("validate", 2, 2),
])  # fmt: skip
def test_an_interrupt_anywhere_in_a_meta_step_loses_nothing_of_it(
    name: str, call: int, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(out: str) -> MetaTrainer:
        return MetaTrainer(config("nres", 3), ToySource(), tmp_path / out, Here())

    broken, calls = trainer("broken"), []
    usual = getattr(broken.pool, name)

    def interrupted(*arguments: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(broken.pool, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed, whole = trainer("broken"), trainer("whole").run()
    assert resumed.state.meta_step == done
    resumed.run()
    assert torch.equal(resumed.state.theta, whole.theta)
    assert (resumed.state.best_score, resumed.state.best_step) == (whole.best_score, whole.best_step)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert [row["meta_step"] for row in rows(tmp_path / "whole")] == [0, 1, 2, 3]


def test_an_estimate_that_is_not_finite_ends_the_run_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = MetaTrainer(config("es", 3), ToySource(), tmp_path, Here())
    before = trainer.state.theta.clone()
    monkeypatch.setattr(trainer.estimator, "gradient", lambda size, estimates: torch.full((size,), float("nan")))
    with pytest.raises(ValueError, match="meta-step 1: the estimate of es is not finite"):
        trainer.run()
    assert torch.equal(trainer.state.theta, before)


def test_the_mean_theta_starts_as_a_plain_mean_and_the_rate_falls_to_its_share(tmp_path: Path) -> None:
    settings = config("es", 3).model_copy(update={"meta_lr": 0.5, "meta_lr_final": 0.2, "valid_every": 10})
    trainer = MetaTrainer(settings, ToySource(), tmp_path, Here())
    thetas, rates = [], []
    for _ in range(2):
        rates.append(trainer.step()["meta_lr"])
        thetas.append(trainer.state.theta)
        torch.testing.assert_close(trainer.state.average, torch.stack(thetas).mean(0))
    assert rates[0] == 0.5
    assert rates[1] < 0.5
    assert trainer._learning_rate(3) == pytest.approx(0.2 * 0.5)


def test_particles_do_not_stay_in_step(tmp_path: Path) -> None:
    """Their first episodes have different parts of their lengths; the next ones are whole."""
    settings = config("nres", 3).model_copy(update={"episodes": 4, "steps_min": 400, "steps_max": 400})
    trainer = MetaTrainer(settings, ToySource(), tmp_path, Here())
    assert [spec.steps for spec in trainer._episodes()] == [100, 200, 300, 400]
    trainer.state.generations = [1] * 4
    assert [spec.steps for spec in trainer._episodes()] == [400] * 4


def test_a_start_whose_validation_is_not_finite_has_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        trainer = MetaTrainer(config("es", 3), ToySource(), tmp_path, Here())
        monkeypatch.setattr(trainer.pool, "validate", lambda *_: {"none": float("inf")})
        monkeypatch.setattr(trainer.pool, "estimate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.run()
    assert [row["meta_step"] for row in rows(tmp_path)] == [0]
