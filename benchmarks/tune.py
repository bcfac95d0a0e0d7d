"""Judge the tuner against other ways of tuning, over recorded grids of held-out tasks.

    learnopt record CORPUS --tasks meta_valid,held_out --rates 20 --decays 1 --seeds 3 --optimizers adamw
    learnopt record SHORT --tasks meta_valid,held_out --decays 1 --seeds 3 --optimizers adamw --schedules cosine \\
        --fractions 0.5,0.25,0.125,0.0625,0.03125
    python benchmarks/tune.py CORPUS SHORT --out results/tune

Trials are looked up in the recorded grid of 20 learning rates x {constant, cosine}, the tuner's probes in SHORT, which
may be several folders: every method sees the runs of one seed and is judged by the run it keeps. Range tests and
`LearnedOptimizer` are run here, with the same initialisations and batches. Costs are in full runs and count the run
whose model is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tune_table import (
    Method,
    World,
    best_probed,
    random_search,
    restricted,
    searched,
    summary,
    tpe,
    tuned,
    tuned_or_probed,
    worlds,
)

from learnopt import artifact
from learnopt.baselines import SCHEDULES
from learnopt.batched_optimizers import RECIPES
from learnopt.corpus import Corpus
from learnopt.provenance import write_record
from learnopt.record import set_up
from learnopt.tasks import get_task
from learnopt.tuner.knowledge import Knowledge, load
from learnopt.unroll import Telling, unroll

RANGE_STEPS = 100
REPEATS = 3
"""Repetitions of what is random."""


def lightning(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The suggestion of Lightning's `lr_find`: the steepest descent of the smoothed losses, without the ends."""
    smooth, average = [], 0.0
    for i, loss in enumerate(losses):
        average = 0.98 * average + 0.02 * loss
        smooth.append(average / (1 - 0.98 ** (i + 1)))
        if i > 1 and smooth[-1] > 4 * min(smooth):
            break
    inner = np.array(smooth[10:-1])
    inner = inner[np.isfinite(inner)]
    return float(rates[10 + int(np.gradient(inner).argmin())]) if len(inner) > 1 else None


def fastai(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
    """fastai's suggestions "valley" and "steep": its smoothing, stop and cuts (the first tenth, the last five)."""
    smooth, average = [], 0.0
    for i, loss in enumerate(losses):
        average = 0.98 * average + 0.02 * loss
        smooth.append(average / (1 - 0.98 ** (i + 1)))
        if not math.isfinite(smooth[-1]) or smooth[-1] > 4 * min(smooth):
            break
    tenth = len(smooth) // 10
    values, own = np.array(smooth[tenth:-5]), rates[tenth : len(smooth) - 5]
    if len(values) < 3:
        return {"valley": None, "steep": None}
    longest = np.ones(len(values), dtype=int)
    for i in range(1, len(values)):
        earlier = longest[:i][values[:i] > values[i]]
        longest[i] = 1 + (earlier.max() if len(earlier) else 0)
    end = int(longest.argmax())
    start = end - int(longest.max())
    section = int((end - start) / 3)
    valley = float(own[min(max(start, 0) + 2 * section, len(own) - 1)])
    slopes = (values[1:] - values[:-1]) / (np.log(own[1:]) - np.log(own[:-1]))
    return {"valley": valley, "steep": float(own[int(slopes.argmin())])}


def range_losses(name: str, seeds: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Rates and training losses `(seeds, RANGE_STEPS)` of runs whose rate grows from `low` to `high`."""
    problem = set_up(get_task(name), seeds, 1)
    params = [p.clone() for p in problem.start]
    optimizer = RECIPES["adamw"].make(params, torch.full((seeds,), 0.01))
    rates, losses = np.geomspace(low, high, RANGE_STEPS), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for t, rate in enumerate(rates):
            leaves = [p.detach().requires_grad_() for p in params]
            loss = problem.losses(leaves, problem.batch(t))
            optimizer.step(
                torch.autograd.grad(loss.sum(), leaves, allow_unused=True), torch.full((seeds,), float(rate))
            )
            losses.append(loss.detach().numpy())
    return rates, np.array(losses).T


def learned_losses(name: str, seeds: int, steps: int) -> list[float]:
    """Final validation losses of `LearnedOptimizer`'s rule."""
    problem = set_up(get_task(name), seeds, 1)
    theta = artifact.load("default").theta
    _, found = unroll(problem, theta, problem.begin(), 0, steps, Telling(steps), valid_at=(steps,))
    return [float(x) for x in found.valid[0]]


def extra(name: str, seeds: int, steps: int, cache: Path, only_kept: bool) -> dict | None:
    """What is not in the recorded grid, kept on disk."""
    path = cache / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    if only_kept:
        return None
    entry: dict = {"learned": learned_losses(name, seeds, steps), "lightning": [], "valley": [], "steep": []}
    for rates, losses in [range_losses(name, seeds, 1e-8, 1.0)]:
        entry["lightning"] = [lightning(rates, row) for row in losses]
    for rates, losses in [range_losses(name, seeds, 1e-7, 10.0)]:
        found = [fastai(rates, row) for row in losses]
        entry |= {key: [f[key] for f in found] for key in ("valley", "steep")}
    cache.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry))
    return entry


