"""Softmax regression and a small MLP on tables as they are, columns of 0.001 to 100,000: the learned optimizer with the
columns of the first matrix equalised and without, against AdamW with the best of 40 settings for each table.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/raw_columns.py --out results/raw-columns

The tables are those of packages (`learnopt.tasks.package_data`) with classes to tell; the rates and schedules of AdamW
are chosen by the very validation losses they are reported with, which favours AdamW on small tables. Losses below
`FLOOR` count as that, ratios within `LIMIT`.
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
from torch import Tensor

from learnopt import artifact, equalise
from learnopt.baselines.base import multiplier
from learnopt.batched_optimizers import AdamW
from learnopt.provenance import write_record
from learnopt.task import seed_of
from learnopt.tasks import package_data
from learnopt.tasks.networks import mlp
from learnopt.tasks.rows import RowTask, cross_entropy
from learnopt.unroll import Problem, Telling, unroll

STEPS, BATCH, SEEDS = 400, 32, [1, 2]
RATES = [10 ** (e / 4) for e in range(-16, 4)]
DECAY = 0.01
FEWEST, MOST_CLASSES, HIDDEN = 80, 30, 32
FLOOR, LIMIT = 1e-3, math.exp(3)


def task_of(name: str, network: str, raw: bool) -> RowTask | None:
    """The table as a task; None where it has no classes, or too few rows."""
    table = package_data.tables()[name](np.random.default_rng(seed_of("raw", name)), 0)
    x, y = table.features, table.target
    if y.dtype != torch.int64 or len(x) < FEWEST or not 1 < int(y.max()) + 1 <= MOST_CLASSES:
        return None
    x = x if raw else (x - x.mean(0)) / (x.std(0) + 1e-6)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    rows, classes = min(int(0.75 * len(x)), 4000), int(y.max()) + 1
    sizes = [x.shape[1], *([HIDDEN] if network == "mlp" else []), classes]
    return RowTask(
        f"raw-{network}-{name}", network, name, steps=STEPS, module=partial(mlp, sizes), train=(x[:rows], y[:rows]),
        valid=(x[rows : rows + 1000], y[rows : rows + 1000]), batch_size=BATCH, objective=cross_entropy,
    )  # fmt: skip


def adamw(task: RowTask) -> list[float]:
    """Final validation losses of the best rate and schedule."""
    settings = [(rate, cosine) for rate in RATES for cosine in (False, True)]
    problem = Problem(task, SEEDS, copies=len(settings))
    rate = torch.tensor([r for r, _ in settings]).repeat_interleave(len(SEEDS))
    cosine = torch.tensor([c for _, c in settings]).repeat_interleave(len(SEEDS))
    params = [p.clone() for p in problem.begin().params]
    optimizer = AdamW(params, torch.full_like(rate, DECAY))
    for t in range(STEPS):
        _, grads = problem.gradients_at(params, t)
        shape = torch.where(cosine, multiplier("cosine", t, STEPS), 1.0)
        optimizer.step([None if g is None else g.nan_to_num(0.0, 0.0, 0.0) for g in grads], rate * shape)
    found = problem.valid_losses(params).nan_to_num(math.inf, math.inf).view(len(settings), -1)
    best: Tensor = found[int(found.clamp_min(1e-8).log().mean(1).argmin())]
    return best.tolist()


def learned(task: RowTask, power: float) -> list[float]:
    """Final validation losses, with this power of the columns' scales: by the slow rule, whose constant can be set."""
    equalise.EQUALISED = power
    problem = Problem(task, SEEDS, kernel=False)
    theta = artifact.load("default").theta
    _, t = unroll(problem, theta, problem.begin(), 0, STEPS, Telling(STEPS), valid_at=(STEPS,))
    return t.valid[-1].nan_to_num(math.inf, math.inf).tolist()


def measure(work: tuple[str, str, bool]) -> dict[str, Any] | None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    name, network, raw = work
    task = task_of(name, network, raw)
    if task is None:
        return None
    usual = equalise.EQUALISED
    losses = {"adamw": adamw(task), "equalised": learned(task, usual), "before": learned(task, 0.0)}
    equalise.EQUALISED = usual
    return {"table": name, "network": network, "raw": raw, "losses": losses}


def log_ratio(row: dict[str, Any], which: str) -> float:
    """Mean over seeds of the log of its loss over AdamW's, within the limit."""
    mine, theirs = (
        statistics.mean(math.log(min(max(x, FLOOR), 1e30)) for x in row["losses"][k]) for k in (which, "adamw")
    )
    return max(-math.log(LIMIT), min(math.log(LIMIT), mine - theirs))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each network and kind of columns."""
    found = []
    for network in ("linear", "mlp"):
        for raw in (True, False):
            own = [r for r in rows if r["network"] == network and r["raw"] == raw]
            line: dict[str, Any] = {"network": network, "raw": raw, "tables": len(own)}
            for which in ("before", "equalised"):
                d = [log_ratio(r, which) for r in own]
                line[which] = {
                    "mean": math.exp(statistics.mean(d)), "median": math.exp(statistics.median(d)),
                    "won": statistics.mean(x <= 0 for x in d),
                }  # fmt: skip
            change = [log_ratio(r, "equalised") - log_ratio(r, "before") for r in own]
            line["change"] = statistics.mean(change)
            line["error"] = statistics.stdev(change) / len(change) ** 0.5
            found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="learned optimizer and tuned AdamW on raw columns")
    parser.add_argument("--out", type=Path, default=Path("results/raw-columns"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tables", type=int, help="only the first so many")
    chosen = parser.parse_args()
    names = list(package_data.tables())[: chosen.tables]
    works = [(name, network, raw) for name in names for network in ("linear", "mlp") for raw in (True, False)]
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        rows = [row for row in pool.map(measure, works) if row is not None]
    table = summary(rows)
    for line in table:
        print(line)
    path = write_record(
        chosen.out / "raw-columns.json", steps=STEPS, batch=BATCH, seeds=SEEDS, summary=table, rows=rows
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
