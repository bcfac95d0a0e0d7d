"""What the habits of trainers do to the learned optimizer, on `meta_valid`.

    python benchmarks/trainer_habits.py --out results/trainer-habits/trainer-habits.json

Each habit changes one thing about a training loop that tells the loss and the number of steps; ratios of the final
validation and training losses to that loop's, geometric means. A run that diverges counts as a ratio of 10. The Trainer
of Transformers evaluates at the averaged weights.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.progress import track
from torch import nn

from learnopt import LearnedOptimizer
from learnopt.provenance import write_record
from learnopt.task import Task, seed_of
from learnopt.tasks.suites import suite
from learnopt.training import one_thread, tail

WORST = 10.0


@dataclass(frozen=True)
class Habit:
    """How a loop differs from `optimizer.step(loss=loss)` with `total_steps` given."""

    who: str
    clip: float | None = None
    linear: bool = False
    told_share: float | None = 1.0  # of the loss; None: not told
    total_steps: bool = True
    weight_decay: float | None = None
    lr: float = 1.0
    averaged: bool = False  # validates after `optimizer.eval()`


HABITS = {
    "none": Habit("a plain loop, and the callbacks of learnopt.integrations with their advice followed"),
    "clipped": Habit("Transformers: max_grad_norm=1 by default", clip=1.0),
    "linear": Habit("Transformers: lr_scheduler_type='linear' by default", linear=True),
    "undecayed": Habit("Transformers: optimizer_cls_and_kwargs with weight_decay=0 by default", weight_decay=0.0),
    "untold": Habit("Transformers: no callback", told_share=None, total_steps=False, averaged=True),
    "all four": Habit("Transformers: all of these", 1.0, True, None, False, 0.0, averaged=True),
    "eighth": Habit("Lightning: accumulate_grad_batches=8 without the callback", told_share=0.125),
    "hundredth": Habit("skorch: lr=0.01 by default", lr=0.01),
}


def run(task: Task, habit: Habit, seed: int) -> tuple[float, float]:
    """Final `(validation loss, training loss)`; the latter is the mean of the last 5 % of the steps."""
    with one_thread(seed_of("habits", task.name, seed)):
        model = task.build(seed)
        steps = task.steps if habit.total_steps else None
        optimizer = LearnedOptimizer(model.parameters(), steps, lr=habit.lr, weight_decay=habit.weight_decay)
        losses = []
        for step in range(task.steps):
            if habit.linear:
                optimizer.param_groups[0]["lr"] = habit.lr * (1 - step / task.steps)
            optimizer.zero_grad()
            loss = task.loss(model, task.batch(seed, step))
            loss.backward()
            if habit.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), habit.clip)
            optimizer.step(loss=None if habit.told_share is None else loss.detach() * habit.told_share)
            losses.append(float(loss.detach()))
        if habit.averaged:
            optimizer.eval()
        torch.manual_seed(seed_of("validation", task.name))
        with torch.no_grad():
            final = float(task.loss(model.eval(), task.validation()))
    return final, mean(losses[-tail(task.steps) :])


def log_ratio(loss: float, reference: float) -> float:
    """Cut where a loss of 0 or a divergence would decide everything."""
    ratio = loss / reference if math.isfinite(loss) else WORST
    return math.log(min(max(ratio, 1 / WORST), WORST))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=None, help="only the first so many")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = suite("meta_valid")[: args.tasks]
    grid = [(task, seed, name) for task in chosen for seed in range(args.seeds) for name in HABITS]
    found = {(t.name, s, n): run(t, HABITS[n], s) for t, s, n in track(grid, "runs")}
    rows = {}
    for name, habit in HABITS.items():
        logs = [
            [
                log_ratio(losses[i], found[task, seed, "none"][i])
                for (task, seed, n), losses in found.items()
                if n == name
            ]
            for i in range(2)
        ]
        rows[name] = asdict(habit) | {
            "validation": math.exp(mean(logs[0])), "training": math.exp(mean(logs[1])),
            "worst_validation": math.exp(max(logs[0])), "at_most_plain": mean(x <= 0 for x in logs[0]),
        }  # fmt: skip
        print(f"{name:10} " + "  ".join(f"{k} {v:.3f}" for k, v in list(rows[name].items())[-4:]))
    losses = [[*key, *values] for key, values in found.items()]
    columns = ["task", "seed", "habit", "validation loss", "training loss"]
    write_record(args.out, suite="meta_valid", seeds=args.seeds, habits=rows, columns=columns, losses=losses)


if __name__ == "__main__":
    main()
