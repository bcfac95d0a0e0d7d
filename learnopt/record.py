"""Record training runs: one task, one optimizer, every learning rate, schedule, weight decay and seed, all at once."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from learnopt.baselines import SCHEDULES, multiplier
from learnopt.batched_optimizers import RECIPES, Recipe
from learnopt.task import Batch, Task, seed_of
from learnopt.tuner import meta_features, probes
from learnopt.unroll import Problem

POINTS = 50
"""Evenly spaced validations of a full run, beside the one before the first step; shorter runs have `probes.POINTS`."""
MOST_NUMBERS = 40_000_000
"""Parameters that runs which advance together may have, all together; more are recorded in parts."""


class TooSlow(Exception):
    """A task would take longer than it was given."""


class NoMetric(Exception):
    """A task has nothing to be judged by but its loss."""


@dataclass(frozen=True)
class RecordPlan:
    """What is recorded of every task.

    Attributes:
        optimizers: names in `RECIPES`.
        seeds: initialisations and batch streams per configuration.
        most_steps: cap on a task's declared steps.
        most_seconds: a task that would take longer per optimizer is left out; 0: none is.
        rates: number of log-spaced learning rates over a recipe's range; 0: the recipe's own.
        decays: number of weight decays, torch's default first; 0: all of the recipe's.
        metric: whether runs are validated by their task's metric, negated where larger is better, not by its loss.
        schedules: names in `SCHEDULES`.
        fractions: lengths of the runs as shares of the task's steps. Below 1, only cosine schedules of torch's default
            decay are run, over their own length: a short run at a constant rate is the beginning of the long one.
    """

    optimizers: tuple[str, ...] = ("adamw", "sgd")
    seeds: int = 2
    most_steps: int = 1000
    most_seconds: float = 0.0
    rates: int = 0
    decays: int = 0
    metric: bool = False
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    fractions: tuple[float, ...] = (1.0,)

    def check(self) -> None:
        """Raise ValueError for what cannot be recorded."""
        unknown = [name for name in self.optimizers if name not in RECIPES]
        if unknown or not self.optimizers:
            raise ValueError(f"unknown optimizer {', '.join(unknown)!r}; choose from: {', '.join(RECIPES)}")
        for name in ("seeds", "most_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.most_seconds < math.inf:
            raise ValueError(f"most_seconds must be a finite number of at least 0, got {self.most_seconds}")
        if self.decays < 0:
            raise ValueError(f"decays must be at least 0, got {self.decays}")
        if self.rates < 0 or self.rates == 1:
            raise ValueError(f"rates must be 0 or at least 2, got {self.rates}")
        other = [name for name in self.schedules if name not in SCHEDULES]
        if other or not self.schedules:
            raise ValueError(f"unknown schedule {', '.join(other)!r}; choose from: {', '.join(SCHEDULES)}")
        for name in ("optimizers", "schedules", "fractions"):
            values = getattr(self, name)
            if twice := [value for i, value in enumerate(values) if value in values[:i]]:
                raise ValueError(f"{name} has {twice[0]!r} more than once")
        if not self.fractions or any(not 0 < f <= 1 for f in self.fractions):
            raise ValueError(f"fractions must be above 0 and at most 1, got {', '.join(map(str, self.fractions))}")
        if min(self.fractions) < 1 and "cosine" not in self.schedules:
            raise ValueError("fractions below 1 are of cosine schedules, which are not among the schedules")

    def grid(self, optimizer: str, fraction: float = 1.0) -> list[Configuration]:
        """All configurations of an optimizer's runs of that length, rates fastest."""
        recipe = RECIPES[optimizer]
        rates = recipe.rates if not self.rates else recipe.finer(self.rates)
        decays = recipe.decays[: (self.decays or None) if fraction == 1 else 1]
        schedules = self.schedules if fraction == 1 else ("cosine",)
        return [Configuration(*c) for c in itertools.product(decays, schedules, rates)]


class Configuration(NamedTuple):
    """Settings of an optimizer's run."""

    weight_decay: float
    schedule: str
    lr: float


def record(task: Task, optimizer: str, plan: RecordPlan) -> pd.DataFrame:
    """Runs of `task`, one row each.

    Columns: task, kind, datasets, optimizer, lr, schedule, weight_decay, seed, fraction (length over the task's),
    steps (the task's), batch_size, rows; valid_steps and valid (the validation loss after so many steps, from 0),
    train (mean training loss of the steps between two validations), as lists; `feature.NAME` for every meta-feature;
    with the plan's `metric` also metric, its name; of a task of a study also study, and `setting.NAME` for every
    setting. A loss that is not finite stays so.

    Raises:
        TooSlow: it would take longer than the plan allows.
        NoMetric: the plan asks for the metric, and the loss is all there is.
    """
    if plan.metric and task.metric_name == "loss":
        raise NoMetric(f"{task.name} has no metric beside its loss")
    steps = min(task.steps, plan.most_steps)
    features = task_features(task, steps)
    rows = [row for fraction in plan.fractions for row in _runs(task, optimizer, plan, fraction, steps)]
    fixed: dict[str, Any] = {
        "task": task.name, "kind": task.kind, "datasets": ",".join(sorted(task.datasets)), "optimizer": optimizer,
        "steps": steps, "batch_size": meta_features.rows_of(task.batch(0, 0)), "rows": training_rows(task),
    }  # fmt: skip
    if plan.metric:
        fixed["metric"] = task.metric_name
    if task.study:
        fixed |= {"study": task.study} | {f"setting.{name}": value for name, value in task.settings.items()}
    named: dict[str, Any] = {
        f"feature.{name}": value for name, value in zip(meta_features.NAMES, features, strict=True)
    }
    return pd.DataFrame(rows).assign(**fixed, **named)


