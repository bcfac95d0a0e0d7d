"""What the parts of trained weights are worth: the whole, and weights with one ability switched off each.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/ablations.py results/ablations/*.safetensors

Compared with tuned AdamW on `meta_valid`, whose runs are kept under `--runs` and used again. What is left when a part
is switched off is not trained again: the figure says what the part does in these weights, not what it is worth at best.
Prints a table and writes `<out>/ablations.json`.

    ... benchmarks/ablations.py --arms --against joint --record arms runs/joint-301.safetensors ...

compares ways to meta-train: files named `<arm>-<seed>` are runs of one way, and the change is of the mean log loss of a
task over an arm's runs. Weights of other widths need a process of their own (`LEARNOPT_WIDTHS`, with one of them as
`--weights`), whose record `--also` takes in.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learnopt import artifact, meta_network
from learnopt.compare import Plan, compare
from learnopt.figures import task_rows
from learnopt.provenance import write_record
from learnopt.tasks import suite

WHICH = ("validation", "train")
Weights = dict[str, Tensor]
Change = Callable[[Weights], None]
NEVER = -30.0
"""Logit of a share that is not to be used."""


def _silence(*names: str) -> Change:
    """Parts of theta set to zero."""

    def change(w: Weights) -> None:
        for name in names:
            w[name].zero_()

    return change


def _never(output: str) -> Change:
    """An output that is a logit held at `NEVER`."""

    def change(w: Weights) -> None:
        column = meta_network.OUTPUTS.index(output)
        for name in ("tensor_out", "tensor_skip"):
            w[name][..., column] = 0.0
        w["tensor_bias"][..., column] = NEVER

    return change


ABLATIONS: dict[str, Change] = {
    "orthogonalisation": _never("gate"),
    "schedule": _silence("global_out", "global_skip"),
    "pull": _never("pull"),
    "lstm": _silence("tensor_out"),
    "mlp": _silence("mlp_out", "mlp_out_bias"),
    "lstm and mlp": _silence("tensor_out", "mlp_out", "mlp_out_bias"),
}


def written(weights: str, folder: Path) -> dict[str, Path]:
    """Paths of the weights to compare, by what they are."""
    theta = artifact.load(weights).theta
    hand = meta_network.initial_theta(torch.Generator().manual_seed(0))
    paths = {"untrained": artifact.save(folder / "untrained.safetensors", hand, None, {"name": "untrained"})}
    for name, change in ABLATIONS.items():
        w = meta_network.unpack(theta.clone())
        change(w)
        left = torch.cat([part.flatten() for part in w.values()])
        path = folder / f"without-{name.replace(' ', '-')}.safetensors"
        paths[f"without {name}"] = artifact.save(path, left, None, {"name": f"{weights} without {name}"})
    return paths


def ratios(weights: str, runs: Path, workers: int) -> dict[str, dict[str, float]]:
    """Validation and training loss as a ratio to tuned AdamW's, by task."""
    result = compare(Plan(suite("meta_valid"), ["learnopt", "adamw"], weights=weights), runs, workers)
    rows = [row for row in task_rows(result.runs, "adamw") if row["optimizer"] == "learnopt"]
    return {row["task"]: {which: row[f"{which}_ratio"] for which in WHICH} for row in rows}


def row(name: str, tasks: dict[str, dict[str, float]], whole: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Figures of one way, and the change of its log validation loss against `whole`, paired by task."""
    validation, train = (np.log([r[which] for r in tasks.values()]) for which in ("validation", "train"))
    changes = {w: np.log([r[w] for r in tasks.values()]) - np.log([whole[t][w] for t in tasks]) for w in WHICH}
    change, training = changes["validation"], changes["train"]
    return {
        "weights": name, "validation_ratio": float(np.exp(validation.mean())),
        "train_ratio": float(np.exp(train.mean())), "won": int((validation <= 0).sum()), "tasks": len(tasks),
        "change": float(change.mean()), "error": _error(change),
        "train_change": float(training.mean()), "train_error": _error(training), "per_task": tasks,
    }  # fmt: skip


def _error(change: np.ndarray[Any, Any]) -> float:
    return float(change.std(ddof=1) / len(change) ** 0.5)


def by_arm(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Geometric means over the runs of each arm, by task; a name without a seed is an arm of its own."""
    arms: dict[str, list[dict[str, dict[str, float]]]] = {}
    for name, tasks in found.items():
        arm, _, seed = name.rpartition("-")
        arms.setdefault(arm if seed.isdigit() else name, []).append(tasks)
    return {
        arm: {t: {w: float(np.exp(np.mean([np.log(r[t][w]) for r in runs]))) for w in WHICH} for t in runs[0]}
        for arm, runs in arms.items()
    }


def shown(rows: list[dict[str, Any]]) -> None:
    for r in rows:
        print(
            f"{r['weights']:26} validation {r['validation_ratio']:.2f}  training {r['train_ratio']:.2f}  "
            f"won {r['won']:2}  change {r['change']:+.3f} ({r['error']:.3f})  "
            f"of training {r['train_change']:+.3f} ({r['train_error']:.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("others", nargs="*", help="further weights to compare")
    parser.add_argument("--weights", default="default", help="the whole")
    parser.add_argument("--arms", action="store_true", help="ways to meta-train, no parts of the weights")
    parser.add_argument("--against", default="whole", help="what changes are against: a name in the table")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="records of --arms to take runs from as well")
    parser.add_argument("--record", default="ablations", help="name of the record")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("results/ablations"))
    chosen = parser.parse_args()
    paths: dict[str, str | Path] = {"whole": chosen.weights}
    paths |= {} if chosen.arms else written(chosen.weights, chosen.runs / "weights")
    paths |= {Path(other).stem: other for other in chosen.others}
    found = {name: ratios(str(path), chosen.runs, chosen.workers) for name, path in paths.items()}
    for record in chosen.also:
        entries = json.loads(record.read_text(encoding="utf-8"))["runs"]
        found |= {entry["weights"]: entry["per_task"] for entry in entries if entry["weights"] != "whole"}
    arms = by_arm(found) if chosen.arms else found
    if chosen.against not in arms:
        raise SystemExit(f"unknown --against {chosen.against!r}; choose from: {', '.join(arms)}")
    rows = [row(name, tasks, arms[chosen.against]) for name, tasks in arms.items()]
    shown(rows)
    # single runs too, so that the spread between seeds can be seen
    runs = [row(name, tasks, arms[chosen.against]) for name, tasks in found.items()] if chosen.arms else []
    shown([r for r in runs if r["weights"] not in arms])
    fields: dict[str, Any] = {"weights": chosen.weights, "against": chosen.against, "seeds": 3}
    print(f"wrote {write_record(chosen.out / f'{chosen.record}.json', **fields, rows=rows, runs=runs)}")


if __name__ == "__main__":
    main()
