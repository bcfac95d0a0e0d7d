"""What the parts of trained weights are worth: the whole, and weights with one ability switched off each.

    LEARNOPT_DATA=... OMP_NUM_THREADS=1 python benchmarks/ablations.py results/ablations/*.safetensors

Compared with tuned AdamW on `meta_valid`, whose runs are kept under `--runs` and used again. What is left when a part
is switched off is not trained again: the figure says what the part does in these weights, not what it is worth at best.
Prints a table and writes `<out>/ablations.json`.
"""

from __future__ import annotations

import argparse
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
    return {row["task"]: {which: row[f"{which}_ratio"] for which in ("validation", "train")} for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("others", nargs="*", help="further weights to compare")
    parser.add_argument("--weights", default="default", help="the whole")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("results/ablations"))
    chosen = parser.parse_args()
    paths: dict[str, str | Path] = {"whole": chosen.weights, **written(chosen.weights, chosen.runs / "weights")}
    paths |= {Path(other).stem: other for other in chosen.others}
    found = {name: ratios(str(path), chosen.runs, chosen.workers) for name, path in paths.items()}
    rows: list[dict[str, Any]] = []
    for name, tasks in found.items():
        validation, train = (np.log([r[which] for r in tasks.values()]) for which in ("validation", "train"))
        change = validation - np.log([r["validation"] for r in found["whole"].values()])
        rows.append({
            "weights": name, "validation_ratio": float(np.exp(validation.mean())),
            "train_ratio": float(np.exp(train.mean())), "won": int((validation <= 0).sum()), "tasks": len(tasks),
            "change": float(change.mean()), "error": float(change.std(ddof=1) / len(change) ** 0.5), "per_task": tasks,
        })  # fmt: skip
        last = rows[-1]
        print(
            f"{name:26} validation {last['validation_ratio']:.2f}  training {last['train_ratio']:.2f}  "
            f"won {last['won']:2}  change {last['change']:+.3f} ({last['error']:.3f})"
        )
    print(f"wrote {write_record(chosen.out / 'ablations.json', weights=chosen.weights, seeds=3, rows=rows)}")


if __name__ == "__main__":
    main()
