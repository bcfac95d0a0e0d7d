"""A task from any CSV file: numeric and categorical columns, missing values, a header or none."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path

import numpy as np
import torch

from learnopt.table_data import FeatureEncoder, TargetEncoder, target_column
from learnopt.table_file import read_frame
from learnopt.task import Task
from learnopt.tasks.fixed import given_split
from learnopt.tasks.networks import mlp
from learnopt.tasks.rows import cross_entropy, squared_error

CSV_PREFIX = "csv:"
MAX_ROWS, MIN_ROWS, MAX_VALID_ROWS = 20_000, 20, 1000
LONGEST_NAME = 80


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
    column = target_column(frame, query, location)
    order = np.random.default_rng(0).permutation(len(frame))[:MAX_ROWS]
    frame = frame.iloc[order].dropna(subset=[column]).reset_index(drop=True)
    if len(frame) < MIN_ROWS:
        raise ValueError(f"{location}: {len(frame)} rows with a target {column!r}, at least {MIN_ROWS} are needed")
    train_rows = max(int(0.75 * len(frame)), len(frame) - MAX_VALID_ROWS)
    inputs, wanted = frame.drop(columns=[column]), TargetEncoder(frame[column], train_rows, location)
    features = FeatureEncoder(inputs.iloc[:train_rows], location).encode(inputs)
    target, outputs = wanted.encode(frame[column]), wanted.outputs
    objective = cross_entropy if target.dtype == torch.int64 else squared_error
    called = "-".join([Path(location).stem, *([column] if query else [])])  # two targets of a file are two tasks
    data = (features, target)
    return given_split(
        _task_name(called),
        "mlp",
        CSV_PREFIX + Path(location).name,
        (features[:train_rows], target[:train_rows]),
        (features[train_rows:], target[train_rows:]),
        partial(mlp, [features.shape[1], 64, 32, outputs]),
        steps=500,
        objective=objective,
        fingerprint=hashlib.sha256(b"".join(t.numpy().tobytes() for t in data)).hexdigest(),
    )


def _task_name(called: str) -> str:
    """A name that files can have; with a digest where letters of other scripts, or too many, would be lost."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", called)
    if called.isascii() and len(name) <= LONGEST_NAME:
        return f"csv-{name}"
    return f"csv-{name[:LONGEST_NAME].strip('-')}-{hashlib.sha256(called.encode()).hexdigest()[:8]}".replace("--", "-")
