"""Tuning for a table in a file: rows split, a fully connected network tuned, trained and used."""

from __future__ import annotations

import copy
import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from learnopt import carded
from learnopt.atomic import write_bytes
from learnopt.table_data import FeatureEncoder, TargetEncoder, target_column
from learnopt.table_file import is_sampled, read_frame, read_rows
from learnopt.task import seed_of
from learnopt.tuner.data import source, usual_loss
from learnopt.tuner.knowledge import Knowledge
from learnopt.tuner.probing import judge
from learnopt.tuner.random_state import random_state_kept, seeded
from learnopt.tuner.result import TuneResult
from learnopt.tuner.tune import tune

LEAST_ROWS, VALID_SHARE, MOST_VALID = 20, 0.25, 2000
CHECKS = 20
"""Validations of the final training; the best weights are kept."""


@dataclass
class Table:
    """A table ready for a network.

    Attributes:
        train, valid: `(features, target)`.
        notes: what the user should know of what was done to the columns.
        formats: how the file's columns of numbers are written.
    """

    location: str
    column: str
    features: FeatureEncoder
    target: TargetEncoder
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    notes: list[str]
    formats: Mapping[str, str]

    def entry(self) -> dict[str, Any]:
        """For JSON: what was predicted from what, and the preprocessing."""
        target = self.target
        return {
            "data": self.location, "target": self.column, "task": target.task, "labels": target.labels,
            "target_mean": target.mean, "target_deviation": target.deviation, "train_rows": len(self.train[0]),
            "valid_rows": len(self.valid[0]), "notes": self.notes, "preprocessing": self.features.entry(),
        }  # fmt: skip

    def summary(self) -> str:
        """One line that says what is taken for the target, the task and the features."""
        target, features = self.target, self.features
        task = "regression" if target.labels is None else f"classification, {target.outputs} classes"
        columns = f"{len(features.numeric)} columns of numbers and {len(features.words)} of words"
        rows = f"{len(self.train[0])} rows to train on, {len(self.valid[0])} to validate"
        return f"target {self.column!r}: {task}; {columns}; {rows}"

    def network(self, hidden: tuple[int, ...]) -> nn.Module:
        """A freshly initialised fully connected network for this table."""
        sizes = [self.train[0].shape[1], *hidden, self.target.outputs]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def rows_of(self, location: str, header: str) -> tuple[Tensor, list[str]]:
        """The features of another file's rows, and notes on what could not be read.

        Raises:
            ValueError: it lacks a column, or one that was of numbers holds words.
        """
        frame = read_rows(location, header, self.features.words, self.formats)
        if not len(frame):
            raise ValueError(f"{location}: no rows to predict")
        lacking = [c for c in self.features.numeric + self.features.words if c not in frame.columns]
        if lacking:
            raise ValueError(f"{location}: no column {lacking[0]!r}, which {self.location} has")
        for name in self.features.numeric:
            values = pd.to_numeric(frame[name], errors="coerce")
            if frame[name].notna().any() and values.isna().all():
                example = str(frame[name].dropna().iloc[0])[:40]
                said = f"column {name!r} holds words, such as {example!r}; {self.location} has numbers there"
                raise ValueError(f"{location}: {said}")
            frame[name] = values
        return self.features.encode(frame), _unread(frame, self.features.numeric)


