"""`select_model`: rank candidate models for a table from its meta-features and cheap probes."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from learnopt import carded
from learnopt.table_data import MAX_NUMERIC_CLASSES
from learnopt.task import seed_of
from learnopt.tuner.knowledge import FOLDER

CANDIDATES = ("linear", "boosting", "mlp-small", "mlp-medium", "mlp-large")
HIDDEN = {"mlp-small": (16,), "mlp-medium": (64, 64), "mlp-large": (256, 128)}
PROBE_SHARE, LEAST_PROBE, MOST_PROBE = 0.2, 60, 2000
"""Rows that a probe trains on: this share of the rows, within limits."""
PROBE_EPOCHS, EPOCHS = 60, 100
LEAST_ROWS = 20
FEATURES = ("log_rows", "log_columns", "classification", "log_classes", "largest_class", "log_rows_per_column", "best")


WEIGHTS = FOLDER.parent / "select_model" / "v1.safetensors"
RIDGES = (1.0, 10.0, 100.0, 1000.0)
MOST_LOST = 0.1
"""A choice loses at most this much score when ridges are compared: one hopeless table must not decide."""

Example = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Selection:
    """A ranking of candidate models.

    Attributes:
        ranking: names, the most promising first.
        expected: score that each is expected to be above (or below) the mean of all.
        probes: score of each after training on a small part of the rows: accuracy, or R2.
        seconds: what the probes took.
        task: "classification" or "regression".
    """

    ranking: tuple[str, ...]
    expected: dict[str, float]
    probes: dict[str, float]
    seconds: float
    task: str

    @property
    def best(self) -> str:
        """The most promising candidate."""
        return self.ranking[0]

    def build(self, name: str | None = None, seed: int = 0) -> Any:
        """A fresh scikit-learn estimator of the best candidate, or of another one by name."""
        return candidate(self.best if name is None else name, self.task, EPOCHS, seed)


def candidate(name: str, task: str, epochs: int = EPOCHS, seed: int = 0) -> Any:
    """The scikit-learn estimator called `name`.

    Raises:
        ValueError: for an unknown name.
    """
    classes = task == "classification"
    if name == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500) if classes else Ridge())
    if name == "boosting":
        return (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(random_state=seed)
    if name not in HIDDEN:
        raise ValueError(f"unknown candidate {name!r}; choose from: {', '.join(CANDIDATES)}")
    network = (MLPClassifier if classes else MLPRegressor)(
        hidden_layer_sizes=HIDDEN[name], max_iter=epochs, random_state=seed
    )
    model = make_pipeline(StandardScaler(), network)
    # networks are initialised for targets of about unit size
    return model if classes else TransformedTargetRegressor(model, transformer=StandardScaler())


def select_model(
    x: Any, y: Any, *, candidates: Sequence[str] = CANDIDATES, task: str = "auto", seed: int = 0
) -> Selection:
    """Rank candidate models for a table: each is trained on a small part of the rows, and a learned linear model turns
    the scores and what the table is like into the scores to expect on all rows.

    Args:
        x: features, `(rows, columns)`, finite numbers.
        y: target, `(rows,)`, nothing missing: words and whole numbers of at most 20 values are classes, other numbers
            quantities, unless `task` says so.
        candidates: names of `CANDIDATES`.
        task: "auto", "classification" or "regression".

    Raises:
        ValueError: what is wrong with the arguments.
    """
    features, target, kind = _checked(x, y, task, candidates)
    started = time.perf_counter()
    probes = probe_scores(features, target, kind, candidates, seed)
    seconds = time.perf_counter() - started
    expected = dict(zip(candidates, expect(table_features(features, target, kind), probes, candidates), strict=True))
    ranking = tuple(sorted(candidates, key=lambda name: -expected[name]))
    return Selection(ranking, expected, probes, seconds, kind)


def _checked(x: Any, y: Any, task: str, candidates: Sequence[str]) -> tuple[np.ndarray, np.ndarray, str]:
    features, target = np.asarray(x), _words_or_numbers(y)
    if features.dtype.kind == "O":  # columns of several types, or of types with missing values
        with contextlib.suppress(TypeError, ValueError):
            features = features.astype(np.float64)
    if task not in ("auto", "classification", "regression"):
        raise ValueError(f"task must be auto, classification or regression, got {task!r}")
    if features.dtype.kind not in "fiub" or features.ndim != 2 or not np.isfinite(features.astype(float)).all():
        raise ValueError(f"x must be a table of finite numbers, got shape {features.shape}, dtype {features.dtype}")
    if not features.shape[1]:
        raise ValueError(f"x must have at least one column, got shape {features.shape}")
    if target.shape != features.shape[:1]:
        raise ValueError(f"y must have one value per row, got shape {target.shape} for {len(features)} rows")
    if len(target) < LEAST_ROWS:
        raise ValueError(f"{len(target)} rows are too few, at least {LEAST_ROWS} are needed")
    if not candidates:
        raise ValueError(f"no candidates; choose from: {', '.join(CANDIDATES)}")
    for name in candidates:
        candidate(name, "classification")
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        raise ValueError("y holds values that are not finite; drop those rows first")
    if task == "regression" and target.dtype.kind not in "fiub":
        raise ValueError(f"task is regression, but y holds {target.dtype}, such as {str(target[0])!r}")
    if task == "classification" and target.dtype.kind == "f" and (target % 1).any():
        raise ValueError(f"task is classification, but y holds fractions, such as {target[target % 1 != 0][0]}")
    distinct = np.unique(target)
    if len(distinct) < 2:
        raise ValueError(f"y never changes: it is always {target[:1].tolist()[0]!r}")
    quantity = target.dtype.kind == "f" or (target.dtype.kind in "iu" and len(distinct) > MAX_NUMERIC_CLASSES)
    kind = task if task != "auto" else "regression" if quantity else "classification"
    return features.astype(np.float64), target, kind


def _words_or_numbers(y: Any) -> np.ndarray:
    """`y` as an array of numbers or of words, whatever holds them.

    Raises:
        ValueError: a value is missing.
    """
    values = np.asarray(y)
    if values.dtype.kind in "OU" and values.ndim == 1:
        # from the start: numpy has made a word of every number among words, NaN too
        values = np.asarray(y, dtype=object)
        for row, value in enumerate(values):
            if _missing(value):
                raise ValueError(f"y has no value ({value!r}) in row {row}; drop such rows first")
        if all(isinstance(value, Number | np.bool_) for value in values):
            values = np.array(values.tolist())
            return values.astype(np.float64) if values.dtype.kind == "O" else values  # of Decimal, say
        values = values.astype(str)
    return values


def _missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA is neither equal to itself nor not
        return True


def table_features(x: np.ndarray, y: np.ndarray, task: str) -> list[float]:
    """What a table is like: all of `FEATURES` but the last."""
    classes = task == "classification"
    counts = np.unique(y, return_counts=True)[1] if classes else np.array([len(y)])
    return [
        math.log(len(x)), math.log(x.shape[1]), float(classes), math.log(len(counts)), float(counts.max() / len(y)),
        math.log(len(x) / x.shape[1]),
    ]  # fmt: skip


def probe_scores(x: np.ndarray, y: np.ndarray, task: str, candidates: Sequence[str], seed: int) -> dict[str, float]:
    """Score of each candidate, trained on a few rows for a few epochs, on other rows.

    A class that chance leaves out of the few rows is brought in by dividing the rows class by class.
    """
    rows = int(min(len(x) // 2, MOST_PROBE, max(LEAST_PROBE, PROBE_SHARE * len(x))))
    rng = np.random.default_rng(seed_of("probe", seed))
    order = rng.permutation(len(x))
    if task == "classification":
        classes = np.unique(y, return_inverse=True)[1][order]
        if len(np.unique(classes[:rows])) < classes.max() + 1:
            order = order[_spread(classes)]
    train, test = order[:rows], order[rows : 5 * rows]
    return {name: score(name, x, y, task, train, test, PROBE_EPOCHS, seed) for name in candidates}


def _spread(classes: np.ndarray) -> np.ndarray:
    """An order, `(rows,)`, in which every part from the start has its share of every class, the first rows one of each.

    Args:
        classes: `(rows,)`, whole numbers from 0 without gaps.
    """
    counts = np.bincount(classes)
    by_class = np.argsort(classes, kind="stable")
    place = np.empty(len(classes))
    place[by_class] = np.concatenate([np.arange(count) / count for count in counts])
    return np.argsort(place, kind="stable")


def score(
    name: str, x: np.ndarray, y: np.ndarray, task: str, train: np.ndarray, test: np.ndarray, epochs: int, seed: int
) -> float:
    """Accuracy, or R2 within -1 to 1, of a candidate on the rows `test`; training that fails scores lowest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            model = clone(candidate(name, task, epochs, seed)).fit(x[train], y[train])
            return float(np.clip(model.score(x[test], y[test]), -1.0, 1.0))
        except ValueError:  # one class among the rows, or weights that are not finite
            return 0.0 if task == "classification" else -1.0


