"""`LearnedPruner` in the manner of Optuna's own pruner tests, and what only it does."""

from __future__ import annotations

import math
import pickle

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from learnopt.integrations import optuna_space
from learnopt.integrations.optuna_pruner import LearnedPruner
from learnopt.stopping import neighbours, peer_train, studies, weights
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves

optuna.logging.set_verbosity(optuna.logging.ERROR)
GOOD = [2.0 * 0.85**t + 0.1 for t in range(30)]
BAD = [2.0 + 0.01 * t for t in range(30)]


def run(study: optuna.Study, values: list[float], stop: bool = True) -> tuple[int, bool]:
    """Report values until the pruner says no; returns the number reported and whether it was pruned."""
    trial = study.ask()
    for step, value in enumerate(values):
        trial.report(value, step)
        if stop and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step + 1, True
    study.tell(trial, values[-1])
    return len(values), False


def signed(direction: str, values: list[float]) -> list[float]:
    return values if direction == "minimize" else [-v for v in values]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_prunes_the_second_trial_and_keeps_a_better_one(direction: str) -> None:
    study = optuna.create_study(direction=direction, pruner=LearnedPruner())
    assert run(study, signed(direction, GOOD)) == (30, False)
    reported, pruned = run(study, signed(direction, BAD))
    assert pruned
    assert reported <= 8
    assert run(study, signed(direction, [v - 0.05 for v in GOOD])) == (30, False)
    assert run(study, signed(direction, BAD))[1]


def test_with_one_trial() -> None:
    study = optuna.create_study(pruner=LearnedPruner(0, 0))
    trial = study.ask()
    assert not trial.should_prune()
    trial.report(1, 1)
    assert not trial.should_prune()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_of_the_values_does_not_matter(scale: float) -> None:
    found = []
    for factor in (1.0, scale):
        study = optuna.create_study(pruner=LearnedPruner())
        run(study, [factor * v for v in GOOD])
        found.append(run(study, [factor * (v + 0.3) for v in GOOD]))
    assert found[0] == found[1]


def test_nan_and_infinity() -> None:
    study = optuna.create_study(pruner=LearnedPruner())
    assert run(study, [math.nan, 1.0], stop=False) == (2, False)
    assert run(study, [math.nan] * 30) == (1, True)
    assert run(study, [math.inf] * 30) == (1, True)
    first = optuna.create_study(pruner=LearnedPruner())
    trial = first.ask()
    trial.report(math.nan, 0)
    assert not trial.should_prune()
    mixed = [math.nan if t % 3 == 1 else v for t, v in enumerate(GOOD)]
    assert run(first, mixed, stop=False) == (30, False)
    assert run(first, [v / 2 for v in mixed]) == (30, False)


def test_completed_trials_without_finite_values() -> None:
    study = optuna.create_study(pruner=LearnedPruner())
    study.tell(study.ask(), 1.0)
    assert run(study, BAD) == (30, False)
    other = optuna.create_study(pruner=LearnedPruner())
    trial = other.ask()
    trial.report(math.nan, 0)
    other.tell(trial, 1.0)
    assert run(other, BAD) == (30, False)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_n_startup_trials(n: int) -> None:
    study = optuna.create_study(pruner=LearnedPruner(n_startup_trials=n))
    run(study, GOOD)
    results = [run(study, BAD)[1] for _ in range(n)]
    assert results == [False] * (n - 1) + [True]


def test_n_warmup_steps() -> None:
    plain, warm = LearnedPruner(), LearnedPruner(n_warmup_steps=12)
    reported = []
    for pruner in (plain, warm):
        study = optuna.create_study(pruner=pruner)
        run(study, GOOD)
        reported.append(run(study, BAD)[0])
    assert reported[0] < 12
    assert reported[1] == 13


