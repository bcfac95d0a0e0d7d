"""Recorded runs as a table in which ways of tuning are played through: every trial is looked up, none is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna
import pandas as pd

from learnopt.baselines import SCHEDULES
from learnopt.tuner.knowledge import Knowledge
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import PARTS, Probe, half_of
from learnopt.tuner.search import Search, Stage

MOST = 3.0
"""Regrets count at most this much: a diverged run is this bad."""


@dataclass
class World:
    """One task with one seed: final validation losses of `(schedule, lr)` at torch's default weight decay."""

    task: str
    seed: int
    steps: int
    rates: np.ndarray
    final: np.ndarray  # (len(SCHEDULES), R)
    valid: list[np.ndarray]  # of constant runs, per rate
    train: list[np.ndarray]
    at: np.ndarray
    features: list[float]

    def column(self, lr: float) -> int:
        """The recorded rate nearest to `lr`."""
        return int(np.abs(np.log(self.rates) - math.log(min(max(lr, 1e-12), 1e12))).argmin())

    def regret_of(self, loss: float) -> float:
        """Log of a final loss over the best of the grid."""
        best = np.nanmin(self.final)
        return min(MOST, math.log(loss / best)) if math.isfinite(loss) and loss > 0 else MOST

    def regret(self, schedule: str, lr: float) -> float:
        """Regret of the run that is nearest to these settings."""
        return self.regret_of(float(self.final[list(SCHEDULES).index(schedule), self.column(lr)]))

    def probe(self, lr: float, parts: int) -> Probe:
        """The first parts of the constant run at the recorded rate nearest to `lr`, called `lr`."""
        r = self.column(lr)
        steps = [np.searchsorted(self.at, k * self.at[-1] / PARTS - 1e-9) for k in range(1, parts + 1)]
        index = np.clip(steps, 1, len(self.at) - 1)
        v, t = self.valid[r], self.train[r]
        train = tuple(float(t[i - 1]) for i in index)
        return Probe(lr, parts, float(v[0]), float(v[index[half_of(parts) - 1]]), float(v[index[-1]]), train)


def worlds(frame: pd.DataFrame) -> list[World]:
    """A task's worlds, one per seed; none where losses are not positive."""
    frame = frame[frame["weight_decay"] == frame["weight_decay"].min()]
    found = []
    for seed, runs in frame.groupby("seed"):
        rates = np.array(sorted(set(runs["lr"])))
        cell = runs.set_index(["schedule", "lr"])
        final = np.array([[np.asarray(cell.loc[(s, r), "valid"])[-1] for r in rates] for s in SCHEDULES])
        valid, train = ([np.asarray(cell.loc[("constant", r), c]) for r in rates] for c in ("valid", "train"))
        losses = np.concatenate([final.ravel(), *valid, *train])
        if losses[np.isfinite(losses)].min() <= 0:
            return []
        final = np.where(np.isfinite(final), final, np.nan)
        features = [float(runs[f"feature.{n}"].iloc[0]) for n in NAMES]
        at = np.asarray(runs["valid_steps"].iloc[0])
        found.append(
            World(str(runs["task"].iloc[0]), int(str(seed)), int(at[-1]), rates, final, valid, train, at, features)
        )
    return found


def searched(
    world: World, knowledge: Knowledge, budget: float = 1.0, plan: Sequence[Stage] | None = None, known: bool = True
) -> Search:
    """The tuner's search with probes from the table.

    Args:
        known: whether it sees the meta-features.
    """
    search = Search(knowledge, world.features if known else None, budget)
    if plan is not None:
        search._stages = list(plan)
    done: dict[float, int] = {}
    while (asked := search.ask()) is not None:
        lr, parts = asked
        search.tell(world.probe(lr, parts), parts - done.get(lr, 0))
        done[lr] = parts
    return search


def tuned(world: World, knowledge: Knowledge, budget: float = 1.0, known: bool = True) -> float:
    """Regret of the run that the tuner recommends."""
    found = searched(world, knowledge, budget, known=known).recommend()
    chosen = knowledge.portfolio[0] if found.doubt and budget else found.configuration
    return world.regret(chosen.schedule, chosen.lr)


def random_search(world: World, runs: int, seed: int) -> float:
    """Best of `runs` draws from the grid."""
    rng = np.random.default_rng([seed, world.seed, runs])
    losses = rng.choice(world.final.ravel(), runs, replace=False)
    return world.regret_of(float(np.nanmin(np.append(losses, np.nanmax(world.final)))))


def tpe(world: World, runs: int, seed: int) -> float:
    """Best of `runs` sequential trials of Optuna's TPE with its defaults."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed * 100 + world.seed))

        def trial(t: optuna.Trial) -> float:
            lr = t.suggest_float("lr", float(world.rates[0]), float(world.rates[-1]), log=True)
            return world.regret(t.suggest_categorical("schedule", list(SCHEDULES)), lr)

        study.optimize(trial, n_trials=runs)
    return float(study.best_value)


def restricted(knowledge: Knowledge) -> Knowledge:
    """The knowledge about torch's default weight decay alone, which the recorded grid is confined to."""
    count = len(SCHEDULES)
    members = tuple({k: v[:count] if k in ("out", "table") else v for k, v in w.items()} for w in knowledge.members)
    listed = dict.fromkeys(c._replace(weight_decay=knowledge.others[0][1]) for c in knowledge.portfolio)
    return replace(knowledge, others=knowledge.others[:count], members=members, portfolio=tuple(listed))


Method = Callable[[World], float]


def summary(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Mean over tasks of regrets `(tasks, seeds)` with a 95 % bootstrap interval over tasks, and the median."""
    each = values.mean(1)
    rng = np.random.default_rng(seed)
    means = each[rng.integers(0, len(each), (2000, len(each)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(each.mean()), "low": float(low), "high": float(high), "median": float(np.median(each))}
