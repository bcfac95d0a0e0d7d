"""What an unknown number of steps costs, at the last weights and at the averaged ones, on the second opinion's tasks.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/unknown_steps.py --out results/second-opinion

`LearnedOptimizer(parameters)` beside `LearnedOptimizer(parameters, steps)` on the tasks of `second_opinion.py`, which
nothing was chosen by, with the same initialisations and batches. The average is what `LearnedOptimizer.eval()` puts
into the network; BatchNorm's running statistics stay those of the last weights.
"""

from __future__ import annotations

import argparse
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from second_opinion import FLOOR, LIMIT, SEEDS, batches
from second_tasks import KINDS, Work

from learnopt import LearnedOptimizer
from learnopt.provenance import write_record
from learnopt.task import seed_of


def train(work: Work, seed: int, steps: int | None) -> dict[str, float]:
    """Logarithms of the validation losses of a run of `work.steps` steps that is told `steps`."""
    torch.manual_seed(seed_of("second opinion", seed))
    network = work.make()
    optimizer, draw = LearnedOptimizer(network.parameters(), steps), batches(work, seed)
    for _ in range(work.steps):
        x, y = draw()
        loss = work.loss(network(x), y)
        network.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())
    network.eval()
    found = {}
    for which in ("last", "average"):
        if which == "average":
            optimizer.eval()
        with torch.no_grad():
            loss = work.loss(network(work.valid[0]), work.valid[1])
        found[which] = math.log(max(float(loss), FLOOR)) if math.isfinite(loss) else math.log(1e6)
    return found


def measure(index: int, kind: str) -> dict[str, Any]:
    """One task: every run, and the mean logarithm of the ratio to the runs that are told their steps."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    work = KINDS[kind](np.random.default_rng([seed_of("second opinion", kind), index]))
    told, unknown = ([train(work, seed, steps) for seed in SEEDS] for steps in (work.steps, None))
    row: dict[str, Any] = {"kind": kind, "index": index, "steps": work.steps, "told": told, "unknown": unknown}
    for which in ("last", "average"):
        cost = statistics.mean(u[which] - t["last"] for u, t in zip(unknown, told, strict=True))
        row[which] = max(-LIMIT, min(LIMIT, cost))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/second-opinion"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=3, help="of each kind")
    chosen = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        for index in range(chosen.tasks):
            rows += track(pool.map(partial(measure, index), KINDS), f"task {index + 1} of each kind", len(KINDS))
    table = {}
    for which in ("last", "average"):
        costs = [row[which] for row in rows]
        table[which] = {
            "ratio": math.exp(statistics.mean(costs)), "median": math.exp(statistics.median(costs)),
            "standard error of its logarithm": statistics.stdev(costs) / len(costs) ** 0.5,
        }  # fmt: skip
        print(f"{which:8}", *[f"{key} {value:.3f}" for key, value in table[which].items()])
    path = write_record(chosen.out / "unknown-steps.json", seeds=list(SEEDS), tasks=len(rows), summary=table, rows=rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