@pytest.mark.parametrize(
    ("n_warmup_steps", "interval_steps", "report_steps", "expected"),
    [
        (0, 1, 1, list(range(12))),
        (0, 2, 1, [0, 2, 4, 6, 8, 10]),
        (1, 2, 1, [1, 3, 5, 7, 9, 11]),
        (0, 3, 2, [0, 4, 6, 10]),
        (2, 3, 3, [3, 6, 9]),
        (0, 10, 3, [0, 12]),
    ],
)
def test_interval_steps(n_warmup_steps: int, interval_steps: int, report_steps: int, expected: list[int]) -> None:
    pruner = LearnedPruner(1, n_warmup_steps, interval_steps, threshold=1.0, prune_leaders=True)
    median = optuna.pruners.MedianPruner(1, n_warmup_steps, interval_steps)
    study, theirs = optuna.create_study(pruner=pruner), optuna.create_study(pruner=median)
    for s in (study, theirs):
        run(s, [1.0] * 13, stop=False)
    trials = study.ask(), theirs.ask()
    due: tuple[list[int], list[int]] = ([], [])
    for step in range(0, 13 if interval_steps > 3 else 12, report_steps):
        for trial, found in zip(trials, due, strict=True):
            trial.report(2.0, step)
            if trial.should_prune():
                found.append(step)
    assert due[0] == expected
    assert due[0] == due[1]


def test_leaders_are_pruned_on_demand_only() -> None:
    flat = [0.05] * 30
    for leaders in (False, True):
        study = optuna.create_study(pruner=LearnedPruner(prune_leaders=leaders))
        run(study, GOOD)
        assert run(study, flat)[1] is leaders


def test_trials_of_other_studies_are_not_mixed_up() -> None:
    pruner = LearnedPruner()
    first, second = (optuna.create_study(pruner=pruner) for _ in range(2))
    run(first, GOOD)
    run(second, [v + 10 for v in GOOD])
    assert run(first, BAD)[1]
    assert run(second, BAD) == (30, False)


def test_studies_of_one_name_are_not_mixed_up() -> None:
    pruner = LearnedPruner()
    first, second = (optuna.create_study(pruner=pruner, study_name="same") for _ in range(2))
    run(first, GOOD)
    assert run(first, BAD)[1]
    run(second, [v + 10 for v in GOOD])
    assert run(second, BAD) == (30, False)


def test_judgement_does_not_depend_on_what_was_kept() -> None:
    def study_of(fresh: bool) -> list[tuple[int, bool]]:
        study = optuna.create_study(pruner=LearnedPruner(), study_name="kept")
        found = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            level = rng.uniform(0.05, 0.5)
            if fresh:
                study.pruner = LearnedPruner()
            found.append(run(study, [v + level + 0.02 * rng.standard_normal() for v in GOOD]))
        return found

    kept = study_of(False)
    assert kept == study_of(True)
    assert any(pruned for _, pruned in kept)


def test_works_in_optimize_with_irregular_steps_and_after_pickling() -> None:
    def objective(trial: optuna.Trial) -> float:
        level = trial.suggest_float("level", 0, 3)
        for step in (0, 1, 5, 6, 20, 40, 41):
            trial.report(level + math.exp(-step / 5), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return level

    pruner = pickle.loads(pickle.dumps(LearnedPruner(total_steps=41)))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=15)
    states = [t.state for t in study.trials]
    assert TrialState.PRUNED in states[1:5]
    assert study.best_value == min(t.params["level"] for t in study.trials)


