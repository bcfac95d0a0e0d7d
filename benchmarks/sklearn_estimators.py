"""`LearnedMLPClassifier` and `LearnedMLPRegressor` beside scikit-learn's MLPs, all at their defaults, 5-fold.

    python benchmarks/sklearn_estimators.py --out results/sklearn

scikit-learn's are run as they are and behind a StandardScaler; ours scale inside. Log loss and R2 are over all held-out
predictions. scikit-learn's warn that 200 passes are too few on some of these; that is part of their defaults. Writes
`sklearn.json`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from learnopt.provenance import write_record
from learnopt.sklearn import LearnedMLPClassifier, LearnedMLPRegressor

CLASSES = {n: getattr(datasets, f"load_{n}") for n in ("iris", "wine", "breast_cancer", "digits")}
VALUES = {
    "diabetes": datasets.load_diabetes,
    "friedman1 (1,000 rows, noise 1)": lambda return_X_y: datasets.make_friedman1(1000, noise=1.0, random_state=0),
    "friedman2 (300 rows, noise 50)": lambda return_X_y: datasets.make_friedman2(300, noise=50.0, random_state=0),
}


def score(model: object, X: np.ndarray, y: np.ndarray, classes: bool, seed: int) -> dict[str, float]:
    """Held-out scores of five folds, and the seconds that they took."""
    folds = (StratifiedKFold if classes else KFold)(5, shuffle=True, random_state=seed)
    started = time.perf_counter()
    method = "predict_proba" if classes else "predict"
    found = cross_val_predict(model, X, y, cv=folds, method=method)
    seconds = {"seconds": time.perf_counter() - started}
    if classes:
        return {"accuracy": accuracy_score(y, found.argmax(1)), "log_loss": log_loss(y, found)} | seconds
    return {"r2": r2_score(y, found)} | seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/sklearn"))
    parser.add_argument("--seeds", type=int, default=3, help="of folds and models")
    a = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for name, load in {**CLASSES, **VALUES}.items():
        X, y = load(return_X_y=True)
        classes = name in CLASSES
        theirs, ours = (MLPClassifier, LearnedMLPClassifier) if classes else (MLPRegressor, LearnedMLPRegressor)
        for label, make in {
            theirs.__name__: lambda seed, kind=theirs: kind(random_state=seed),
            f"StandardScaler, {theirs.__name__}": lambda s, kind=theirs: make_pipeline(
                StandardScaler(), kind(random_state=s)
            ),
            ours.__name__: lambda seed, kind=ours: kind(random_state=seed),
        }.items():
            each = [score(make(seed), X, y, classes, seed) for seed in range(a.seeds)]
            row = {"data": name, "estimator": label}
            for key in each[0]:
                values = [e[key] for e in each]
                row |= {key: round(float(np.mean(values)), 4), f"{key}_sd": round(float(np.std(values, ddof=1)), 4)}
            rows.append(row)
            print(row, flush=True)
    path = write_record(a.out / "sklearn.json", sklearn=sklearn.__version__, seeds=a.seeds, rows=rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