def prepare(location: str, target: str = "", task: str = "auto", header: str = "auto", seed: int = 0) -> Table:
    """Read a file and split its rows at random: three quarters for training, at most 2,000 for validation.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    frame = read_frame(location, header)
    column = target_column(frame, target, location)
    present = frame.dropna(subset=[column])
    notes = [f"of the file's rows {len(frame)} were read, drawn at random"] if is_sampled(location) else []
    if len(present) < len(frame):
        notes.append(f"{len(frame) - len(present)} rows are left out: their {column!r} is missing or infinite")
    if len(present) < LEAST_ROWS:
        raise ValueError(f"{location}: {len(present)} rows with a target {column!r}, at least {LEAST_ROWS} are needed")
    order = np.random.default_rng(seed_of("split", seed)).permutation(len(present))
    present = present.iloc[order].reset_index(drop=True)
    train_rows = max(int((1 - VALID_SHARE) * len(present)), len(present) - MOST_VALID)
    wanted = TargetEncoder(present[column], train_rows, location, task)
    inputs = present.drop(columns=[column])
    encoder = FeatureEncoder(inputs.iloc[:train_rows], location)
    x, y = encoder.encode(inputs), wanted.encode(present[column])
    return Table(
        location, column, encoder, wanted, (x[:train_rows], y[:train_rows]), (x[train_rows:], y[train_rows:]),
        notes + encoder.notes + _unread(frame, encoder.numeric), frame.attrs.get("formats", {}),
    )  # fmt: skip


def _unread(frame: pd.DataFrame, columns: list[str]) -> list[str]:
    """Notes on the cells of columns of numbers that hold none."""
    unread: dict[str, tuple[int, str]] = frame.attrs.get("unread", {})
    return [
        f"column {c!r}: {count} cells are no finite numbers, such as {cell!r}; they count as missing"
        for c, (count, cell) in unread.items()
        if c in columns
    ]


def tune_table(
    table: Table, hidden: tuple[int, ...], optimizer: str, steps: int | None, budget: int | None, seconds: float | None,
    batch_size: int | None, seed: int, knowledge: Knowledge | None = None,
) -> TuneResult:  # fmt: skip
    """`tune` for a fully connected network on a table."""
    return tune(
        lambda: table.network(hidden), table.train, table.valid, optimizer=optimizer, steps=steps, budget=budget,
        seconds=seconds, batch_size=batch_size, seed=seed, knowledge=knowledge,
    )  # fmt: skip


@dataclass
class Fitted:
    """A network trained as recommended.

    Attributes:
        loss: validation loss of the weights that were kept.
        score: name and value of what people read: accuracy, or R2.
        steps: after which the kept weights were found.
    """

    table: Table
    model: nn.Module
    loss: float
    score: tuple[str, float]
    steps: int

    @property
    def rows(self) -> int:
        """Validation rows."""
        return len(self.table.valid[0])

    def entry(self) -> dict[str, Any]:
        """For JSON."""
        return {"trained_loss": self.loss, self.score[0]: self.score[1], "trained_steps": self.steps}

    def save(self, path: Path) -> Path:
        """Write the weights; how to use them is in the `tuning.json` beside."""
        tensors = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        return carded.write(path, tensors, {"kind": "network of learnopt tune", "see": "tuning.json"})

    def predict_to(self, rows: Tensor, path: Path) -> Path:
        """Write a prediction per row."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow([self.table.column])
        with torch.no_grad():
            writer.writerows([[value] for value in self.table.target.decode(self.model(rows))])
        write_bytes(path, buffer.getvalue().encode())
        return path


def fit(
    table: Table, hidden: tuple[int, ...], result: TuneResult, seed: int = 0,
    stepped: Callable[[int], None] = lambda step: None,
) -> Fitted:  # fmt: skip
    """Train a network as `result` recommends, and keep the weights with the least validation loss, a probe's too.

    Args:
        stepped: told the number of steps done.
    """
    with random_state_kept():
        data = source(table.train, table.valid, result.batch_size, seed)
        seeded("model", seed)
        model, stream, loss = table.network(hidden), data.stream(), usual_loss(data)
        optimizer, scheduler = result.build(model)
        kept, best, at = copy.deepcopy(model.state_dict()), judge(model, loss, data), 0
        checks = {round(result.steps * (i + 1) / CHECKS) for i in range(CHECKS)}
        for step in range(result.steps):
            optimizer.zero_grad()
            value = loss(model, next(stream))
            torch.autograd.backward(value)
            optimizer.step()
            scheduler.step()
            stepped(step + 1)
            if step + 1 in checks and (judged := judge(model, loss, data)) < best:
                kept, best, at = copy.deepcopy(model.state_dict()), judged, step + 1
        model.load_state_dict(kept)
        if (probe := result.best_probe) is not None and probe.valid < best:
            best, at = result.keep_better(model, best), probe.steps
        model.eval()
        return Fitted(table, model, best if math.isfinite(best) else math.inf, _score(table, model), at)


def _score(table: Table, model: nn.Module) -> tuple[str, float]:
    x, y = table.valid
    with torch.no_grad():
        outputs = model(x)
    if table.target.labels is not None:
        return "accuracy", float((outputs.argmax(1) == y).float().mean())
    spread = float((y - y.mean()).square().mean())
    return "r2", 1.0 - float((outputs - y).square().mean()) / spread if spread > 0 else math.nan
