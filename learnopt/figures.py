"""From the runs of a comparison to its tables: one row per task and optimizer, one summary per optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from learnopt import metrics
from learnopt.baselines import REGISTRY
from learnopt.training import Run

Runs = dict[tuple[str, str], list[Run]]
"""`(task, optimizer)` -> runs in the order of the seeds."""

REFERENCES = ("adamw", "adam")
"""What ratios are taken to: the first that takes part."""


def reference_of(optimizers: Sequence[str]) -> str:
    """The optimizer that the others are divided by."""
    return next((name for name in REFERENCES if name in optimizers), optimizers[0])


def task_rows(runs: Runs, reference: str) -> list[dict[str, Any]]:
    """One row per task and optimizer."""
    return [
        _row(task, name, own, runs[task, reference], runs.get((task, "adam"))) for (task, name), own in runs.items()
    ]


def against_each(runs: Runs, optimizers: Sequence[str]) -> dict[str, Any]:
    """The first learned optimizer against each of the others; empty where there is none."""
    ours = next((name for name in optimizers if name in REGISTRY and REGISTRY[name].learned), None)
    return {} if ours is None else {"optimizer": ours, "against": head_to_head(runs, ours)}


def head_to_head(runs: Runs, ours: str) -> dict[str, dict[str, Any]]:
    """`ours` against each of the others: the figures of `_summary` with that one as the reference.

    Besides, `worst`: the largest validation ratio, and its task.
    """
    tasks, others = (list(dict.fromkeys(key[i] for key in runs)) for i in (0, 1))
    result = {}
    for other in others:
        if other == ours:
            continue
        rows = [_row(t, ours, runs[t, ours], runs[t, other], None) for t in tasks]
        known = [(row["validation_ratio"], row["task"]) for row in rows if row["validation_ratio"] is not None]
        result[other] = _summary(rows) | {"worst": list(max(known)) if known else None}
    return result


def _row(task: str, name: str, own: list[Run], reference: list[Run], adam: list[Run] | None) -> dict[str, Any]:
    def ratio(which: str, other: list[Run] | None) -> float | None:
        if other is None:
            return None
        return metrics.paired_ratio(_losses(own, which), _losses(other, which))

    return {
        "task": task,
        "optimizer": name,
        "validation": _mean(run.validation_final for run in own),
        "train": _mean(run.train_final for run in own),
        "metric": _mean(run.metric_final for run in own),
        "validation_ratio": ratio("validation", reference),
        "train_ratio": ratio("train", reference),
        "best_ratio": metrics.paired_ratio(*([metrics.best_loss(run) for run in runs] for runs in (own, reference))),
        "validation_ratio_adam": ratio("validation", adam),
        "train_ratio_adam": ratio("train", adam),
        "speed_ups": [metrics.speed_up(a, b) for a, b in zip(own, reference, strict=True)],
        "seconds_ratio": _quotient(own, reference, lambda run: run.step_seconds),
        "memory_ratio": _quotient(own, reference, lambda run: float(run.state_bytes)),
        "step_seconds": float(np.median([run.step_seconds for run in own])),
        "state_bytes": own[0].state_bytes,
        "diverged": sum(run.diverged for run in own),
        "settings": {name: own[0].config.get(name) for name in ("lr", "schedule", "rest")},
    }


def _losses(runs: list[Run], which: str) -> list[float | None]:
    return [metrics.counted_loss(run, which) for run in runs]


def _mean(values: Any) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else float(np.mean(known))


def _quotient(own: list[Run], reference: list[Run], of: Callable[[Run], float]) -> float | None:
    above, below = np.median([of(run) for run in own]), np.median([of(run) for run in reference])
    return float(above / below) if below > 0 and above > 0 else None


def summarise(rows: list[dict[str, Any]], optimizers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures of every optimizer over all tasks; `undefined` counts the tasks that a ratio leaves out."""
    return {name: _summary([row for row in rows if row["optimizer"] == name]) for name in optimizers}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def known(key: str) -> list[float]:
        return [row[key] for row in rows if row[key] is not None]

    speeds = [[value for value in row["speed_ups"] if value is not None] for row in rows]
    # a seed's wall-clock speed-up: fewer steps, each of them dearer or cheaper
    wall = [
        [v / row["seconds_ratio"] for v in values]
        for row, values in zip(rows, speeds, strict=True)
        if row["seconds_ratio"]
    ]
    speed, seconds = metrics.iqm_interval(speeds), metrics.iqm_interval(wall)
    return {
        "tasks": len(rows),
        "validation_ratio": metrics.geometric_mean(known("validation_ratio")),
        "train_ratio": metrics.geometric_mean(known("train_ratio")),
        "best_ratio": metrics.geometric_mean(known("best_ratio")),
        "validation_ratio_adam": metrics.geometric_mean(known("validation_ratio_adam")),
        "wins": metrics.share([row["validation_ratio"] for row in rows]),
        "best_wins": metrics.share([row["best_ratio"] for row in rows]),
        "wins_adam": metrics.share([row["validation_ratio_adam"] for row in rows]),
        "train_wins": metrics.share([row["train_ratio"] for row in rows]),
        "undefined": sum(row["validation_ratio"] is None for row in rows),
        "train_undefined": sum(row["train_ratio"] is None for row in rows),
        "speed_up": asdict(speed) if speed else None,
        "wall_clock_speed_up": asdict(seconds) if seconds else None,
        "seconds_ratio": metrics.geometric_mean(known("seconds_ratio")),
        "memory_ratio": metrics.geometric_mean(known("memory_ratio")),
        "diverged": sum(row["diverged"] for row in rows),
    }
