"""For benchmarks of a few tasks of each of many kinds: options, the runs in processes, parts and means of the rows."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import track

Row = dict[str, Any]
FEW = 300
"""Rows to train on that are reported by themselves below."""
FLOOR, LIMIT = 1e-6, 2.0
"""Losses below the first count as that; logarithms of ratios count within the second."""


def options(description: str | None, out: str, tasks: int) -> argparse.Namespace:
    """`--out`, `--workers` and `--tasks`, with what they are by default."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=tasks, help="of each kind")
    return parser.parse_args()


def run(measure: Callable[[str, int], Row], kinds: Iterable[str], chosen: argparse.Namespace) -> list[Row]:
    """`measure(kind, index)` for `chosen.tasks` tasks of each kind, sorted by kind and index; shows the time left."""
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(measure, kind, index) for index in range(chosen.tasks) for kind in kinds]
        rows = [done.result() for done in track(as_completed(waiting), "tasks", len(waiting))]
    return sorted(rows, key=lambda row: (row["kind"], row["index"]))


def parts(rows: list[Row], kinds: Iterable[str]) -> dict[str, list[Row]]:
    """All rows, those with few rows to train on or many, and those of each kind; none that is empty."""
    found = {
        "all": rows,
        f"below {FEW} rows": [r for r in rows if r["rows"] < FEW],
        f"{FEW} rows or more": [r for r in rows if r["rows"] >= FEW],
    }
    found |= {kind: [r for r in rows if r["kind"] == kind] for kind in kinds}
    return {name: part for name, part in found.items() if part}


def cut(value: float) -> float:
    """The logarithm of a ratio, within the limit."""
    return max(-LIMIT, min(LIMIT, value))


def ratio(logs: Iterable[float]) -> float:
    """Geometric mean of ratios given by their logarithms, each cut to the limit."""
    return math.exp(statistics.mean(map(cut, logs)))


def spread(logs: Iterable[float]) -> dict[str, float]:
    """Standard error of the mean logarithm (NaN of a single one), and the median ratio; logarithms cut to the limit."""
    d = list(map(cut, logs))
    error = statistics.stdev(d) / len(d) ** 0.5 if len(d) > 1 else math.nan
    return {"standard error of its logarithm": error, "median": math.exp(statistics.median(d))}