def methods(known: Knowledge, extras: dict[str, dict]) -> dict[str, tuple[float, Method]]:
    """Name to `(cost in full runs, regret of a world)`."""

    def mean(f: Callable[[World, int], float]) -> Method:
        return lambda w: float(np.mean([f(w, i) for i in range(REPEATS)]))

    def learned(w: World) -> float:
        return w.regret_of(extras[w.task]["learned"][w.seed]) if w.task in extras else math.nan

    def suggested(key: str, schedule: str) -> Method:
        def regret(w: World) -> float:
            if w.task not in extras:
                return math.nan
            lr = extras[w.task][key][w.seed]
            return w.regret(schedule, lr if lr is not None else 1e-3)

        return regret

    def best_of_list(w: World, count: int) -> float:
        return min(w.regret(c.schedule, c.lr) for c in known.portfolio[:count])

    found: dict[str, tuple[float, Method]] = {
        "AdamW 1e-3, constant (torch's default)": (1, lambda w: w.regret("constant", 1e-3)),
        "AdamW 1e-3, cosine": (1, lambda w: w.regret("cosine", 1e-3)),
        "LearnedOptimizer": (1, learned),
        "learned list, first": (1, lambda w: best_of_list(w, 1)),
        "learned list, first 2": (2, lambda w: best_of_list(w, 2)),
        "learned list, first 3": (3, lambda w: best_of_list(w, 3)),
        "best rate of 13 probed for a quarter each": (4.25, lambda w: best_probed(w, 1 / 4)),
        "best rate of 13 probed for a half each": (7.5, lambda w: best_probed(w, 1 / 2)),
        "best cosine run of all rates": (20, lambda w: min(w.regret("cosine", lr) for lr in w.rates)),
        "tune, prior from meta-features alone": (1, lambda w: tuned(w, known, 0)),
        "tune, half a run of probes": (1.5, lambda w: tuned(w, known, 0.5)),
        "tune, one run of probes": (2, lambda w: tuned(w, known)),
        "tune, two runs of probes": (3, lambda w: tuned(w, known, 2.0)),
        "tune, half a run of probes, the better of run and probes": (1.5, lambda w: tuned_or_probed(w, known, 0.5)),
        "tune, one run of probes, the better of run and probes": (2, lambda w: tuned_or_probed(w, known)),
        "tune, one run of probes, the better of run and probes, at least 0": (
            2,
            lambda w: tuned_or_probed(w, known, least=0.0),
        ),
        "tune, two runs of probes, the better of run and probes": (3, lambda w: tuned_or_probed(w, known, 2.0)),
        "tune and the list's first": (3, lambda w: min(tuned(w, known), best_of_list(w, 1))),
    }
    for schedule in SCHEDULES:
        found[f"range test, Lightning, {schedule}"] = (2, suggested("lightning", schedule))
        found[f"range test, fastai valley, {schedule}"] = (2, suggested("valley", schedule))
        found[f"range test, fastai steep, {schedule}"] = (2, suggested("steep", schedule))
    for runs in (2, 5, 10, 20, 30):
        found[f"random search, {runs} runs"] = (runs, mean(lambda w, i, m=runs: random_search(w, m, i)))
        found[f"TPE, {runs} runs"] = (runs, mean(lambda w, i, m=runs: tpe(w, m, i)))
    return found