def inputs(table: list[float], probes: dict[str, float], candidates: Sequence[str]) -> torch.Tensor:
    """What the ranking model reads, `(candidates, inputs)`: the candidate, its probe against the others, the table."""
    scores = torch.tensor([probes[name] for name in candidates])
    own = torch.nn.functional.one_hot(torch.tensor([CANDIDATES.index(n) for n in candidates]), len(CANDIDATES)).float()
    meta = torch.tensor([*table, float(scores.max())])
    behind = (scores - scores.max())[:, None]
    crossed = (own[:, :, None] * meta).flatten(1)
    return torch.cat([own, behind, own * behind, behind * meta, crossed], 1)


@lru_cache(maxsize=1)
def _weights(path: Path = WEIGHTS) -> dict[str, torch.Tensor]:
    data, _ = carded.read_bytes(path)
    return carded.tensors_of(path, data)


def expect(table: list[float], probes: dict[str, float], candidates: Sequence[str]) -> list[float]:
    """Expected score of each candidate on all rows, less the mean of all candidates."""
    w = _weights()
    seen = (inputs(table, probes, candidates) - w["mean"]) / w["deviation"]
    found: list[float] = (seen @ w["weights"]).tolist()
    return found


def full_scores(
    x: np.ndarray, y: np.ndarray, task: str, candidates: Sequence[str], seed: int
) -> dict[str, tuple[float, float]]:
    """Score and seconds of each candidate, trained on three quarters of the rows: what a ranking is judged by."""
    train, test = train_test_split(np.arange(len(x)), random_state=seed, test_size=0.25)
    found = {}
    for name in candidates:
        started = time.perf_counter()
        value = score(name, x, y, task, train, test, EPOCHS, seed)
        found[name] = (value, time.perf_counter() - started)
    return found


