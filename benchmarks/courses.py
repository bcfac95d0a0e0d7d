"""How the course of an output over a run is set: constant and tilted nudges on fresh tasks of `meta_train`.

A nudge `output:start:end` is added to that output of the meta-network at all steps, linear from `start` at the first to
`end` at the last; several joined by `+` act together. The runs of all nudges on a task share initialisations and
batches; `--untold` withholds the number of steps from them. Reported is the change of the log
of the final validation loss against no nudge, each task within +-1: its mean over tasks, the standard error, the share
of tasks that gain more than 1 %. Prints a table and writes `<out>/courses.json`.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learnopt import artifact, meta_network, objective
from learnopt.provenance import write_record
from learnopt.tasks.source import SuiteSource
from learnopt.unroll import Problem, Telling, unroll

LIMIT = 1.0
Nudge = tuple[str, float, float]


def parse(text: str) -> list[Nudge]:
    """`output:start:end`, several joined by `+`."""
    parts = [part.split(":") for part in text.split("+")]
    for name, _, _ in parts:
        if name not in meta_network.OUTPUTS:
            raise argparse.ArgumentTypeError(f"unknown output {name!r}; choose from {', '.join(meta_network.OUTPUTS)}")
    return [(name, float(start), float(end)) for name, start, end in parts]


def measure(
    theta: Tensor, nudges: list[list[Nudge]], seeds: int, lengths: tuple[int, int], seed: int, told: bool, index: int
) -> list[float]:
    """Log of the final validation loss of task number `index`, without a nudge and with each."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng([seed, index])
    task = SuiteSource().sample(rng)
    steps = round(math.exp(rng.uniform(math.log(lengths[0]), math.log(lengths[1]))))
    count = 1 + len(nudges)
    problem = Problem(task, list(range(seeds)), copies=count)
    added = torch.zeros(steps, count, len(problem.layout.tensors), len(meta_network.OUTPUTS))
    for i, parts in enumerate(nudges, 1):
        for name, start, end in parts:
            added[:, i, :, meta_network.OUTPUTS.index(name)] += torch.linspace(start, end, steps)[:, None]
    _, t = unroll(
        problem, theta, problem.begin(), 0, steps, Telling(steps if told else 0), valid_at=(steps,),
        nudges=added.repeat_interleave(seeds, 1),
    )  # fmt: skip
    losses: list[float] = objective.log_loss(t.valid[-1], t.losses[0].median()).view(count, seeds).mean(1).tolist()
    return losses


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("nudges", nargs="+", type=parse, help="output:start:end")
    p.add_argument("--weights", default="default")
    p.add_argument("--tasks", type=int, default=200)
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--steps", type=int, nargs=2, default=(150, 1000), help="lengths, log-uniform in between")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--untold", action="store_true", help="the optimizer is not told the number of steps")
    p.add_argument("--workers", type=int, default=4)
    p.add_argument("--out", type=Path, default=Path("results/courses"))
    a = p.parse_args()
    theta = artifact.load(a.weights).theta
    job = partial(measure, theta, a.nudges, a.seeds, tuple(a.steps), a.seed, not a.untold)
    with ProcessPoolExecutor(a.workers, mp_context=get_context("spawn")) as pool:
        losses = np.array(list(pool.map(job, range(a.tasks))))
    change = (losses[:, 1:] - losses[:, :1]).clip(-LIMIT, LIMIT)
    rows = []
    for parts, c in zip(a.nudges, change.T, strict=True):
        nudge = " + ".join(f"{name} {start:+.2f} to {end:+.2f}" for name, start, end in parts)
        row = {
            "nudge": nudge, "mean": float(c.mean()), "error": float(c.std(ddof=1) / len(c) ** 0.5),
            "better": float((c < -0.01).mean()),
        }  # fmt: skip
        print(f"{nudge}   mean {row['mean']:+.3f}   standard error {row['error']:.3f}   better {row['better']:.0%}")
        rows.append(row)
    path = write_record(
        a.out / "courses.json",
        weights=a.weights,
        tasks=a.tasks,
        seeds=a.seeds,
        steps=list(a.steps),
        seed=a.seed,
        told=not a.untold,
        rows=rows,
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
