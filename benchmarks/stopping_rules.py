"""Stopping rules on recorded runs of held-out data: compute against what is given away.

    learnopt record corpus --tasks held_out --optimizers adamw --rates 20 --seeds 3  # and meta_valid
    python benchmarks/stopping_rules.py corpus --out results/stopper

Every task counts alike; intervals are 95 % bootstraps over tasks. Writes `stopping.json` and `stopping.png`. A corpus
of `learnopt record --metric` is judged with and without the metric's limit told, each at its threshold: excess is then
a share of the best accuracy.
"""

from __future__ import annotations

import argparse
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from learnopt.provenance import write_record
from learnopt.stopping import calibrate, curves, policy, weights
from learnopt.stopping.curves import Curves
from learnopt.stopping.learned import least_prospect

WAITS = tuple(range(1, 16))
TOLERANCES = (0.002, 0.005, 0.01, 0.02)
THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
COLOURS = {False: ("tab:cyan", "tab:blue", "tab:orange", "tab:green"),
           True: ("tab:pink", "tab:purple", "tab:red", "tab:olive")}  # fmt: skip
"""By whether the limit is told, then by tolerance."""


def describe(runs: Curves, stops: Tensor, raw_excess: Tensor, seed: int) -> dict:
    """Means over tasks with intervals, and the saving against the oracle's."""
    each = policy.outcomes(runs, stops)
    uncapped = raw_excess.gather(1, stops[:, None])
    rows = policy.by_task(runs, torch.cat([each, uncapped], 1)).numpy()
    ideal = policy.by_task(runs, policy.outcomes(runs, policy.oracle(runs))).numpy()
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(rows), (2000, len(rows)))
    means, saved = rows[picks].mean(1), 1 - ideal[picks, 0].mean(1)

    def low_high(values: np.ndarray) -> list[float]:
        return [round(float(q), 5) for q in np.quantile(values, (0.025, 0.975))]

    mean = rows.mean(0)
    return {
        "compute": round(float(mean[0]), 4), "compute_interval": low_high(means[:, 0]),
        "excess": round(float(mean[1]), 5), "excess_interval": low_high(means[:, 1]),
        "excess_uncapped": round(float(mean[3]), 5), "lost_over_5_percent": round(float(mean[2]), 4),
        "lost_interval": low_high(means[:, 2]),
        "share_of_oracle_saving": round(float((1 - mean[0]) / (1 - ideal[:, 0].mean())), 3),
        "share_interval": low_high((1 - means[:, 0]) / saved),
    }  # fmt: skip


def raw(runs: Curves) -> Tensor:
    """Excess without the cap."""
    best = runs.values.nan_to_num(torch.inf).cummin(1).values
    return ((best - best[:, -1:]) / best[:, -1:].abs().clamp_min(1e-12)).nan_to_num(0, 0, 0)


def title(tolerance: float, threshold: float, told: bool = True, limited: bool = False) -> str:
    """A learned rule's name."""
    return f"learned, {tolerance:g}, {threshold:g}{', limit told' * limited}{', length untold' * (not told)}"


def calibrated(card: dict, kind: str, tolerance: float, limited: bool) -> float:
    """The threshold of `LearnedStopper` for a kind of runs, whose limit is told or not."""
    return least_prospect(card, tolerance) if limited else card[calibrate.KEYS[kind]]


def rules(runs: Curves, loaded: weights.Loaded, kind: str) -> dict[str, tuple[dict, Tensor]]:
    """Name to (settings, value number at which each run stops)."""
    found: dict[str, tuple[dict, Tensor]] = {"oracle": ({}, policy.oracle(runs))}
    found |= {f"patience {w}": ({"wait": w}, policy.patience(runs, w)) for w in WAITS}
    for told, tolerance, limited in product((True, False), TOLERANCES, {False, kind == "metrics"}):
        chances = policy.probabilities(loaded.curve, runs, tolerance, told)
        if limited:
            chances = policy.prospects(chances, runs, tolerance)
        for threshold in sorted({*THRESHOLDS, calibrated(loaded.card, kind, tolerance, limited)}):
            settings = {"tolerance": tolerance, "threshold": threshold, "told": told, "limited": limited}
            stops = policy.first_below(chances, threshold, runs)
            found[title(tolerance, threshold, told, limited)] = (settings, stops)
    return found


