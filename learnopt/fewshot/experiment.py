"""A table of learners on one problem: every learner and seed is fitted, measured and kept, so that it can go on."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from learnopt.atomic import write_bytes
from learnopt.fewshot.episode import EpisodeSource
from learnopt.fewshot.evaluation import Evaluation
from learnopt.fewshot.learner import Learner
from learnopt.fewshot.metric import Siamese
from learnopt.provenance import commit
from learnopt.task import seed_of


class Measured(Protocol):
    """What a row of the table is made from: a `Learner`, or a baseline that learns nothing."""

    def evaluate(self, tasks: EpisodeSource, count: int = ..., *, seed: int = ...) -> Evaluation: ...


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        make: the learner of a seed, called with torch's generator seeded.
        tests: tasks that it is measured on, by name.
        train: tasks that it is fitted on; None for what is not fitted.
        steps: inner steps to measure up to; None for learners without.
        shown: numbers of inner steps that go into the table.
        published: what the literature reports, in words.
    """

    name: str
    make: Callable[[int], Measured]
    tests: dict[str, EpisodeSource]
    train: EpisodeSource | None = None
    meta_steps: int = 0
    meta_batch: int = 4
    steps: int | None = None
    shown: tuple[int, ...] = ()
    published: str = ""


@dataclass(frozen=True)
class Experiment:
    """Entries to run with `seeds`, each measured on `tasks` tasks.

    Attributes:
        metric: "loss" or "accuracy".
        out: folder of results and checkpoints.
    """

    problem: str
    metric: str
    entries: list[Entry]
    out: Path
    seeds: int = 3
    tasks: int = 1000
    progress: bool = True
    listener: Callable[[str], None] = field(default=lambda text: None)

    def run(self) -> list[dict[str, Any]]:
        """Results of every entry and seed, in order; those already there are read, not made again."""
        return [self._cell(entry, seed) for seed in range(self.seeds) for entry in self.entries]

    def _cell(self, entry: Entry, seed: int) -> dict[str, Any]:
        key = f"{self.problem}-{entry.name}-{seed}"
        path = self.out / "cells" / f"{key}.json"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("fewshot", self.problem, seed))
            began = time.process_time()
            learner = None if path.exists() else entry.make(seed)
            prepared = time.process_time() - began
        if learner is None:
            return self._read(path, entry)
        if isinstance(learner, Learner) and entry.train is not None and entry.meta_steps:
            learner.fit(
                entry.train, entry.meta_steps, meta_batch=entry.meta_batch, seed=seed, progress=self.progress,
                out=self.out / "checkpoints" / key,
            )  # fmt: skip
            prepared += learner.cpu_seconds
        result = self._measure(learner, entry)
        cell = {"entry": entry.name, "seed": seed, **self._plan(entry), "cpu_seconds": round(prepared, 1), **result}
        cell["settings"] = learner.settings() if isinstance(learner, Learner) else {}
        cell["commit"] = commit()
        write_bytes(path, (json.dumps(cell) + "\n").encode())
        self.listener(f"{key}: done, {prepared / 60:.1f} CPU minutes")
        return cell

    def _measure(self, learner: Measured, entry: Entry) -> dict[str, Any]:
        tests, verified = {}, {}
        for name, source in entry.tests.items():
            told = {} if entry.steps is None else {"steps": entry.steps}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                tests[name] = learner.evaluate(source, self.tasks, **told).summary()
            for message in dict.fromkeys(str(w.message) for w in caught):
                self.listener(f"warning: {message}")
            if isinstance(learner, Siamese):
                verified[name] = learner.verify(source)
        return {"tests": tests, "verification": verified}

    def _plan(self, entry: Entry) -> dict[str, Any]:
        """What a stored result is a function of, beside the learner."""
        return {
            "meta_steps": entry.meta_steps, "meta_batch": entry.meta_batch, "tasks": self.tasks,
            "train": entry.train.describe() if entry.train else None,
            "test": {name: source.describe() for name, source in entry.tests.items()},
        }  # fmt: skip

    def _read(self, path: Path, entry: Entry) -> dict[str, Any]:
        cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for what, now in self._plan(entry).items():
            if cell.get(what) != now:
                raise ValueError(f"{path} was made with {what} {cell.get(what)!r}, not {now!r}; choose another --out")
        return cell


def grouped(cells: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Cells by entry, in the order in which they come."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(cell["entry"], []).append(cell)
    return groups