def test_distances_between_parameters() -> None:
    space = {
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "width": IntDistribution(10, 20),
        "kind": CategoricalDistribution(("a", "b", "c")),
        "only": CategoricalDistribution(("x",)),
    }
    trials = [
        optuna.trial.create_trial(params=p, distributions={n: space[n] for n in p}, value=0.0)
        for p in (
            {"lr": 1e-4, "width": 10, "kind": "a", "only": "x"},
            {"lr": 1e-2, "width": 15, "kind": "a", "only": "x"},
            {"lr": 1e-4, "width": 10, "kind": "c", "only": "x"},
            {"lr": 1.0, "kind": "b"},
        )
    ]
    places = [optuna_space.place(t) for t in trials]
    assert "only" not in places[0]
    unordered = optuna_space.categories(trials[0])
    assert unordered == {"kind"}
    found = optuna_space.distances(places, places, unordered)
    expected = [
        [0, 0.5**0.5, 1, 3**0.5],
        [0.5**0.5, 0, 1.5**0.5, 2.25**0.5],
        [1, 1.5**0.5, 0, 3**0.5],
        [3**0.5, 2.25**0.5, 3**0.5, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(optuna_space.distances(places[:1], places[1:], unordered), [expected[0][1:]], atol=1e-12)
    assert optuna_space.distances([{}], [{}], set()).tolist() == [[0.0]]


def test_like_parameters_tell_like_results() -> None:
    final = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    place = torch.tensor([[0.0], [0.1], [0.2], [0.8], [0.9]], dtype=torch.float64)
    assert neighbours.reliability(torch.cdist(place, place), final) > 0.7
    assert neighbours.reliability(torch.cdist(place, place), final[[0, 3, 1, 2, 4]]) < 0.5
    assert neighbours.reliability(torch.cdist(place[:3], place[:3]), final[:3]) == 0


def recorded_task(curve: CurveNetwork) -> tuple[studies.Recorded, np.ndarray]:
    """Runs whose rate decides how far they come, some diverging, with steps that a study may count from 1."""
    rng = np.random.default_rng(1)
    lr, schedule = rng.random(24), rng.integers(0, 2, 24)
    t = np.arange(21)
    values = (lr[:, None] - 0.4) ** 2 + 0.1 + np.exp(-t * (0.05 + lr[:, None] / 4)) + 0.01 * rng.random((24, 21))
    values[3, 1:] = np.nan
    values[7, 5:] = np.inf
    settings = torch.from_numpy(np.stack([lr, schedule], 1))
    settings[0], settings[1] = 0, 1  # the ends of both ranges
    held = torch.from_numpy(np.where(np.isfinite(values), values, np.nan))
    steps = torch.arange(21.0, dtype=torch.float64).expand(24, 21)
    curves = Curves(
        held, steps, torch.zeros(24, dtype=torch.long), ["t"], ["d"], torch.ones(24, dtype=torch.bool),
        torch.full((24,), 21), torch.zeros(24, dtype=torch.bool), settings,
    )  # fmt: skip
    return studies.recorded(curve, curves)[0], values[:, 1:]


@pytest.mark.parametrize("told", [True, False])
def test_decisions_are_those_of_the_simulated_study(told: bool) -> None:
    loaded = weights.load()
    task, values = recorded_task(loaded.curve)
    trials = studies.draw(task, 16, np.random.default_rng(2))
    expected = studies.simulate(
        loaded.curve, task, trials if told else trials._replace(settings=None), peer_train.scores(loaded.peer), 0.8
    ).ends
    study = optuna.create_study(pruner=LearnedPruner(threshold=0.8, use_parameters=told))
    space = {"lr": FloatDistribution(0, 1), "schedule": CategoricalDistribution((0.0, 1.0))}
    assert trials.settings is not None
    for run_number, place, end in zip(trials.runs, trials.settings, expected, strict=True):
        study.enqueue_trial({"lr": float(place[0]), "schedule": float(place[1])})
        trial, taken = study.ask(space), len(values[0]) - 1
        for t, value in enumerate(values[run_number]):
            trial.report(value, t + 1)
            if t < 19 and (not math.isfinite(min(values[run_number][: t + 1])) or trial.should_prune()):
                taken = t
                break
        state = TrialState.PRUNED if taken < 19 else TrialState.COMPLETE
        study.tell(trial, None if taken < 19 else float(np.nanmin(values[run_number])), state=state)
        assert taken == end
    assert len(set(expected)) > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_startup_trials": -1}, "n_startup_trials must be a whole number of at least 0, got -1"),
        ({"n_warmup_steps": -1}, "n_warmup_steps must be a whole number of at least 0, got -1"),
        ({"interval_steps": 0}, "interval_steps must be a whole number of at least 1, got 0"),
        ({"total_steps": 0}, "total_steps must be a whole number of at least 1, got 0"),
        ({"threshold": 2}, "threshold must be a finite number of at least 0 and at most 1, got 2"),
        ({"weights": "v0"}, "unknown stopper weights 'v0'"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedPruner(**options)  # type: ignore[arg-type]
