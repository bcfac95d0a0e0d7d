"""The sampler passes Optuna's own suites; studies start from what was learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from learnopt.integrations.optuna import LearnedSampler, proposals, warm_start
from learnopt.tuner.knowledge import load

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestLearnedSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LearnedSampler(seed=0)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestWithRelativeSampler(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        # TPE samples parameters together only if told to, and after its first trials
        base = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, seed=0)
        return lambda: LearnedSampler(base)


class TestNamedX(BasicSamplerTestCase):
    """With the suite's own parameter among those that the list decides."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LearnedSampler(seed=0, names={"lr": "x"})


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    trial.suggest_categorical("schedule", ["constant", "cosine"])
    trial.suggest_int("layers", 1, 3)
    return abs(lr - 0.01)


def test_the_sampler_tries_the_list_first() -> None:
    study = optuna.create_study(sampler=LearnedSampler(seed=0, count=4))
    study.optimize(objective, n_trials=8)
    listed = [(c.lr, c.schedule) for c in load("adamw").portfolio[:4]]
    assert [(t.params["lr"], t.params["schedule"]) for t in study.trials[:4]] == listed
    assert len({t.params["lr"] for t in study.trials[4:]} - {lr for lr, _ in listed}) > 1


def test_the_list_comes_before_what_is_sampled_together() -> None:
    class Together(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {"lr": FloatDistribution(1e-6, 1.0, log=True), "width": FloatDistribution(1.0, 2.0)}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return {name: d.low for name, d in search_space.items()}

    study = optuna.create_study(sampler=LearnedSampler(Together(), count=2))
    for expected in (*(p["lr"] for p in proposals(count=2)), 1e-6):
        trial = study.ask()
        assert trial.suggest_float("lr", 1e-6, 1.0, log=True) == expected
        assert trial.suggest_float("width", 1.0, 2.0) == 1.0
        study.tell(trial, 1.0)


def test_values_out_of_range_are_left_to_the_other_sampler() -> None:
    study = optuna.create_study(sampler=LearnedSampler(optuna.samplers.RandomSampler(seed=0)))
    study.optimize(lambda t: t.suggest_float("lr", 1e-8, 1e-7, log=True), n_trials=3)
    assert all(1e-8 <= t.params["lr"] <= 1e-7 for t in study.trials)
    steps = optuna.create_study(sampler=LearnedSampler(seed=0))
    steps.optimize(lambda t: t.suggest_float("lr", 0.0, 1.0, step=0.25), n_trials=4)
    assert all(t.params["lr"] in (0.0, 0.25, 0.5, 0.75, 1.0) for t in steps.trials)


def test_warm_start_enqueues_once(tmp_path: object) -> None:
    study = optuna.create_study()
    assert warm_start(study, count=3) == 3
    assert warm_start(study, count=3) == 0
    study.optimize(objective, n_trials=3)
    assert [t.params["lr"] for t in study.trials] == [c.lr for c in load("adamw").portfolio[:3]]
    renamed = optuna.create_study()
    warm_start(renamed, count=1, names={"lr": "learning_rate"})
    renamed.optimize(lambda t: t.suggest_float("learning_rate", 1e-6, 2, log=True), n_trials=1)
    assert renamed.trials[0].params == {"learning_rate": load("adamw").portfolio[0].lr}


def narrow(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-6, 2e-3, log=True)
    trial.suggest_categorical("schedule", ["cosine", "linear"])
    trial.suggest_float("weight_decay", 0.0, 1e-3, step=1e-4)
    return lr


@pytest.mark.filterwarnings("error")
def test_warm_start_stays_within_the_studys_space() -> None:
    space = {
        "lr": FloatDistribution(1e-6, 2e-3, log=True), "schedule": CategoricalDistribution(["cosine", "linear"]),
        "weight_decay": FloatDistribution(0.0, 1e-3, step=1e-4),
    }  # fmt: skip
    listed = proposals(count=40)
    assert any(p["lr"] > 2e-3 for p in listed)
    assert any(p["schedule"] == "constant" for p in listed)
    told, seen = optuna.create_study(), optuna.create_study()
    assert 1 < warm_start(told, count=40, space=space) < 40
    seen.optimize(narrow, n_trials=1)
    assert warm_start(seen, count=40) == len(told.trials)
    for study in (told, seen):
        study.optimize(narrow, n_trials=len(told.trials))
        assert {t.state for t in study.trials} == {optuna.trial.TrialState.COMPLETE}
        assert all(t.params["lr"] <= 2e-3 for t in study.trials)
    wanted = [p["lr"] for p in listed if p["lr"] <= 2e-3]
    assert {t.system_attrs["fixed_params"].get("lr") for t in told.trials} >= set(wanted)
    nothing = optuna.create_study()
    assert warm_start(nothing, names={"lr": "lr"}, space={"lr": FloatDistribution(1e-9, 1e-8)}) == 0


def test_a_result_comes_first() -> None:
    import torch

    from learnopt.tuner.tune import tune

    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    result = tune(torch.nn.Linear(3, 1), (x, x[:, :1]), steps=50, budget=10, progress=False)
    first, second, third = proposals(result=result, count=3)
    assert first == {"lr": result.lr, "schedule": result.schedule, "weight_decay": result.weight_decay}
    assert (second["lr"], third["lr"]) == result.interval


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        proposals(count=0)
    with pytest.raises(ValueError, match="no knowledge about 'lion' ships; choose from: adamw"):
        LearnedSampler(optimizer="lion")


def test_the_list_is_shared_through_a_storage() -> None:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    for _ in range(3):  # as many processes would: each loads the study
        one = optuna.load_study(study_name="s", storage=storage, sampler=LearnedSampler(seed=1))
        one.optimize(objective, n_trials=1)
    assert [t.params["lr"] for t in one.trials] == [c.lr for c in load("adamw").portfolio[:3]]
