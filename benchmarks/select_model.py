"""Learn the ranking model of `select_model` on generated and installed tables, judge it on others.

`python benchmarks/select_model.py --out results/select-model` writes a record; `--weights FILE` the weights too.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets as sk

from learnopt import carded
from learnopt.provenance import origin, write_record
from learnopt.task import seed_of
from learnopt.tasks import data_folder, package_data
from learnopt.tasks.tables import GENERATORS, Table
from learnopt.tuner import selection

ROWS = 1000


def tables(generated: int, real: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Tables to learn from: generated ones, and those of installed packages."""
    found = []
    for i in range(generated):
        rng = np.random.default_rng([3, i])
        make = list(GENERATORS.values())[i % len(GENERATORS)]
        found.append(_arrays(make(rng, int(np.exp(rng.uniform(np.log(300), np.log(ROWS)))))))
    rng = np.random.default_rng(4)
    sources = list(package_data.tables().items())
    return found + [_arrays(sources[k][1](rng, ROWS)) for k in rng.permutation(len(sources))[:real]]


def held_out() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Tables to judge by: scikit-learn's, those of the data folder's held-out suite, other generators."""
    found = []
    for name in ("breast_cancer", "digits", "diabetes"):
        bunch = getattr(sk, f"load_{name}")()
        found.append((name, bunch.data, bunch.target))
    folder = data_folder.table_names("csv:abalone", "csv:wine-quality", "csv:banknote", "csv:pima")
    found += [_arrays(data_folder.table(name)) for name in folder]
    for seed in range(2):
        found.append((f"friedman1-{seed}", *sk.make_friedman1(1500, random_state=seed, noise=1.0)))
        found.append((f"friedman2-{seed}", *sk.make_friedman2(800, random_state=seed, noise=50.0)))
        found.append((f"friedman3-{seed}", *sk.make_friedman3(1500, random_state=seed, noise=0.1)))
        found.append((f"moons-{seed}", *sk.make_moons(600, noise=0.25, random_state=seed)))
        found.append((f"circles-{seed}", *sk.make_circles(600, noise=0.15, factor=0.6, random_state=seed)))
        made = sk.make_classification(1500, 25, n_informative=8, n_classes=3, flip_y=0.1, random_state=seed)
        found.append((f"hypercube-{seed}", *made))
        found.append((f"hastie-{seed}", *sk.make_hastie_10_2(1500, random_state=seed)))
        found.append((f"regression-{seed}", *sk.make_regression(800, 20, n_informative=6, noise=30, random_state=seed)))
    return [
        (n, np.asarray(x, float), np.unique(y, return_inverse=True)[1] if "hastie" in n else y) for n, x, y in found
    ]


def _arrays(table: Table) -> tuple[str, np.ndarray, np.ndarray]:
    x, y = table.features.numpy().astype(float)[:ROWS], table.target.numpy()[:ROWS]
    return table.dataset, np.nan_to_num(x), y if y.ndim == 1 else y[:, 0].astype(float)


def measured(name: str, x: np.ndarray, y: np.ndarray, cache: Path, only_kept: bool) -> dict | None:
    """Probes and full scores of one table, kept on disk."""
    path = cache / f"{seed_of(name, x.shape, float(x.sum())):x}.json"
    if path.exists():
        return json.loads(path.read_text())
    if only_kept:
        return None
    kind = "classification" if y.dtype.kind != "f" else "regression"
    if (
        len(x) < 80
        or len(np.unique(y)) < 2
        or (kind == "classification" and np.unique(y, return_counts=True)[1].min() < 4)
    ):
        return None
    start = time.perf_counter()
    probes = selection.probe_scores(x, y, kind, selection.CANDIDATES, 0)
    seconds = time.perf_counter() - start
    full = selection.full_scores(x, y, kind, selection.CANDIDATES, 0)
    entry = {
        "name": name, "rows": len(x), "table": selection.table_features(x, y, kind), "probes": probes,
        "probe_seconds": seconds, "full": {k: v[0] for k, v in full.items()},
        "full_seconds": sum(v[1] for v in full.values()),
    }  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry))
    return entry


def example(entry: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """What the ranking model learns from."""
    seen = selection.inputs(entry["table"], entry["probes"], selection.CANDIDATES)
    return seen, torch.tensor([entry["full"][n] for n in selection.CANDIDATES])


def judged(entries: list[dict], choose) -> dict[str, float]:
    """Share of tables on which the choice is within 1 % of the best, and mean loss of score."""
    gaps = np.array([max(e["full"].values()) - e["full"][choose(e)] for e in entries])
    best = np.array([max(e["full"].values()) for e in entries])
    return {"within_1_percent": float((gaps <= 0.01 * np.abs(best)).mean()), "mean_gap": float(gaps.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/select-model"))
    parser.add_argument("--cache", type=Path, default=Path("select-model-measured"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--generated", type=int, default=60)
    parser.add_argument("--real", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1e9, help="measure no further tables after so long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + args.seconds
    # by turns, so that an end of the time leaves some of both
    todo = [(t, kept) for pair in zip_longest(tables(args.generated, args.real), held_out())
            for t, kept in zip(pair, (0, 1), strict=True) if t is not None]  # fmt: skip
    parts: tuple[list[dict], list[dict]] = ([], [])
    for t, kept in todo:
        entry = measured(*t, args.cache, only_kept=time.monotonic() > deadline)
        if entry is not None:
            parts[kept].append(entry)
    train, test = parts
    weights = selection.fit([example(e) for e in train])

    def learned(e: dict) -> str:
        seen = (example(e)[0] - weights["mean"]) / weights["deviation"]
        return selection.CANDIDATES[int((seen @ weights["weights"]).argmax())]

    rows = {
        "learned ranking": judged(test, learned),
        "best probe": judged(test, lambda e: max(e["probes"], key=e["probes"].get)),
    }
    rows |= {f"always {n}": judged(test, lambda e, n=n: n) for n in selection.CANDIDATES}
    cost = float(np.mean([e["probe_seconds"] / e["full_seconds"] for e in test]))
    total = sum(e["probe_seconds"] for e in test) / sum(e["full_seconds"] for e in test)
    detail = [{"name": e["name"], "rows": e["rows"], "chosen": learned(e), "full": e["full"]} for e in test]
    write_record(
        args.out / "select-model.json", learned_from=len(train), judged_on=len(test), figures=rows,
        cost_share_mean=cost, cost_share_total=total, tables=detail, probe_share=selection.PROBE_SHARE,
    )  # fmt: skip
    print(json.dumps(rows, indent=1), "cost", round(cost, 3), round(total, 3), len(train), len(test))
    if args.weights:
        card = {"kind": "select_model", "tables": len(train), "features": selection.FEATURES}
        carded.write(args.weights, weights, card | origin())


if __name__ == "__main__":
    main()
