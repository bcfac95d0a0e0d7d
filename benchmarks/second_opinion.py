"""The learned optimizer on tasks that were written after the weights, against AdamW with the best of 16 settings each.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/second_opinion.py --out results/second-opinion

18 kinds (second_tasks.py), a few tasks of each, trained as a user would: torch's modules, batches in shuffled epochs,
evaluation mode to validate. `LearnedOptimizer(parameters, steps)` with the loss told and nothing tuned; AdamW (decay
0.01) with 8 rates from 1e-4 to 0.3, constant and with warm-up and cosine, the setting of every task chosen by the very
final validation losses it is reported with, which favours AdamW where there is little to validate on. Same
initialisations and batches for all. The tasks are not for choosing anything by: `held_out` has been looked at often,
these have not.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from second_tasks import KINDS, Work
from torch import Tensor, nn

from learnopt import LearnedOptimizer
from learnopt.baselines.base import multiplier
from learnopt.provenance import write_record
from learnopt.task import seed_of

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
PLAIN = "0.001 constant"
SEEDS = (1, 2)
LOOKS = 10
LATE = 0.05
FEW = 300
"""Rows to train on that are reported by themselves below."""
FLOOR, LIMIT = 1e-6, 2.0
"""Losses below the first count as that; logarithms of ratios count within the second."""
Step = Callable[[int, Tensor], None]


def batches(work: Work, seed: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Batch after batch of shuffled epochs."""
    g, left = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    x, y = work.train

    def draw() -> tuple[Tensor, Tensor]:
        nonlocal left
        if not 0 < work.batch < len(x):
            return x, y
        if len(left) < work.batch:
            left = torch.randperm(len(x), generator=g)
        chosen, left = left[: work.batch], left[work.batch :]
        return x[chosen], y[chosen]

    return draw


def train(work: Work, seed: int, optimizer: Callable[[nn.Module], Step]) -> dict[str, float]:
    """Final and least validation loss, and the mean of the last training losses; infinite where it diverged."""
    torch.manual_seed(seed_of("second opinion", seed))
    network = work.make()
    step, draw, seen, found = optimizer(network), batches(work, seed), [], []
    looks = {round(work.steps * (i + 1) / LOOKS) for i in range(LOOKS)}
    for t in range(work.steps):
        x, y = draw()
        loss = work.loss(network(x), y)
        network.zero_grad()
        loss.backward()
        step(t, loss.detach())
        seen.append(float(loss.detach()))
        if t + 1 in looks:
            network.eval()
            with torch.no_grad():
                found.append(float(work.loss(network(work.valid[0]), work.valid[1])))
            network.train()
    finite = [x if math.isfinite(x) else math.inf for x in found]
    late = statistics.mean(seen[-max(1, round(LATE * work.steps)) :])
    return {"valid": finite[-1], "train": late if math.isfinite(late) else math.inf, "least": min(finite)}


def learned(work: Work) -> Callable[[nn.Module], Step]:
    def make(network: nn.Module) -> Step:
        optimizer = LearnedOptimizer(network.parameters(), work.steps)
        return lambda t, loss: optimizer.step(loss=loss)

    return make


def adamw(work: Work, rate: float, schedule: str) -> Callable[[nn.Module], Step]:
    def make(network: nn.Module) -> Step:
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)

        def step(t: int, loss: Tensor) -> None:
            for group in optimizer.param_groups:
                group["lr"] = rate * (multiplier("cosine", t, work.steps) if schedule == "cosine" else 1.0)
            optimizer.step()

        return step

    return make


def log_mean(runs: list[dict[str, float]], which: str) -> float:
    """Mean over the seeds of the logarithm of a loss."""
    return statistics.mean(math.log(min(max(run[which], FLOOR), 1e6)) for run in runs)


def measure(kind: str, index: int) -> dict[str, Any]:
    """One task: every run's losses, and the logarithms of ratios to AdamW's best setting."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    work = KINDS[kind](np.random.default_rng([seed_of("second opinion", kind), index]))
    mine = [train(work, seed, learned(work)) for seed in SEEDS]
    theirs = {
        f"{rate:g} {schedule}": [train(work, seed, adamw(work, rate, schedule)) for seed in SEEDS]
        for rate in RATES
        for schedule in ("constant", "cosine")
    }
    best = min(theirs, key=lambda name: log_mean(theirs[name], "valid"))
    least = min(log_mean(runs, "least") for runs in theirs.values())
    return {
        "kind": kind, "index": index, "steps": work.steps, "rows": len(work.train[0]), "batch": work.batch,
        "adamw": best, "learned_runs": mine, "adamw_runs": theirs,
        "valid": log_mean(mine, "valid") - log_mean(theirs[best], "valid"),
        "train": log_mean(mine, "train") - log_mean(theirs[best], "train"),
        "least": log_mean(mine, "least") - least,
        "plain": log_mean(mine, "valid") - log_mean(theirs[PLAIN], "valid"),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of ratios, their standard error in logarithms, medians and shares."""

    def mean(which: str) -> float:
        return math.exp(statistics.mean(max(-LIMIT, min(LIMIT, row[which])) for row in rows))

    d = [max(-LIMIT, min(LIMIT, row["valid"])) for row in rows]
    return {
        "tasks": len(rows), "validation ratio": mean("valid"),
        "standard error of its logarithm": statistics.stdev(d) / len(d) ** 0.5 if len(d) > 1 else math.nan,
        "median": math.exp(statistics.median(d)), "won": statistics.mean(x <= 0 for x in d),
        "training ratio": mean("train"), "least validation loss": mean("least"),
        "against AdamW at 1e-3": mean("plain"), "won against it": statistics.mean(row["plain"] < 0 for row in rows),
    }  # fmt: skip


def tables(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The summary of all tasks, by rows to train on and by kind."""
    parts = {
        "all": rows,
        f"below {FEW} rows": [r for r in rows if r["rows"] < FEW],
        f"{FEW} rows or more": [r for r in rows if r["rows"] >= FEW],
    }
    parts |= {kind: [r for r in rows if r["kind"] == kind] for kind in KINDS}
    return {name: summary(part) for name, part in parts.items() if part}


def main() -> None:
    parser = argparse.ArgumentParser(description="the learned optimizer on tasks written after its weights")
    parser.add_argument("--out", type=Path, default=Path("results/second-opinion"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=5, help="of each kind")
    chosen = parser.parse_args()
    started, rows = time.time(), []
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(measure, kind, index) for index in range(chosen.tasks) for kind in KINDS]
        for done in as_completed(waiting):
            rows.append(done.result())
            left = (time.time() - started) / len(rows) * (len(waiting) - len(rows))
            print(f"{len(rows)} of {len(waiting)} tasks, about {left / 60:.1f} minutes left", flush=True)
    rows.sort(key=lambda row: (row["kind"], row["index"]))
    table = tables(rows)
    for name, line in table.items():
        print(f"{name:22}", *[f"{key} {value:.2f}" for key, value in line.items()])
    path = write_record(chosen.out / "second-opinion.json", seeds=list(SEEDS), summary=table, rows=rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
