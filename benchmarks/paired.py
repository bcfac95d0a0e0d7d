"""Final losses of the learned optimizer on fresh tasks, to set two states of the code or of the weights side by side.

Task number `i` and its length are a function of the seed and `i`: run it before a change and after, then again with
`--against` the first record. Reported is the change of the log of the final loss, each task within +-1: mean over
tasks, standard error, median, share of tasks that gain and lose more than 1 %. Writes `<out>`, a JSON file.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learnopt import artifact, objective
from learnopt.provenance import write_record
from learnopt.task import Task
from learnopt.tasks.source import SuiteSource
from learnopt.tasks.suites import suite
from learnopt.training import SMOOTHED
from learnopt.unroll import Problem, Telling, unroll

LIMIT = 1.0
GENERATED = "gen:"
"""How names of generated data sets begin."""


def sampled(seed: int, index: int, real: bool, lengths: tuple[int, int]) -> tuple[Task, int]:
    """Task number `index` and its steps; `real`: the first one drawn that has data which were not generated."""
    rng = np.random.default_rng([seed, index])
    task = SuiteSource().sample(rng)
    while real and all(name.startswith(GENERATED) for name in task.datasets):
        task = SuiteSource().sample(rng)
    return task, round(math.exp(rng.uniform(math.log(lengths[0]), math.log(lengths[1]))))


def measure(
    theta: Tensor, seeds: int, lengths: tuple[int, int], seed: int, real: bool, told: float, name: str, index: int
) -> dict[str, Any]:
    """Logs of the final losses of one task, means over its seeds."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if name:
        task = suite(name)[index]
        steps = task.steps
    else:
        task, steps = sampled(seed, index, real, lengths)
    problem = Problem(task, [seed * 100 + k for k in range(seeds)])
    telling = Telling(round(steps * told))
    _, t = unroll(problem, theta, problem.begin(), 0, steps, telling, valid_at=(steps,))
    scale = t.losses[0].median()
    last = t.losses[-max(1, round(SMOOTHED * steps)) :].mean(0)
    return {
        "task": task.name, "kind": task.kind, "steps": steps,
        "validation": float(objective.log_loss(t.valid[-1], scale).mean()),
        "training": float(objective.log_loss(last, scale).mean()),
    }  # fmt: skip


def change(now: list[dict[str, Any]], before: list[dict[str, Any]], which: str) -> dict[str, float]:
    """The paired change of one of the losses."""
    if [(r["task"], r["steps"]) for r in now] != [(r["task"], r["steps"]) for r in before]:
        raise SystemExit(
            "the records are of different tasks: same --tasks, --seed, --real, --steps and data are needed"
        )
    d = np.array([a[which] - b[which] for a, b in zip(now, before, strict=True)]).clip(-LIMIT, LIMIT)
    return {
        "mean": float(d.mean()), "error": float(d.std(ddof=1) / len(d) ** 0.5), "median": float(np.median(d)),
        "better": float((d < -0.01).mean()), "worse": float((d > 0.01).mean()),
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("out", type=Path)
    p.add_argument("--against", type=Path, help="record of the same tasks, made before")
    p.add_argument("--weights", default="default")
    p.add_argument("--suite", default="", help="a suite's fixed tasks at their full length instead of sampled ones")
    p.add_argument("--tasks", type=int, default=300)
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--steps", type=int, nargs=2, default=(150, 1000), help="lengths, log-uniform in between")
    p.add_argument("--real", action="store_true", help="only tasks with data that were not generated")
    p.add_argument("--told", type=float, default=1.0, help="share of the steps that is told; 0: unknown")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=4)
    a = p.parse_args()
    before = json.loads(a.against.read_text(encoding="utf-8")) if a.against else None
    theta = artifact.load(a.weights).theta
    count = len(suite(a.suite)) if a.suite else a.tasks
    job = partial(measure, theta, a.seeds, tuple(a.steps), a.seed, a.real, a.told, a.suite)
    with ProcessPoolExecutor(a.workers, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(job, range(count)))
    changes = {} if before is None else {w: change(rows, before["rows"], w) for w in ("validation", "training")}
    for which, c in changes.items():
        print(
            f"{which:10} {c['mean']:+.3f}   standard error {c['error']:.3f}   median {c['median']:+.3f}   "
            f"better {c['better']:.0%}   worse {c['worse']:.0%}"
        )
    fields = {k: v for k, v in vars(a).items() if k not in ("out", "against", "workers")}
    print(f"wrote {write_record(a.out, **fields, change=changes, rows=rows)}")


if __name__ == "__main__":
    main()
