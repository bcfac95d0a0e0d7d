"""Studies simulated from recorded runs: trials drawn from one task's, each pruned where a policy says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learnopt.stopping import neighbours, peer_features, peer_network, train
from learnopt.stopping.curve_features import CurveState
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.neighbours import Neighbours
from learnopt.stopping.peer_features import Peers

NEAR = 0.01
"""A study is as good as unpruned if its best value is within this share of the unpruned one's."""

Policy = Callable[[Tensor], Tensor]
"""From inputs `(T, INPUTS)` to a score `(T,)`, low where a trial is not worth its remaining steps."""


class Recorded(NamedTuple):
    """The runs of one task, read by the curve network once."""

    best: Tensor  # (N, T), inf where nothing finite has been seen
    known: Tensor  # (N, T, ...)
    states: CurveState  # fields (N, T, ...)
    horizon: float
    settings: Tensor  # (N, S): every run's parameters, each from 0 to 1


class Trials(NamedTuple):
    """The trials of one study, in their order."""

    runs: list[int]  # numbers of the task's runs
    settings: Tensor | None  # (n, S): their parameters, None: not told


class Study(NamedTuple):
    """What became of it."""

    ends: list[int]  # moment at which each trial ended
    lessons: list[Lesson]


class Lesson(NamedTuple):
    """One trial, to its last moment whether it was pruned or not."""

    number: int  # of the trial in its study
    inputs: Tensor  # (T, INPUTS)
    leads: Tensor  # (T,): ahead of all earlier trials, or foremost at the same moment: not to be pruned
    wins: Tensor  # (T,): it will beat them from here by peer_features.MARGIN


class Result(NamedTuple):
    """What a study found and cost."""

    compute: float  # share of the steps taken
    near: bool  # the best value of any trial is within NEAR of the unpruned one's
    completed_near: bool  # the best value of completed trials is


@torch.no_grad()
def recorded(curve: CurveNetwork, curves: Curves) -> list[Recorded]:
    """Every task's runs as trials, without the value before the first step."""
    tasks = []
    for i in curves.numbers:
        runs = curves.of(curves.task == i)
        width = int(runs.length.min())
        values, steps = runs.values[:, 1:width], runs.steps[:, 1:width]
        seen = train.look(values, steps, torch.ones(len(values), dtype=torch.bool))
        known, _ = curve.read(seen.columns)
        states = CurveState(*(torch.stack(parts, 1) for parts in zip(*seen.states, strict=True)))
        low, high = runs.settings.amin(0), runs.settings.amax(0)
        settings = (runs.settings - low) / (high - low).clamp_min(1e-9)
        best = values.nan_to_num(torch.inf).cummin(1).values
        tasks.append(Recorded(best, known, states, float(steps[0, -1]), settings))
    return tasks


def draw(task: Recorded, trials: int, random: np.random.Generator, varied: bool = False) -> Trials:
    """Trials in random order.

    Args:
        varied: whether the parameters are sometimes withheld, and mixed with ones that change nothing.
    """
    runs = random.permutation(len(task.best))[:trials].tolist()
    settings = task.settings[runs]
    if varied:
        idle = torch.from_numpy(random.random((len(runs), int(random.integers(4))))) * random.random() ** 0.5
        settings = torch.cat([settings, idle], 1)
    return Trials(runs, None if varied and random.random() < 0.15 else settings)


def peers_of(task: Recorded, runs: list[int], ends: list[int]) -> Peers:
    """Finished trials, each known up to its moment number `ends`."""
    t, last = torch.arange(task.best.shape[1]), torch.tensor(ends)
    best = task.best[runs].clamp_max(1e300)
    at = best.gather(1, torch.minimum(t, last[:, None]))
    return Peers(at, t <= last[:, None], best.gather(1, last[:, None])[:, 0], last == len(t) - 1)


def lesson(curve: CurveNetwork, task: Recorded, trials: Trials, ends: list[int]) -> Lesson:
    """Trial number `len(ends)`, after earlier ones that ended at `ends`."""
    k = len(ends)
    kept = [i for i in range(k) if torch.isfinite(task.best[trials.runs[i], ends[i]])]
    run, peers = trials.runs[k], peers_of(task, [trials.runs[i] for i in kept], [ends[i] for i in kept])
    near = None
    if trials.settings is not None:
        before = trials.settings[kept]
        trust = neighbours.reliability(torch.cdist(before, before), peers.final)
        near = Neighbours((before - trials.settings[k]).norm(dim=1), trust)
    state = CurveState(*(field[run] for field in task.states))
    own = task.best[run]
    x = peer_network.inputs(curve, task.known[run], state, peers, near, task.horizon)
    leads = (own <= peers.final.min()) | peer_features.ahead(own, peers)
    return Lesson(k, x, leads, (own - own[-1]) > peer_features.amounts(own, peers))


def simulate(
    curve: CurveNetwork, task: Recorded, trials: Trials, policy: Policy, threshold: float, keep: bool = False
) -> Study:
    """Run trials one after the other; one that does not lead is pruned where its score falls below `threshold`.

    Args:
        keep: whether there shall be lessons.
    """
    width = task.best.shape[1]
    ends: list[int] = []
    lessons: list[Lesson] = []
    for run in trials.runs:
        if not torch.isfinite(task.best[run, 0]):
            ends.append(0)
            continue
        if width - 1 not in ends:  # nothing to compare with
            ends.append(width - 1)
            continue
        now = lesson(curve, task, trials, ends)
        stop = ~now.leads & (policy(now.inputs) < threshold)
        stop[-1] = True
        ends.append(int(stop.long().argmax()))
        if keep:
            lessons.append(now)
    return Study(ends, lessons)


def lessons(curve: CurveNetwork, task: Recorded, trials: Trials, ends: list[int]) -> list[Lesson]:
    """The lessons of a study whose trials ended at `ends`, once more."""
    whole = task.best.shape[1] - 1
    start = ends.index(whole) + 1 if whole in ends else len(ends)
    numbers = [k for k in range(start, len(ends)) if torch.isfinite(task.best[trials.runs[k], 0])]
    return [lesson(curve, task, trials, ends[:k]) for k in numbers]


def result(task: Recorded, trials: Trials, ends: list[int]) -> Result:
    """What a study that ended so found and cost."""
    width = task.best.shape[1]
    full = float(task.best[trials.runs, -1].min())
    bound = full + NEAR * abs(full)
    reached = [float(task.best[j, k]) for j, k in zip(trials.runs, ends, strict=True)]
    whole = [b for b, k in zip(reached, ends, strict=True) if k == width - 1]
    compute = sum(k + 1 for k in ends) / width / len(ends)
    return Result(compute, min(reached) <= bound, min(whole, default=float("inf")) <= bound)


def clairvoyant(task: Recorded, trials: Trials) -> list[int]:
    """Ends of trials pruned by one who knows how each would end, though not the later ones: the least there is.

    A trial that would beat all earlier ones is run to its end, since Optuna counts no pruned trial; any other is pruned
    at its first value.
    """
    best, last, ends = float("inf"), task.best.shape[1] - 1, []
    for run in trials.runs:
        final = float(task.best[run, -1])
        ends.append(last if final < best else 0)
        best = min(best, final)
    return ends
