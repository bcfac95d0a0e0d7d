"""A table's columns as tensors by scikit-learn's preprocessing, fitted on the training rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

MAX_CLASSES, MAX_CATEGORIES = 100, 50
# A numeric target with more distinct whole numbers than this is a quantity, not a class.
MAX_NUMERIC_CLASSES = 20
TASKS = ("auto", "classification", "regression")


def target_column(frame: pd.DataFrame, query: str, location: str) -> str:
    """The column called `query`, or number `query` from 0; by default the last one.

    Raises:
        ValueError: there is none; the choices are named.
    """
    columns = [str(c) for c in frame.columns]
    if not query:
        return columns[-1]
    if query in columns:
        return query
    if query.lstrip("-").isdigit() and -len(columns) <= int(query) < len(columns):
        return columns[int(query)]
    shown = ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "")
    raise ValueError(f"{location}: no target column {query!r}; choose from: {shown}")


class FeatureEncoder:
    """Imputed, standardised and one-hot encoded columns.

    Args:
        train: the rows to fit on.

    Attributes:
        notes: what was left out, and why; one line each.

    Raises:
        ValueError: no column can be used.
    """

    def __init__(self, train: pd.DataFrame, location: str) -> None:
        self.notes: list[str] = []
        numeric, words = [], []
        for name in train.columns:
            column, distinct = train[name], int(train[name].nunique())
            if distinct == 0:
                self.notes.append(f"column {name!r} is left out: all its cells are missing")
            elif pd.api.types.is_float_dtype(column):
                numeric.append(name)
            elif distinct == 1:
                self.notes.append(f"column {name!r} is left out: it never changes")
            elif distinct > min(MAX_CATEGORIES, len(train) // 2):
                self.notes.append(f"column {name!r} is left out: {distinct} different words are no categories")
            else:
                words.append(name)
        if not numeric and not words:
            raise ValueError(
                f"{location}: no usable feature: no column of numbers or of at most {MAX_CATEGORIES} categories"
            )
        self.numeric, self.words = numeric, words
        self._transformer = make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numeric),
            (
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="missing", missing_values=np.nan),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                words,
            ),
        ).fit(self._plain(train))

    def _plain(self, frame: pd.DataFrame) -> pd.DataFrame:
        plain = frame[self.numeric + self.words].astype(dict.fromkeys(self.words, object))
        return plain.where(plain.notna(), np.nan)

    def encode(self, frame: pd.DataFrame) -> Tensor:
        """`(rows, columns)`, within -20 to 20."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # categories first seen now count as none
            encoded = self._transformer.transform(self._plain(frame))
        return torch.tensor(np.asarray(encoded, dtype=np.float64).clip(-20, 20), dtype=torch.float32)

    def entry(self) -> dict[str, Any]:
        """The fitted preprocessing, for JSON: enough to do it again elsewhere."""
        found: dict[str, Any] = {"numeric": [], "categories": []}
        if self.numeric:
            imputer, scaler = (step for _, step in self._transformer.named_transformers_["pipeline-1"].steps)
            rows = zip(self.numeric, imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
            found["numeric"] = [
                {"column": c, "missing": float(m), "mean": float(a), "scale": float(s)} for c, m, a, s in rows
            ]
        if self.words:
            encoder = self._transformer.named_transformers_["pipeline-2"].steps[1][1]
            found["categories"] = [
                {"column": c, "values": [str(v) for v in values]}
                for c, values in zip(self.words, encoder.categories_, strict=True)
            ]
        return found


class TargetEncoder:
    """Class numbers, or values standardised by the training rows' mean and deviation.

    Args:
        column: the whole target, nothing missing; the first `train_rows` rows are for training.
        task: "auto": whole numbers of few values and words are classes, anything else is a quantity.

    Attributes:
        labels: the classes in order; None in regression.
        outputs: outputs that a model needs.

    Raises:
        ValueError: the target never changes, or is no target for the task.
    """

    def __init__(self, column: pd.Series, train_rows: int, location: str, task: str = "auto") -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        name, numeric = str(column.name), pd.api.types.is_float_dtype(column)
        if task == "regression" and not numeric:
            example = str(column.iloc[0])[:40]
            raise ValueError(f"{location}: the target {name!r} holds words, such as {example!r}: no regression")
        quantity = numeric and (column.nunique() > MAX_NUMERIC_CLASSES or bool((column % 1 != 0).any()))
        self.labels: list[str] | None = None
        self.mean, self.deviation, self.outputs = 0.0, 1.0, 1
        if task == "regression" or (task == "auto" and quantity):
            values = column.to_numpy(dtype=np.float64)[:train_rows]
            self.mean, self.deviation = float(values.mean()), float(values.std())
            if not self.deviation > 1e-12 * max(1.0, abs(self.mean)):
                raise ValueError(f"{location}: the target {name!r} never changes")
            return
        labels = np.unique(self._words(column))
        if len(labels) == 1:
            raise ValueError(f"{location}: the target {name!r} never changes: it is always {labels[0]!r}")
        most = min(MAX_CLASSES, len(column) // 2)
        if len(labels) > most:
            raise ValueError(
                f"{location}: the target {name!r} has {len(labels)} classes in {len(column)} rows, such as "
                f"{str(labels[0])[:40]!r}: at most {most} can be told apart"
            )
        self.labels, self.outputs = [str(label) for label in labels], len(labels)

    @staticmethod
    def _words(column: pd.Series) -> np.ndarray:
        if pd.api.types.is_float_dtype(column) and not (column % 1).any() and column.abs().max() < 2**53:
            column = column.astype(np.int64)  # classes that are whole numbers are called 0, 1, ..., as in the file
        return column.astype(str).to_numpy(dtype=object)

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return "regression" if self.labels is None else "classification"

    def encode(self, column: pd.Series) -> Tensor:
        """`(rows,)` int64 class numbers, or `(rows, 1)` float32."""
        if self.labels is None:
            values = column.to_numpy(dtype=np.float64)
            return torch.tensor((values - self.mean) / self.deviation, dtype=torch.float32)[:, None]
        return torch.tensor(
            np.searchsorted(np.array(self.labels, dtype=object), self._words(column)), dtype=torch.int64
        )

    def decode(self, outputs: Tensor) -> np.ndarray:
        """A model's outputs, `(rows, self.outputs)`, as labels or in the target's unit."""
        if self.labels is None:
            values: np.ndarray = outputs[:, 0].double().numpy() * self.deviation + self.mean
            return values
        words: np.ndarray = np.array(self.labels, dtype=object)[outputs.argmax(1).numpy()]
        return words
