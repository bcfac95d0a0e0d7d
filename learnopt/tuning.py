"""The search for a baseline's learning rate and schedule on one task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from learnopt.baselines import Settings, Space
from learnopt.task import seed_of
from learnopt.training import Run

TUNING_SEED = 1000
"""Seed of the tuning runs: not among the evaluation seeds, which count from 0."""

LR_RANGE = (1e-5, 1.0)
"""Range of the TPE search, log-uniform; the grid is `GRID`."""

GRID = tuple(float(f"{lr:.6g}") for lr in np.geomspace(1e-4, 1.0, 14))

REST_RANGE = (0.1, 10.0)
"""Range of a hybrid's second rate, as a multiple of the first; the grid is `REST_GRID`."""

REST_GRID = (0.1, 0.3, 3.0, 10.0)
"""Tried at the best first rate and schedule, where 1 has been tried already."""

FAILED = 1e30
"""The value a diverged trial is told as."""

Trial = Callable[[Settings], Run]


@dataclass(frozen=True)
class Tuned:
    """The best settings found, and what finding them cost."""

    settings: Settings
    value: float
    runs: int
    steps: int
    seconds: float


def value_of(run: Run) -> float:
    """What a trial is judged by: the validation loss at the end."""
    return FAILED if run.diverged or run.validation_final is None else run.validation_final


def tune_tpe(trial: Trial, trials: int, space: Space, *, task: str, optimizer: str) -> list[tuple[Settings, Run]]:
    """Sequential TPE; the same trials at every call, so that stored runs can stand in for the first ones.

    The first trials are Adam's usual rate under each schedule: tuning must not lose to habit by bad luck.
    """
    import optuna

    done: list[tuple[Settings, Run]] = []
    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=seed_of("tpe", task, optimizer) % 2**32)
        study = optuna.create_study(sampler=sampler)
        for schedule in space.schedules:
            study.enqueue_trial({"lr": 1e-3, "schedule": schedule} | ({"rest": 1.0} if space.hybrid else {}))
        for _ in range(trials):
            asked = study.ask()
            lr = float(f"{asked.suggest_float('lr', *LR_RANGE, log=True):.6g}")
            settings = Settings(lr, asked.suggest_categorical("schedule", list(space.schedules)))
            if space.hybrid:
                rest = float(f"{asked.suggest_float('rest', *REST_RANGE, log=True):.6g}")
                settings = replace(settings, rest=rest)
            run = trial(settings)
            study.tell(asked, value_of(run))
            done.append((settings, run))
    return done


def tune_grid(trial: Trial, trials: int, space: Space, *, task: str, optimizer: str) -> list[tuple[Settings, Run]]:
    """Every rate of `GRID` with every schedule, then a hybrid's second rates; `trials` plays no part."""
    first = 1.0 if space.hybrid else None
    grid = [Settings(lr, schedule, first) for schedule in space.schedules for lr in GRID]
    done = [(settings, trial(settings)) for settings in grid]
    best = min(done, key=lambda pair: value_of(pair[1]))[0]
    more = [replace(best, rest=rest) for rest in REST_GRID] if space.hybrid else []
    return done + [(settings, trial(settings)) for settings in more]


TUNERS: dict[str, Callable[..., list[tuple[Settings, Run]]]] = {"optuna": tune_tpe, "grid": tune_grid}


def trials_of(tuner: str, trials: int, space: Space) -> int:
    """Runs that one search takes."""
    grid = len(GRID) * len(space.schedules) + (len(REST_GRID) if space.hybrid else 0)
    return grid if tuner == "grid" else trials


def tune(tuner: str, trial: Trial, trials: int, space: Space, *, task: str, optimizer: str, steps: int) -> Tuned:
    """Search `space` with the tuner called `tuner`; ties go to the first."""
    done = TUNERS[tuner](trial, trials, space, task=task, optimizer=optimizer)
    settings, best = min(done, key=lambda pair: value_of(pair[1]))
    return Tuned(settings, value_of(best), len(done), steps * len(done), sum(run.seconds for _, run in done))


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