def calibration(runs: Curves, loaded: weights.Loaded) -> list[dict]:
    """Stated probability against the share of moments after which the best value did improve by more than 1 %."""
    chances = policy.probabilities(loaded.curve, runs, calibrate.TOLERANCE)
    best = runs.values.nan_to_num(torch.inf).cummin(1).values
    truth = (best - best[:, -1:]) > calibrate.TOLERANCE * best.abs()
    alive = (torch.arange(chances.shape[1]) < runs.length[:, None] - 1) & torch.isfinite(best)
    edges = torch.linspace(0, 1, 11)
    rows = []
    for low, high in pairwise(edges.tolist()):
        inside = alive & (chances >= low) & (chances < high)
        if inside.any():
            stated, happened = chances[inside].mean(), truth[inside].double().mean()
            row = {
                "stated": round(float(stated), 3),
                "happened": round(float(happened), 3),
                "moments": int(inside.sum()),
            }
            rows.append(row)
    return rows


def draw(table: dict[str, dict], path: Path) -> None:
    """Compute against excess: the learned stopper's lines and patience's."""
    axes = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    patience = [table[f"patience {w}"] for w in WAITS]
    axes.plot(
        [r["compute"] for r in patience],
        [r["excess"] for r in patience],
        "o-",
        color="tab:gray",
        label="patience 1 to 15",
    )
    shown = [r for r in table.values() if "tolerance" in r["settings"]]
    for limited in sorted({r["settings"]["limited"] for r in shown}):
        for (told, style), tolerance in product(((True, "-"), (False, "--")), TOLERANCES):
            want = {"tolerance": tolerance, "told": told, "limited": limited}
            rows = sorted((r for r in shown if want.items() <= r["settings"].items()), key=lambda r: r["compute"])
            label = f"learned, tolerance {tolerance:.1%}{', limit told' * limited}{', length untold' * (not told)}"
            axes.plot([r["compute"] for r in rows], [r["excess"] for r in rows], style,
                      color=COLOURS[limited][TOLERANCES.index(tolerance)], label=label)  # fmt: skip
    axes.axvline(table["oracle"]["compute"], color="black", linewidth=0.8, linestyle=":", label="oracle")
    axes.axhline(0.005, color="black", linewidth=0.5)
    axes.set(
        yscale="log",
        ylim=(1e-4, 0.5),
        xlabel="share of the steps taken",
        ylabel="mean excess of the best validation value",
    )
    axes.legend(fontsize=6, framealpha=0.6)
    axes.figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--out", type=Path, default=Path("results/stopper"))
    parser.add_argument("--name", default="stopping", help="of the record")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    a = parser.parse_args()
    loaded = weights.load(a.weights)
    runs = curves.read(a.corpus)
    known = {d for i in runs.numbers for d in runs.datasets[i].split(",")} & set(loaded.card["datasets"])
    assert not known, f"the stopper has learned from {known}"
    kind = next(iter(calibrate.kinds(runs)))
    assert len(calibrate.kinds(runs)) == 1, "losses and metrics are judged apart"
    excess = raw(runs)
    table = {
        name: {"settings": s, **describe(runs, stops, excess, a.seed)}
        for name, (s, stops) in rules(runs, loaded, kind).items()
    }
    tolerance, limited = loaded.card["tolerance"], kind == "metrics"
    threshold = calibrated(loaded.card, kind, tolerance, limited)
    default, untold = (title(tolerance, threshold, told, limited) for told in (True, False))
    frame = {
        "tasks": [runs.tasks[i] for i in runs.numbers],
        "runs": len(runs),
        "judged by": kind,
        "default": default,
        "seed": a.seed,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    sha = loaded.card["sha256"]
    path = write_record(
        a.out / f"{a.name}.json", **frame, weights=sha, calibration=calibration(runs, loaded), rules=table
    )
    draw(table, a.out / f"{a.name}.png")
    for name in (
        "oracle",
        "patience 3",
        "patience 5",
        "patience 10",
        "patience 15",
        default,
        untold,
    ):
        r = table[name]
        print(f"{name:48} compute {r['compute']:.3f}  excess {r['excess']:.2%}  lost {r['lost_over_5_percent']:.1%}  "
              f"of the oracle's saving {r['share_of_oracle_saving']:.0%}")  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