def short_runs(folders: list[Path]) -> dict[str, pd.DataFrame]:
    """Short runs by task, of all folders together."""
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for frame in chain.from_iterable(Corpus(folder).frames("adamw") for folder in folders):
        parts[str(frame["task"].iloc[0])].append(frame)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("short", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("results/tune"))
    parser.add_argument("--cache", type=Path, default=Path("tune-extras"))
    parser.add_argument("--knowledge", default="adamw")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further range tests after so long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = restricted(load(args.knowledge))
    short = short_runs(args.short)
    full = [frame for frame in Corpus(args.corpus).frames("adamw") if str(frame["task"].iloc[0]) in short]
    found = [w for frame in full for w in worlds(frame, short[str(frame["task"].iloc[0])])]
    tasks = list(dict.fromkeys(w.task for w in found))
    extras: dict[str, dict] = {}
    deadline = time.monotonic() + args.seconds
    for name in tasks:
        own = [w for w in found if w.task == name]
        kept = extra(name, len(own), own[0].steps, args.cache, time.monotonic() > deadline)
        if kept is None:
            continue
        extras[name] = kept
        print(f"{len(extras)} of {len(tasks)}: {name}", flush=True)
    seeds = len(found) // len(tasks)
    rows, each = {}, {}
    for name, (cost, regret) in methods(known, extras).items():
        values = np.array([regret(w) for w in found]).reshape(len(tasks), seeds)
        there = np.isfinite(values).all(1)
        if not there.any():
            continue
        rows[name] = {"runs": cost, "tasks": int(there.sum())} | summary(values[there])
        each[name] = {
            task: round(float(v), 4) for task, v in zip(tasks, values.mean(1), strict=True) if math.isfinite(v)
        }
        r = rows[name]
        print(f"{name:50} {cost:5g}  {r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]  {r['median']:.3f}", flush=True)
    decided = [not searched(w, known).recommend().doubt for w in found]
    better = [tuned_or_probed(w, known) < tuned(w, known) for w in found]
    write_record(
        args.out / "tune.json", tasks=len(tasks), seeds=seeds, grid="20 rates from 1e-5 to 1 x constant, cosine",
        corpus_tasks=known.card.get("tasks"), knowledge=known.card.get("sha256"), capped_at=3.0, repeats=REPEATS,
        decided=float(np.mean(decided)), probe_better=float(np.mean(better)),
        regret=rows, regret_by_task=each,
    )  # fmt: skip
    (args.out / "tune.md").write_text(table(rows, len(tasks), seeds, known))


def table(rows: dict[str, dict], tasks: int, seeds: int, known: Knowledge) -> str:
    """The record for people."""
    lines = [
        f"# Regret of ways of tuning AdamW, {tasks} held-out tasks, {seeds} seeds", "",
        f"Knowledge from {known.card.get('tasks')} recorded tasks. Regret: log of the final validation loss over the",
        "best of 40 configurations, at most 3. Runs: full trainings, the one that is kept included.", "",
        "| | runs | tasks | mean regret | 95 % over tasks | median |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, r in sorted(rows.items(), key=lambda item: (item[1]["runs"], item[1]["mean"])):
        figures = f"{r['mean']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {r['median']:.3f}"
        lines.append(f"| {name} | {r['runs']:g} | {r['tasks']} | {figures} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
