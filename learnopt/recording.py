"""What a learned optimizer decided along a run, kept within bounds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from learnopt.atomic import write_bytes

if TYPE_CHECKING:
    from pandas import DataFrame

KIND, FORMAT = "learnopt recording", 1
RUN = ("step", "loss", "loss_average", "schedule", "stop_probability", "skipped")
"""What a row holds of the run. `step` counts skipped steps as well; `loss` is the one told to that step, and
`loss_average` what the optimizer made of all of them; both NaN where there is none."""
_MAY_LACK = ("loss", "loss_average")
TENSOR = ("learning_rate", "decay", "gradient", "momentum", "orthogonal", "pull")
"""What a row holds of every parameter tensor, as in `LearnedOptimizer.explain`."""
MOST = 500


class Row(NamedTuple):
    """One recorded step."""

    run: tuple[float, ...]  # in the order of RUN
    tensors: NDArray[np.float32]  # (len(TENSOR), tensors)


@dataclass
class Recording:
    """Rows of a run, at most `most`: when they are more, every second one goes and `every` doubles.

    Attributes:
        names: of the parameter tensors, in the optimizer's order; new ones may be added at the end.
        shapes: of the same.
        threshold: stop probability above which `should_stop` turns true.
        total_steps: as told to the optimizer.
        every: steps from one row to the next.
        most: at least 2; an odd number counts as one less.
        stopped: step and reason of the first row at which `should_stop` was true.
        evidence: what the stop probability rests on at the last row, as (words, log-odds).
    """

    names: list[str]
    shapes: list[tuple[int, ...]]
    threshold: float
    total_steps: int | None = None
    every: int = 1
    most: int = MOST
    stopped: tuple[int, str] | None = None
    evidence: list[tuple[str, float]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("most", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        self.most -= self.most % 2

    @property
    def last_step(self) -> int:
        """Step of the last row, 0 without any."""
        return int(self.rows[-1].run[0]) if self.rows else 0

    def add(self, run: Mapping[str, float | None], tensors: Mapping[str, Any]) -> bool:
        """Add a row; False, and nothing done, if there is one of this step.

        A row of an earlier step than the last means that the run went back: what came after is forgotten.
        """
        step = run["step"] or 0
        if self.rows and step < self.last_step:
            self.forget_after(int(step) - 1)
        if step <= self.last_step:
            return False
        values = tuple(math.nan if run[key] is None else float(run[key] or 0.0) for key in RUN)
        self.rows.append(Row(values, np.stack([np.asarray(tensors[key], dtype=np.float32) for key in TENSOR])))
        if len(self.rows) > self.most:
            self.rows = self.rows[::2]  # an odd number of them: the first and the last stay
            self.every *= 2
        return True

    def forget_after(self, step: int) -> None:
        """Drop rows of later steps than `step`."""
        self.rows = [row for row in self.rows if row.run[0] <= step]
        if self.stopped is not None and self.stopped[0] > step:
            self.stopped = None

    def column(self, name: str) -> NDArray[np.float64]:
        """One of `RUN` over the rows, `(rows,)`."""
        return np.array([row.run[RUN.index(name)] for row in self.rows], dtype=np.float64)

    def values(self, name: str) -> NDArray[np.float32]:
        """One of `TENSOR` over the rows, `(rows, tensors)`; NaN where a tensor was not there yet."""
        found = np.full((len(self.rows), len(self.names)), np.nan, dtype=np.float32)
        for line, row in zip(found, self.rows, strict=True):
            line[: row.tensors.shape[1]] = row.tensors[TENSOR.index(name)]
        return found

    def frame(self) -> DataFrame:
        """The run as a pandas frame: `RUN`, a line per row, `step` as the index."""
        import pandas as pd

        return pd.DataFrame({name: self.column(name) for name in RUN}).astype({"step": int, "skipped": int}).set_index(
            "step"
        )  # fmt: skip

    def tensor_frame(self) -> DataFrame:
        """The tensors as a pandas frame: a line per row and tensor; `step` and `name` are the index."""
        import pandas as pd

        index = pd.MultiIndex.from_product([self.column("step").astype(int), self.names], names=["step", "name"])
        return pd.DataFrame({name: self.values(name).ravel() for name in TENSOR}, index=index)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, fit for JSON; what is not finite is None."""
        return {
            "kind": KIND, "format": FORMAT, "names": list(self.names), "shapes": [list(s) for s in self.shapes],
            "threshold": self.threshold, "total_steps": self.total_steps, "every": self.every, "most": self.most,
            "stopped": None if self.stopped is None else list(self.stopped),
            "evidence": [list(e) for e in self.evidence],
            "run": {name: _plain(self.column(name), 9) for name in RUN},
            "tensors": {name: [_plain(line, 5) for line in self.values(name)] for name in TENSOR},
        }  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON to `path`, at once or not at all."""
        target = Path(path)
        try:
            write_bytes(target, (json.dumps(self.as_dict()) + "\n").encode())
        except OSError as error:
            raise ValueError(f"recording cannot be written to {target}: {error.strerror}") from error
        return target


def load(path: str | os.PathLike[str]) -> Recording:
    """Read what `Recording.save` wrote; executes nothing.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"recording {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"recording {path} is not valid JSON: {error}") from error
    if not isinstance(entry, dict) or entry.get("kind") != KIND:
        raise ValueError(f"{path} is no recording of a learned optimizer")
    if entry.get("format") != FORMAT:
        raise ValueError(f"recording {path} has format {entry.get('format')!r}, this version reads {FORMAT}")
    try:
        return _from_dict(entry)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"recording {path} is damaged: {type(error).__name__} {error}") from error


def _from_dict(entry: dict[str, Any]) -> Recording:
    names, stopped = [str(name) for name in entry["names"]], entry["stopped"]
    run = np.array([entry["run"][name] for name in RUN], dtype=np.float64)
    tensors = np.array([entry["tensors"][name] for name in TENSOR], dtype=np.float32)
    count = run.shape[1]
    if tensors.shape != (len(TENSOR), count, len(names)) and count:
        raise ValueError(f"{count} rows of {len(names)} tensors, but numbers of shape {tensors.shape}")
    if not (np.diff(run[0]) > 0).all():
        raise ValueError("steps that do not rise")
    if not np.isfinite(np.delete(run, [RUN.index(name) for name in _MAY_LACK], 0)).all():
        raise ValueError("numbers that are missing")
    if len(entry["shapes"]) != len(names):
        raise ValueError(f"{len(names)} names, but {len(entry['shapes'])} shapes")
    return Recording(
        names, [tuple(int(d) for d in shape) for shape in entry["shapes"]], float(entry["threshold"]),
        None if entry["total_steps"] is None else int(entry["total_steps"]), entry["every"], entry["most"],
        None if stopped is None else (int(stopped[0]), str(stopped[1])),
        [(str(what), float(odds)) for what, odds in entry["evidence"]],
        [Row(tuple(run[:, i].tolist()), tensors[:, i]) for i in range(count)],
    )  # fmt: skip


def _plain(values: Sequence[float] | NDArray[Any], digits: int) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in np.asarray(values).tolist()]
