"""Recorded runs as a table in which ways of tuning are played through: every trial is looked up, none is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import optuna
import pandas as pd

from learnopt.baselines import SCHEDULES
from learnopt.tuner.knowledge import Knowledge
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import SHARES, Probe, steps_of
from learnopt.tuner.search import Search

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
    short: dict[tuple[float, float], Probe]  # by (lr, share), on the tuner's own grid of rates
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

    def probe(self, lr: float, share: float) -> Probe:
        """The recorded short run."""
        return self.short[round(lr, 9), share]


def worlds(frame: pd.DataFrame, short: pd.DataFrame) -> list[World]:
    """A task's worlds, one per seed; none where losses are not positive.

    Args:
        frame: full runs.
        short: short cosine runs with the same initialisations and batches.
    """
    frame = frame[frame["weight_decay"] == frame["weight_decay"].min()]
    found = []
    for seed, runs in frame.groupby("seed"):
        rates = np.array(sorted(set(runs["lr"])))
        cell = runs.set_index(["schedule", "lr"])
        final = np.array([[np.asarray(cell.loc[(s, r), "valid"])[-1] for r in rates] for s in SCHEDULES])
        constant = runs[runs["schedule"] == "constant"]
        losses = np.concatenate([final.ravel(), *constant["valid"], *constant["train"]])
        if losses[np.isfinite(losses)].min() <= 0:
            return []
        final = np.where(np.isfinite(final), final, np.nan)
        features = [float(runs[f"feature.{n}"].iloc[0]) for n in NAMES]
        steps = int(runs["steps"].iloc[0])
        probes = probes_of(short[short["seed"] == seed], steps)
        found.append(World(str(runs["task"].iloc[0]), int(str(seed)), steps, rates, final, probes, features))
    return found


def probes_of(runs: pd.DataFrame, steps: int) -> dict[tuple[float, float], Probe]:
    """Recorded short runs as probes, by learning rate and share."""
    found = {}
    for run in runs[runs["fraction"].isin(SHARES)].to_dict("records"):
        valid, train, share = run["valid"], run["train"], float(run["fraction"])
        half, end = float(valid[len(valid) // 2]), float(valid[-1])
        probe = Probe(run["lr"], share, steps_of(share, steps), float(valid[0]), half, end, tuple(map(float, train)))
        found[round(run["lr"], 9), share] = probe
    return found


def searched(world: World, knowledge: Knowledge, budget: float = 1.0) -> Search:
    """The tuner's search with probes from the table.

    Args:
        budget: for probes, in full runs.
    """
    search = Search(knowledge, world.features, world.steps, int(budget * world.steps))
    while (lr := search.ask()) is not None:
        probe = world.probe(lr, search.share)
        search.tell(probe, probe.steps)
    return search


def tuned(world: World, knowledge: Knowledge, budget: float = 1.0) -> float:
    """Regret of the run that the tuner recommends."""
    chosen = searched(world, knowledge, budget).recommend().configuration
    return world.regret(chosen.schedule, chosen.lr)


def best_probed(world: World, share: float) -> float:
    """Regret of a full run at the rate whose probe of this length did best, of all rates of the tuner's grid."""
    probes = [p for (_, s), p in world.short.items() if s == share and not p.failed]
    return world.regret("cosine", min(probes, key=lambda p: p.valid).lr) if probes else MOST


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


def tuned_or_probed(world: World, knowledge: Knowledge, budget: float = 1.0, least: float = -math.inf) -> float:
    """Regret of the better of the run that the tuner recommends and its best probe, whose weights it keeps.

    Args:
        least: regrets count at least this much; a probe may end below all full runs of the grid.
    """
    search = searched(world, knowledge, budget)
    chosen = search.recommend().configuration
    found = min(world.regret(chosen.schedule, chosen.lr), *(world.regret_of(p.valid) for p in search.probes))
    return max(found, least)


def restricted(knowledge: Knowledge) -> Knowledge:
    """The list without other weight decays than torch's default, which the recorded grid is confined to."""
    listed = dict.fromkeys(c._replace(weight_decay=knowledge.weight_decay) for c in knowledge.portfolio)
    return replace(knowledge, portfolio=tuple(listed))


Method = Callable[[World], float]


def summary(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Mean over tasks of regrets `(tasks, seeds)` with a 95 % bootstrap interval over tasks, and the median."""
    each = values.mean(1)
    rng = np.random.default_rng(seed)
    means = each[rng.integers(0, len(each), (2000, len(each)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(each.mean()), "low": float(low), "high": float(high), "median": float(np.median(each))}