def _runs(task: Task, optimizer: str, plan: RecordPlan, fraction: float, steps: int) -> list[dict[str, Any]]:
    """The runs of one length."""
    grid, length = plan.grid(optimizer, fraction), probes.steps_of(fraction, steps)
    size = max(1, sum(p.numel() for p in task.build(0).parameters()))
    share = max(1, MOST_NUMBERS // (size * plan.seeds))
    parts = [grid[i : i + share] for i in range(0, len(grid), share)]
    allowed = plan.most_seconds * fraction / sum(plan.fractions) / len(parts)
    at = probes.edges(length, POINTS if fraction == 1 else probes.POINTS)
    rows: list[dict[str, Any]] = []
    for part in parts:
        curves = train_all(task, RECIPES[optimizer], part, plan.seeds, length, allowed, plan.metric, at)
        for i, run in enumerate(itertools.product(part, range(plan.seeds))):
            configuration, seed = run
            curve = {
                "valid_steps": curves.at,
                "valid": curves.valid[:, i].tolist(),
                "train": curves.train[:, i].tolist(),
            }
            rows.append(configuration._asdict() | {"seed": seed, "fraction": fraction} | curve)
    return rows


class Curves(NamedTuple):
    """What runs went through."""

    at: list[int]  # steps done at each validation, from 0
    valid: Tensor  # (V, N)
    train: Tensor  # (V - 1, N): mean over the steps between two validations


def train_all(
    task: Task, recipe: Recipe, grid: list[Configuration], seeds: int, steps: int, most_seconds: float = 0.0,
    metric: bool = False, at: list[int] | None = None,
) -> Curves:  # fmt: skip
    """Train every configuration with every seed; run `i * seeds + s` is configuration `i` with seed `s`.

    Args:
        at: steps after which runs are validated, from 0 to `steps`; None: at `POINTS` evenly spaced ones.

    Raises:
        TooSlow: the first steps say that it would take longer than `most_seconds` (unless 0).
    """
    problem = set_up(task, seeds, len(grid), metric)
    each = [c for c in grid for _ in range(seeds)]
    params = [p.clone() for p in problem.start]
    optimizer = recipe.make(params, torch.tensor([c.weight_decay for c in each]))
    base = torch.tensor([c.lr for c in each])
    cosine = torch.tensor([c.schedule == "cosine" for c in each])
    at = probes.edges(steps, POINTS) if at is None else at
    watch = _Watch(steps, most_seconds, len(at))
    valid, sums, train = [problem.valid_losses(params)], torch.zeros(problem.n), []
    watch.validated()
    with torch.random.fork_rng(devices=[]):
        for t in range(steps):
            torch.manual_seed(seed_of("record", task.name, t))
            leaves = [p.detach().requires_grad_() for p in params]
            loss = problem.losses(leaves, problem.batch(t))
            grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            factors = torch.where(cosine, multiplier("cosine", t, steps), multiplier("constant", t, steps))
            optimizer.step(grads, base * factors)
            sums += loss.detach()
            watch.stepped(t)
            if t + 1 in at:
                train.append(sums / (t + 1 - at[len(valid) - 1]))
                valid.append(problem.valid_losses(params))
                sums = torch.zeros(problem.n)
    return Curves(at, torch.stack(valid), torch.stack(train))


def set_up(task: Task, seeds: int, copies: int, metric: bool = False) -> Problem:
    """The task for runs that advance together; BatchNorm keeps no running statistics, which runs would share: it
    validates on those of the validation batch.

    Args:
        metric: whether the validation loss is the metric, negated where larger is better.
    """
    from torch.func import replace_all_batch_norm_modules_

    class Plain(type(task)):  # type: ignore[misc]
        def build(self, seed: int) -> nn.Module:
            return replace_all_batch_norm_modules_(task.build(seed))

        def loss(self, model: nn.Module | Callable[..., Tensor], batch: Batch) -> Tensor:
            if not metric or getattr(model, "training", True):
                return task.loss(model, batch)
            return -task.metric(model, batch) if task.larger_is_better else task.metric(model, batch)

    plain = copy.copy(task)
    plain.__class__ = Plain
    return Problem(plain, list(range(seeds)), copies)


class _Watch:
    """Stops what would take too long."""

    def __init__(self, steps: int, most_seconds: float, validations: int) -> None:
        self._steps, self._most, self._validations = steps, most_seconds, validations
        self._start, self._validation = time.perf_counter(), 0.0

    def validated(self) -> None:
        now = time.perf_counter()
        self._validation, self._start = now - self._start, now

    def stepped(self, t: int) -> None:
        if t == 4 and self._most:
            expected = (time.perf_counter() - self._start) / 5 * self._steps + self._validations * self._validation
            if expected > self._most:
                raise TooSlow(f"{expected:.0f} seconds expected, {self._most:.0f} allowed")


def training_rows(task: Task) -> int:
    """Rows of the task's training split; 0 where it does not say."""
    rows: Batch | None = getattr(task, "train", None)
    if rows is None:
        inner = getattr(task, "inner", None)
        return training_rows(inner) if inner is not None else 0
    return meta_features.rows_of(rows)


def task_features(task: Task, steps: int) -> list[float]:
    """Meta-features of a task with its first initialisation and batches."""
    batches = [task.batch(0, t) for t in range(meta_features.BATCHES)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("features", task.name))
        return meta_features.meta_features(task.build(0), task.loss, batches, steps=steps, rows=training_rows(task))
