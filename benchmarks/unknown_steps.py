"""What an unknown number of steps costs, at the last weights and at the averaged ones, on the second opinion's tasks.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/unknown_steps.py --out results/second-opinion

`LearnedOptimizer(parameters)` beside `LearnedOptimizer(parameters, steps)` on the tasks of `second_opinion.py`, which
nothing was chosen by, with the same initialisations and batches. The average is what `LearnedOptimizer.eval()` puts
into the network; BatchNorm's running statistics stay those of the last weights.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import by_kind
import numpy as np
import torch
from by_kind import FLOOR
from second_opinion import SEEDS, batches
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


def measure(kind: str, index: int) -> dict[str, Any]:
    """One task: every run, and the mean logarithm of the ratio to the runs that are told their steps."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    work = KINDS[kind](np.random.default_rng([seed_of("second opinion", kind), index]))
    told, unknown = ([train(work, seed, steps) for seed in SEEDS] for steps in (work.steps, None))
    row: dict[str, Any] = {"kind": kind, "index": index, "steps": work.steps, "told": told, "unknown": unknown}
    for which in ("last", "average"):
        row[which] = by_kind.cut(statistics.mean(u[which] - t["last"] for u, t in zip(unknown, told, strict=True)))
    return row


def main() -> None:
    chosen = by_kind.options(__doc__, "results/second-opinion", tasks=3)
    rows = by_kind.run(measure, KINDS, chosen)
    table = {}
    for which in ("last", "average"):
        costs = [row[which] for row in rows]
        table[which] = {"ratio": by_kind.ratio(costs), **by_kind.spread(costs)}
        print(f"{which:8}", *[f"{key} {value:.3f}" for key, value in table[which].items()])
    path = write_record(chosen.out / "unknown-steps.json", seeds=list(SEEDS), tasks=len(rows), summary=table, rows=rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