def fit(examples: Sequence[Example], ridge: float | None = None) -> dict[str, torch.Tensor]:
    """Weights of the ranking model, by ridge regression.

    Args:
        examples: per table, `inputs` and the scores of the candidates on all rows.
        ridge: None: the one of `RIDGES` whose first choices lose the least score on tables left out (five folds).
    """
    if ridge is None:
        ridge = min(RIDGES, key=lambda r: _left_out(examples, r))
    x = torch.cat([seen for seen, _ in examples])
    y = torch.cat([scores - scores.mean() for _, scores in examples])
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    z = (x - mean) / deviation
    weights = torch.linalg.solve(z.T @ z + ridge * torch.eye(z.shape[1]), z.T @ y)
    return {"mean": mean, "deviation": deviation, "weights": weights}


def _left_out(examples: Sequence[Example], ridge: float) -> float:
    """Mean score that the first choices lose on tables left out."""
    lost = []
    for fold in range(5):
        w = fit([e for i, e in enumerate(examples) if i % 5 != fold], ridge)
        for seen, scores in examples[fold::5]:
            chosen = int((((seen - w["mean"]) / w["deviation"]) @ w["weights"]).argmax())
            lost.append(min(MOST_LOST, float(scores.max() - scores[chosen])))
    return float(np.mean(lost)) if lost else math.inf
