"""Pruners on studies replayed from recorded runs of held-out data: steps taken against studies whose best is kept.

    learnopt record corpus --tasks held_out --optimizers adamw --rates 20 --seeds 3  # and meta_valid
    python benchmarks/pruners.py corpus --out results/stopper
    learnopt record searches --tasks searches --count 96 --decays 1 --seeds 1 --most-steps 2500
    python benchmarks/pruners.py searches --out results/stopper --name pruners-searches-30 --trials 30

A study draws its trials from one task's recorded runs (learning rate, schedule, seed) at random, or from one search's
(network, batch size and optimizer as well), if the weights have not learned from its data; every pruner gets the same
trials in the same order. A trial reports its recorded validation losses and returns the best one. Two questions
are asked of a study: is the best value of all trials, pruned ones included, within 1 % of the best that the unpruned
study sees, and is the best completed trial's? Optuna's pruners run in Optuna, as does `LearnedPruner` at its default
threshold in the first study of 30 trials of every task ("in Optuna"); its other rows come from
`learnopt.stopping.studies`, whose decisions are the same, much faster. The clairvoyant knows how a trial at hand would
end, but not the later ones: what no pruner that lets leaders finish can do without. Intervals are 95 % bootstraps over
tasks. Writes the record `NAME.json`, and a picture of all records whose names differ by a number of trials at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import FloatDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)

from learnopt.integrations.optuna_pruner import LearnedPruner
from learnopt.provenance import write_record
from learnopt.stopping import calibrate, curves, peer_train, studies, weights
from learnopt.stopping.studies import Recorded, Trials

FIRST = 5
"""Trials whose compute is reported by itself."""
KEYS = ("near", "completed_near", "compute", f"compute_of_first_{FIRST}")


class Play(NamedTuple):
    """One study to be pruned."""

    task: Recorded
    trials: Trials
    values: np.ndarray  # (runs, T), as recorded


def classical(moments: int) -> dict[str, Callable[[], BasePruner]]:
    """Name to a maker."""
    halving = SuccessiveHalvingPruner
    return {
        "median": MedianPruner,
        "median, no start-up": partial(MedianPruner, n_startup_trials=1),
        "median, warm-up of 10": partial(MedianPruner, n_warmup_steps=10),
        "median, warm-up of 25": partial(MedianPruner, n_warmup_steps=25),
        "percentile 75": partial(PercentilePruner, 75.0),
        "percentile 25": partial(PercentilePruner, 25.0),
        "successive halving": halving,
        "successive halving, factor 2": partial(halving, reduction_factor=2),
        "successive halving from 5": partial(halving, min_resource=5, reduction_factor=2),
        "hyperband": partial(HyperbandPruner, min_resource=1, max_resource=moments),
        "hyperband, factor 2": partial(HyperbandPruner, min_resource=5, max_resource=moments, reduction_factor=2),
        "patient (3) median": partial(PatientPruner, MedianPruner(), patience=3),
        "patient (1) median": partial(PatientPruner, MedianPruner(), patience=1),
    }


def replay(play: Play, pruner: BasePruner) -> list[int]:
    """Moments at which the trials end, in Optuna."""
    study = optuna.create_study(pruner=pruner, study_name=f"replay-{id(play)}")
    best, ends = play.task.best, []
    space = {f"setting {i}": FloatDistribution(0.0, 1.0) for i in range(play.trials.settings.shape[1])}
    for run, place in zip(play.trials.runs, play.trials.settings, strict=True):
        study.enqueue_trial(dict(zip(space, place.tolist(), strict=True)))
        trial = study.ask(space)
        pruned = False
        for t, value in enumerate(play.values[run]):
            trial.report(float(value), t + 1)
            if t + 1 < len(play.values[run]) and (not math.isfinite(best[run, t]) or trial.should_prune()):
                pruned = True
                break
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, float(best[run, t]))
        ends.append(t)
    return ends


def learned(play: Play, loaded: weights.Loaded, threshold: float, told: bool) -> list[int]:
    """The same of `LearnedPruner`, without Optuna."""
    trials = play.trials if told else play.trials._replace(settings=None)
    return studies.simulate(loaded.curve, play.task, trials, peer_train.scores(loaded.peer), threshold).ends


def interval(values: np.ndarray) -> list[float]:
    """95 % interval of the mean over tasks, `values` of shape `(tasks, ...)`."""
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    means = values.reshape(len(values), -1).mean(1)[picks].mean(1)
    return [round(float(q), 4) for q in np.quantile(means, (0.025, 0.975))]


def row(trials: int, name: str, plays: list[list[Play]], rule: Callable[[Play], list[int]]) -> dict:
    """One line of the table: means over tasks and studies."""
    started, table = time.perf_counter(), []
    for of_task in plays:
        each = []
        for play in of_task:
            ends = rule(play)
            found = studies.result(play.task, play.trials, ends)
            first = float(np.mean([e + 1 for e in ends[:FIRST]])) / play.task.best.shape[1]
            each.append((found.near, found.completed_near, found.compute, first))
        table.append(each)
    values = np.array(table, dtype=float)
    line: dict = {"trials": trials, "pruner": name, "studies": int(np.prod(values.shape[:2])),
                  "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip
    for k, key in enumerate(KEYS):
        line |= {key: round(float(values[..., k].mean()), 4), f"{key}_interval": interval(values[..., k])}
    print(f"{trials:4} {name:40}", "  ".join(f"{key} {line[key]:.1%}" for key in KEYS), flush=True)
    return line


def rows(
    count: int, plays: list[list[Play]], loaded: weights.Loaded, chosen: str, thresholds: list[float], optuna_too: bool
) -> list[dict]:
    """All pruners on the studies of one size."""
    moments, default = plays[0][0].task.best.shape[1], loaded.card["pruning_threshold"]
    table = [
        row(count, name, plays, lambda play, make=make: replay(play, make()))
        for name, make in classical(moments).items()
    ]
    rules = [(t, True) for t in sorted({*thresholds, default})] + [(t, False) for t in (default, max(thresholds))]
    for threshold, told in rules:
        name = f"learned, {threshold:g}{' (default)' if threshold == default else ''}"
        rule = partial(learned, loaded=loaded, threshold=threshold, told=told)
        table.append(row(count, name if told else f"{name}, parameters not told", plays, rule))
    if optuna_too:
        first = [of_task[:1] for of_task in plays]
        table.append(row(count, "learned, in Optuna", first, lambda play: replay(play, LearnedPruner(weights=chosen))))
        table.append(row(count, "learned, the same studies", first,
                         partial(learned, loaded=loaded, threshold=default, told=True)))  # fmt: skip
    table.append(row(count, "clairvoyant", plays, lambda play: studies.clairvoyant(play.task, play.trials)))
    return table


def name(axes: Axes, rows: list[dict]) -> None:
    """Names beside their points, from the top down, each below those that it would cover."""
    taken: list[tuple[float, float]] = []
    for r in sorted(rows, key=lambda r: -r["near"]):
        at, left = (r["compute"], 100 * r["near"]), r["compute"] <= 0.6
        x, y = axes.transData.transform(at)
        while any(abs(x - other) < 130 and abs(y - below) < 9 for other, below in taken):
            y -= 3
        taken.append((x, y))
        place = axes.transData.inverted().transform((x + (5 if left else -5), y))
        axes.annotate(r["pruner"], at, place, fontsize=6, ha="left" if left else "right", va="center").set_in_layout(
            False
        )


def draw(table: list[dict], path: Path) -> None:
    """Steps taken against studies kept, one panel for every number of trials."""
    counts = sorted({r["trials"] for r in table})
    figure = Figure(figsize=(5.5 * len(counts), 4.3), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts, strict=True):
        mine = [r for r in table if r["trials"] == count]
        others = [r for r in mine if "learned" not in r["pruner"]]
        for r in others:
            mark, colour = ("*", "tab:red") if r["pruner"] == "clairvoyant" else ("o", "tab:gray")
            axes.plot(r["compute"], 100 * r["near"], mark, color=colour, ms=9 if mark == "*" else 4)
        for untold, style in ((False, "o-"), (True, "s--")):
            line = [r for r in mine if r["pruner"].startswith("learned, 0")
                    and r["pruner"].endswith("not told") == untold]  # fmt: skip
            axes.plot([r["compute"] for r in line], [100 * r["near"] for r in line], style, ms=3, color="tab:blue",
                      label="learned" + (", parameters not told" if untold else ""))  # fmt: skip
        axes.plot(0.2, 95, "x", color="black", label="the goal")
        axes.set(xlabel="share of the steps taken", ylabel="studies within 1 % of unpruned, %", title=f"{count} trials")
        axes.legend(fontsize=7, loc="lower right")
    figure.draw_without_rendering()  # lays the panels out
    for axes, count in zip(figure.axes, counts, strict=True):
        name(axes, [r for r in table if r["trials"] == count and "learned" not in r["pruner"]])
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--out", type=Path, default=Path("results/stopper"))
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 120])
    parser.add_argument("--tasks", type=int, help="so many tasks, drawn at random; all without")
    parser.add_argument("--name", default="pruners", help="of the record")
    parser.add_argument("--seeds", type=int, default=3, help="studies per task")
    parser.add_argument("--thresholds", type=float, nargs="*", default=list(calibrate.PRUNING))
    a = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    loaded, runs = weights.load(a.weights), curves.read(a.corpus)
    known = set(loaded.card["datasets"])
    fresh = [i for i in runs.numbers if not known & set(runs.datasets[i].split(","))]
    print(f"{len(fresh)} of {len(runs.numbers)} tasks are on data that the pruner has not learned from", flush=True)
    drawn = sorted(np.random.default_rng(0).permutation(fresh)[: a.tasks].tolist())
    tasks = studies.recorded(loaded.curve, runs.of(torch.isin(runs.task, torch.tensor(drawn))))
    values = [runs.values[runs.task == i][:, 1:].numpy() for i in drawn]
    lines = []
    for count in a.trials:
        plays = [
            [Play(task, studies.draw(task, count, np.random.default_rng([i, s])), table) for s in range(a.seeds)]
            for i, task, table in zip(drawn, tasks, values, strict=True)
        ]
        lines += rows(count, plays, loaded, a.weights, a.thresholds, count <= 30)
    path = write_record(
        a.out / f"{a.name}.json", optuna=optuna.__version__, weights=loaded.card["sha256"], seeds=a.seeds,
        tasks=[runs.tasks[i] for i in drawn], rows=lines,
    )  # fmt: skip
    stem = a.name.rstrip("-0123456789")  # records of other numbers of trials share a picture
    names = [p for p in sorted(a.out.glob(f"{stem}*.json")) if p.stem.rstrip("-0123456789") == stem]
    draw([r for p in names for r in json.loads(p.read_text())["rows"]], a.out / f"{stem}.png")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
