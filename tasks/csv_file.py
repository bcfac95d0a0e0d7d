"""A task from any CSV file: numeric and categorical columns, missing values, a header or none."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from learnopt.task import Task
from learnopt.tasks.fixed import given_split
from learnopt.tasks.networks import mlp
from learnopt.tasks.rows import cross_entropy, squared_error

CSV_PREFIX = "csv:"
MAX_ROWS, MIN_ROWS, MAX_VALID_ROWS = 20_000, 20, 1000
MAX_CLASSES, MAX_CATEGORIES = 100, 50
# A numeric target with more distinct whole numbers than this is a quantity, not a class.
MAX_NUMERIC_CLASSES = 20
# Larger numbers count as missing: their squares would not fit, and no real measurement is that large.
LARGEST = 1e30
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "?", "-"]


def csv_task(name: str) -> Task:
    """The task of `csv:FILE` or `csv:FILE?target=COLUMN`: a two-layer network predicts the target, by default the last
    column. A target column is named by the header or by its number from 0; whole numbers of few values and words
    are classes, anything else is standardised and regressed on. Three quarters of the rows are for training.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    location, _, query = name.removeprefix(CSV_PREFIX).partition("?target=")
    if not location:
        raise ValueError(f"{name!r} names no file; write {CSV_PREFIX}FILE or {CSV_PREFIX}FILE?target=COLUMN")
    frame = read_frame(location)
    column = _target_column(frame, query, location)
    order = np.random.default_rng(0).permutation(len(frame))[:MAX_ROWS]
    frame = frame.iloc[order].dropna(subset=[column]).reset_index(drop=True)
    if len(frame) < MIN_ROWS:
        raise ValueError(f"{location}: {len(frame)} rows with a target, at least {MIN_ROWS} are needed")
    train_rows = max(int(0.75 * len(frame)), len(frame) - MAX_VALID_ROWS)
    features = _features(frame.drop(columns=[column]), train_rows, location)
    target, outputs = _target(frame[column], train_rows, location)
    objective = cross_entropy if target.dtype == torch.int64 else squared_error
    return given_split(
        "csv-" + re.sub(r"[^A-Za-z0-9_-]+", "-", Path(location).stem),
        "mlp",
        CSV_PREFIX + Path(location).name,
        (features[:train_rows], target[:train_rows]),
        (features[train_rows:], target[train_rows:]),
        partial(mlp, [features.shape[1], 64, 32, outputs]),
        steps=500,
        objective=objective,
    )


def read_frame(location: str) -> pd.DataFrame:
    """The file's cells: floats where a column mostly holds numbers, else strings; names are the header or 0, 1, ...

    Raises:
        ValueError: for a file that is missing, empty, no text, or no table.
    """
    path = Path(location)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{location}: no such file") from None
    except OSError as error:
        raise ValueError(f"{location}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{location}: is no UTF-8 text, so no CSV file") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{location}: the file is empty")
    delimiter = max(",;\t|", key=lines[0].count)
    if not lines[0].count(delimiter):
        raise ValueError(f"{location}: one column only ({lines[0][:40]!r}...), a target and a feature are needed")
    try:
        frame = pd.read_csv(
            path, sep=delimiter, header=None, dtype=str, na_values=MISSING, skipinitialspace=True, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise ValueError(f"{location}: no CSV table: {str(error).strip().splitlines()[0]}") from None
    return _typed(frame)


def _numbers(column: pd.Series) -> pd.Series:
    """The column as floats, NaN where a cell is no number below `LARGEST`."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    return values.where(values.abs() < LARGEST)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the first row as header when none of its cells is a number and a column below is; turn numbers to floats."""
    body = frame.iloc[1:]
    first_is_text = _numbers(frame.iloc[0]).isna().all() and frame.iloc[0].notna().any()
    numeric_below = any(_mostly_numbers(body[c]) for c in frame.columns)
    unlike_below = all(frame.iloc[0][c] not in set(body[c]) for c in frame.columns)
    if first_is_text and (numeric_below or unlike_below):
        header = [str(cell) if isinstance(cell, str) else str(i) for i, cell in enumerate(frame.iloc[0])]
        frame = body.reset_index(drop=True)
        frame.columns = pd.Index([h if header.count(h) == 1 else f"{h}.{i}" for i, h in enumerate(header)])
    else:
        frame.columns = pd.Index([str(c) for c in frame.columns])
    return pd.DataFrame({c: _numbers(frame[c]) if _mostly_numbers(frame[c]) else frame[c] for c in frame.columns})


def _mostly_numbers(column: pd.Series) -> bool:
    present = int(column.notna().sum())
    return present > 0 and int(_numbers(column).notna().sum()) >= 0.9 * present


def _target_column(frame: pd.DataFrame, query: str, location: str) -> str:
    columns = [str(c) for c in frame.columns]
    if not query:
        return columns[-1]
    if query in columns:
        return query
    if query.lstrip("-").isdigit() and -len(columns) <= int(query) < len(columns):
        return columns[int(query)]
    raise ValueError(f"{location}: no target column {query!r}; choose from: {', '.join(columns)}")


def _features(frame: pd.DataFrame, train_rows: int, location: str) -> Tensor:
    """Imputed, standardised and one-hot encoded columns, fitted on the first `train_rows` rows, `(rows, columns)`."""
    train = frame.iloc[:train_rows]
    numeric = [c for c in frame.columns if pd.api.types.is_float_dtype(frame[c]) and train[c].notna().any()]
    words = [c for c in frame.columns if not pd.api.types.is_float_dtype(frame[c])]
    words = [c for c in words if 1 < train[c].nunique() <= min(MAX_CATEGORIES, train_rows // 2)]
    if not numeric and not words:
        raise ValueError(
            f"{location}: no usable feature: no column of numbers or of at most {MAX_CATEGORIES} categories"
        )
    transformer = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numeric),
        (
            make_pipeline(
                SimpleImputer(strategy="constant", fill_value="missing", missing_values=np.nan),
                OneHotEncoder(handle_unknown="ignore", sparse_output=False),
            ),
            words,
        ),
    )
    frame = frame.astype(dict.fromkeys(words, object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # categories first seen in validation rows count as none
        encoded = transformer.fit(frame.iloc[:train_rows]).transform(frame)
    return torch.tensor(np.asarray(encoded, dtype=np.float64).clip(-20, 20), dtype=torch.float32)


def _target(column: pd.Series, train_rows: int, location: str) -> tuple[Tensor, int]:
    """`(target, outputs)`: class numbers, or values standardised by the training rows' mean and deviation."""
    numeric = pd.api.types.is_float_dtype(column)
    if numeric and (column.nunique() > MAX_NUMERIC_CLASSES or (column % 1 != 0).any()):
        values = column.to_numpy(dtype=np.float64)
        mean, deviation = values[:train_rows].mean(), values[:train_rows].std()
        if deviation == 0:
            raise ValueError(f"{location}: the target {str(column.name)!r} never changes")
        return torch.tensor((values - mean) / deviation, dtype=torch.float32)[:, None], 1
    labels, numbers = np.unique(column.astype(str).to_numpy(dtype=object), return_inverse=True)
    if not 2 <= len(labels) <= min(MAX_CLASSES, len(column) // 2):
        raise ValueError(f"{location}: the target {str(column.name)!r} has {len(labels)} classes in {len(column)} rows")
    return torch.tensor(numbers, dtype=torch.int64), len(labels)
