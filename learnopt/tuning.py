"""The search for a baseline's learning rate and schedule on one task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from learnopt.baselines import SCHEDULES, Settings
from learnopt.task import seed_of
from learnopt.training import Run

TUNING_SEED = 1000
"""Seed of the tuning runs: not among the evaluation seeds, which count from 0."""

LR_RANGE = (1e-5, 1.0)
"""Range of the TPE search, log-uniform; the grid is `GRID`."""

GRID = tuple(float(f"{lr:.6g}") for lr in np.geomspace(1e-4, 1.0, 14))

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


def tune_tpe(trial: Trial, trials: int, *, task: str, optimizer: str) -> list[tuple[Settings, Run]]:
    """Sequential TPE; the same trials at every call, so that stored runs can stand in for the first ones.

    The first two trials are Adam's usual rate under both schedules: tuning must not lose to habit by bad luck.
    """
    import optuna

    done: list[tuple[Settings, Run]] = []
    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=seed_of("tpe", task, optimizer) % 2**32)
        study = optuna.create_study(sampler=sampler)
        for schedule in SCHEDULES:
            study.enqueue_trial({"lr": 1e-3, "schedule": schedule})
        for _ in range(trials):
            asked = study.ask()
            lr = float(f"{asked.suggest_float('lr', *LR_RANGE, log=True):.6g}")
            settings = Settings(lr, asked.suggest_categorical("schedule", list(SCHEDULES)))
            run = trial(settings)
            study.tell(asked, value_of(run))
            done.append((settings, run))
    return done


def tune_grid(trial: Trial, trials: int, *, task: str, optimizer: str) -> list[tuple[Settings, Run]]:
    """Every rate of `GRID` with every schedule; `trials` plays no part."""
    grid = [Settings(lr, schedule) for schedule in SCHEDULES for lr in GRID]
    return [(settings, trial(settings)) for settings in grid]


TUNERS: dict[str, Callable[..., list[tuple[Settings, Run]]]] = {"optuna": tune_tpe, "grid": tune_grid}


def trials_of(tuner: str, trials: int) -> int:
    """Runs that one search takes."""
    return len(GRID) * len(SCHEDULES) if tuner == "grid" else trials


def tune(tuner: str, trial: Trial, trials: int, *, task: str, optimizer: str, steps: int) -> Tuned:
    """Search with the tuner called `tuner`; ties go to the first."""
    done = TUNERS[tuner](trial, trials, task=task, optimizer=optimizer)
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
