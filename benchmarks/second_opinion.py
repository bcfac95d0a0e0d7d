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

import math
import statistics
from collections.abc import Callable
from typing import Any

import by_kind
import numpy as np
import torch
from by_kind import FLOOR
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
    logs = {key: [row[key] for row in rows] for key in ("valid", "train", "least", "plain")}
    return {
        "tasks": len(rows), "validation ratio": by_kind.ratio(logs["valid"]), **by_kind.spread(logs["valid"]),
        "won": statistics.mean(x <= 0 for x in logs["valid"]), "training ratio": by_kind.ratio(logs["train"]),
        "least validation loss": by_kind.ratio(logs["least"]), "against AdamW at 1e-3": by_kind.ratio(logs["plain"]),
        "won against it": statistics.mean(x < 0 for x in logs["plain"]),
    }  # fmt: skip


def main() -> None:
    chosen = by_kind.options(__doc__, "results/second-opinion", tasks=5)
    rows = by_kind.run(measure, KINDS, chosen)
    table = {name: summary(part) for name, part in by_kind.parts(rows, KINDS).items()}
    for name, line in table.items():
        print(f"{name:22}", *[f"{key} {value:.2f}" for key, value in line.items()])
    path = write_record(chosen.out / "second-opinion.json", seeds=list(SEEDS), summary=table, rows=rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
