"""Pruners on studies of scikit-learn's MLPs: three data sets, 120 configurations each, 50 epochs.

    python benchmarks/pruners_mlp.py --out results/stopper

Trials of `pruners.py` differ by learning rate, schedule and seed; these differ by learning rate, batch size, depth,
width, L2 penalty and optimizer, as people's do. A study takes some of a data set's configurations in random order and
runs in Optuna; each trial reports its validation loss after every epoch and returns the least one. Every pruner gets
the same trials. The runs are kept beside the record (`mlp-runs.json`) and used again.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from joblib import Parallel, delayed
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, PatientPruner, SuccessiveHalvingPruner
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from learnopt.atomic import write_bytes
from learnopt.integrations.optuna_pruner import LearnedPruner
from learnopt.provenance import write_record

EPOCHS, CONFIGURATIONS = 50, 120
NEAR = 0.01
SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True), "batch": IntDistribution(16, 128, log=True),
    "layers": IntDistribution(1, 3), "units": IntDistribution(16, 181, log=True),
    "alpha": FloatDistribution(1e-6, 1.0, log=True), "solver": CategoricalDistribution(("adam", "sgd")),
}  # fmt: skip
DATA: dict[str, Callable[[], tuple[Any, Any]]] = {
    "digits": lambda: load_digits(return_X_y=True),
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
    "generated": lambda: make_classification(
        1500, 20, n_informative=8, n_redundant=4, n_classes=3, flip_y=0.1, random_state=1
    ),
}
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "LearnedPruner()": LearnedPruner,
    "the same, parameters not told": lambda: LearnedPruner(use_parameters=False),
    "threshold=0.6": lambda: LearnedPruner(threshold=0.6),
    "Median": MedianPruner,
    "Successive Halving": SuccessiveHalvingPruner,
    "Hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=EPOCHS),
    "Patient (3) around Median": lambda: PatientPruner(MedianPruner(), patience=3),
}
Run = dict[str, Any]
"""`params` and `losses`."""


def train(name: str, number: int) -> Run:
    """Configuration `number` on a data set."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([number, sorted(DATA).index(name)])
    p = {
        "lr": 10 ** rng.uniform(-4, -1), "batch": round(2 ** rng.uniform(4, 7)), "layers": int(rng.integers(1, 4)),
        "units": round(2 ** rng.uniform(4, 7.5)), "alpha": 10 ** rng.uniform(-6, 0),
        "solver": str(rng.choice(["adam", "sgd"])),
    }  # fmt: skip
    x, y = DATA[name]()
    x, valid, y, valid_y = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    scaler = StandardScaler().fit(x)
    x, valid = scaler.transform(x), scaler.transform(valid)
    model = MLPClassifier(
        (p["units"],) * p["layers"], solver=p["solver"], alpha=p["alpha"], batch_size=p["batch"],
        learning_rate_init=p["lr"], random_state=number,
    )  # fmt: skip
    losses: list[float] = []
    for _ in range(EPOCHS):
        try:
            model.partial_fit(x, y, classes=np.unique(y))
            losses.append(float(log_loss(valid_y, model.predict_proba(valid))))
        except ValueError:  # weights that are not finite any more
            losses.append(math.nan)
    return {"params": p, "losses": losses}


def replay(runs: list[Run], pruner: BasePruner) -> tuple[bool, float]:
    """Whether the best value is within `NEAR` of the unpruned study's, and the share of the epochs taken."""
    study, best, taken = optuna.create_study(pruner=pruner), math.inf, 0
    for run in runs:
        study.enqueue_trial(run["params"])
        trial, reached, pruned = study.ask(SPACE), math.inf, False
        for epoch, loss in enumerate(run["losses"], 1):
            trial.report(loss, epoch)
            taken += 1
            reached = min(reached, loss) if math.isfinite(loss) else reached
            if epoch < EPOCHS and trial.should_prune():
                pruned = True
                break
        if pruned or not math.isfinite(reached):
            state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL
            study.tell(trial, state=state)
        else:
            study.tell(trial, reached)
            best = min(best, reached)
    full = min(loss for run in runs for loss in run["losses"] if math.isfinite(loss))
    return best <= full + NEAR * full, taken / (EPOCHS * len(runs))


def judge(runs: dict[str, list[Run]], trials: int, pruner: str, seeds: int) -> dict[str, Any]:
    """One row: every data set's share of studies kept, and of epochs taken."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    row: dict[str, Any] = {"trials": trials, "pruner": pruner}
    for name, of_data in runs.items():
        orders = [np.random.default_rng([seed, trials]).permutation(CONFIGURATIONS)[:trials] for seed in range(seeds)]
        found = [replay([of_data[i] for i in order], PRUNERS[pruner]()) for order in orders]
        row[name] = {"near": float(np.mean([f[0] for f in found])), "compute": float(np.mean([f[1] for f in found]))}
    for key in ("near", "compute"):
        row[key] = float(np.mean([row[name][key] for name in runs]))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/stopper"))
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 60, 120])
    parser.add_argument("--seeds", type=int, default=16, help="studies per data set")
    parser.add_argument("--workers", type=int, default=4)
    a = parser.parse_args()
    kept = a.out / "mlp-runs.json"
    if not kept.exists():
        jobs = [(name, i) for name in DATA for i in range(CONFIGURATIONS)]
        done = Parallel(a.workers)(delayed(train)(*job) for job in jobs)
        runs = {name: [run for (n, _), run in zip(jobs, done, strict=True) if n == name] for name in DATA}
        write_bytes(kept, json.dumps(runs).encode())
    runs = json.loads(kept.read_text())
    rows = Parallel(a.workers)(delayed(judge)(runs, n, name, a.seeds) for n in a.trials for name in PRUNERS)
    for row in rows:
        each = "  ".join(f"{name} {row[name]['near']:.0%} at {row[name]['compute']:.0%}" for name in runs)
        print(f"{row['trials']:4d} {row['pruner']:32s} {row['near']:.0%} at {row['compute']:.0%}   {each}")
    print(f"wrote {write_record(a.out / 'pruners-mlp.json', optuna=optuna.__version__, seeds=a.seeds, rows=rows)}")


if __name__ == "__main__":
    main()
