"""Pruners on studies replayed from recorded runs of held-out data, through Optuna itself.

    learnopt record corpus --tasks held_out --optimizers adamw --rates 20 --seeds 3  # and meta_valid
    python benchmarks/pruners.py corpus --out results/stopper

A study draws its trials from one task's recorded runs (learning rate, schedule, weight decay, optimizer, seed) at
random; every pruner gets the same trials in the same order. A trial reports its recorded validation losses and returns
the best one. Two questions are asked of a study: is the best value of all trials, pruned ones included, within 1 % of
the best that the unpruned study sees, and is the best completed trial's? Without a pruner both are so by definition.
Intervals are 95 % bootstraps over tasks. Writes `pruners.json`.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    SuccessiveHalvingPruner,
)

from learnopt.integrations.optuna_pruner import LearnedPruner
from learnopt.provenance import write_record
from learnopt.stopping import curves, weights

NEAR = 0.01
FIRST = 5
"""Trials whose compute is reported by itself."""


def pruners(chosen: str, thresholds: list[float], moments: int) -> dict[str, Callable[[], BasePruner]]:
    """Name to a maker."""
    found: dict[str, Callable[[], BasePruner]] = {
        "median": MedianPruner,
        "median, no start-up": partial(MedianPruner, n_startup_trials=1),
        "successive halving": SuccessiveHalvingPruner,
        "hyperband": partial(HyperbandPruner, min_resource=1, max_resource=moments),
        "patient (3) median": partial(PatientPruner, MedianPruner(), patience=3),
        "learned": partial(LearnedPruner, weights=chosen),
        "learned, leaders too": partial(LearnedPruner, weights=chosen, prune_leaders=True),
    }
    return found | {f"learned, {t:g}": partial(LearnedPruner, weights=chosen, threshold=t) for t in thresholds}


def replay(trials: np.ndarray, pruner: BasePruner) -> tuple[float, float, float, float]:
    """`(best value, best completed value, share of the steps, share of the steps of the first trials)`."""
    study = optuna.create_study(pruner=pruner, study_name=f"replay-{id(trials)}")
    reached, completed, taken = [], [], []
    for values in trials:
        trial = study.ask()
        pruned = False
        for step, value in enumerate(values, 1):
            trial.report(float(value), step)
            if step < len(values) and trial.should_prune():
                pruned = True
                break
        best = float(np.nanmin(np.where(np.isfinite(values[:step]), values[:step], np.inf)))
        taken.append(step / len(values))
        reached.append(best)
        if pruned or not math.isfinite(best):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, best)
            completed.append(best)
    return min(reached), min(completed, default=math.inf), float(np.mean(taken)), float(np.mean(taken[:FIRST]))


def interval(values: np.ndarray, seed: int) -> list[float]:
    """95 % interval of the mean over tasks, `values` of shape `(tasks, ...)`."""
    picks = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    return [
        round(float(q), 4) for q in np.quantile(values[picks].mean(tuple(range(1, values.ndim + 1))), (0.025, 0.975))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--out", type=Path, default=Path("results/stopper"))
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 120])
    parser.add_argument("--tasks", type=int, help="so many tasks, drawn at random; all without")
    parser.add_argument("--name", default="pruners", help="of the record")
    parser.add_argument("--seeds", type=int, default=2, help="studies per task")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.005, 0.02, 0.05])
    parser.add_argument("--only", nargs="*", help="names of pruners; all without")
    a = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    loaded, runs = weights.load(a.weights), curves.read(a.corpus)
    known = {d for i in runs.numbers for d in runs.datasets[i].split(",")} & set(loaded.card["datasets"])
    assert not known, f"the pruner has learned from {known}"
    drawn = np.random.default_rng(0).permutation(runs.numbers)[: a.tasks].tolist()
    tables = {i: runs.values[runs.task == i][:, 1:].numpy() for i in sorted(drawn)}
    makers = pruners(a.weights, a.thresholds, next(iter(tables.values())).shape[1])
    rows = []
    for count in a.trials:
        for name, make in makers.items():
            if a.only and name not in a.only:
                continue
            started, each = time.perf_counter(), []
            for i, values in tables.items():
                for seed in range(a.seeds):
                    trials = values[np.random.default_rng([i, seed]).permutation(len(values))[:count]]
                    full = float(np.nanmin(trials))
                    best, completed, compute, first = replay(trials, make())
                    bound = full + NEAR * abs(full)
                    each.append((best <= bound, completed <= bound, compute, first))
            table = np.array(each, dtype=float).reshape(len(tables), a.seeds, 4)
            row = {"trials": count, "pruner": name, "seconds": round(time.perf_counter() - started, 1)}
            for k, column in enumerate(("near", "completed_near", "compute", f"compute_of_first_{FIRST}")):
                row |= {column: round(float(table[..., k].mean()), 4), f"{column}_interval": interval(table[..., k], 0)}
            rows.append(row)
            shares = [
                f"{key} {row[key]:.1%}" for key in ("near", "completed_near", "compute", f"compute_of_first_{FIRST}")
            ]
            print(f"{count:4} {row['pruner']:24} {'  '.join(shares)}", flush=True)
    path = write_record(
        a.out / f"{a.name}.json", optuna=optuna.__version__, weights=loaded.card["sha256"], seeds=a.seeds,
        tasks=[runs.tasks[i] for i in tables], rows=rows,
    )  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
