"""What a comparison's worker processes execute: a whole search, or one run. Both find stored runs by themselves."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from learnopt.baselines import Settings, get
from learnopt.run_store import RunStore
from learnopt.task import Task
from learnopt.training import Run, RunConfig, one_thread, train
from learnopt.tuning import TUNING_SEED, Tuned, tune

Finished = list[tuple[RunConfig, Run]]


@dataclass(frozen=True)
class Probe:
    """What a comparison must know of a task before it starts."""

    digest: str
    step_seconds: float


def probe(task: Task) -> Probe:
    """Digest of initial weights, two batches, validation data and fingerprint, and a rough cost of a step."""
    with one_thread(0):
        model = task.build(0)
        digest = hashlib.sha256(f"{task.name}|{task.kind}|{task.metric_name}".encode())
        for tensor in [*model.state_dict().values(), *task.batch(0, 0), *task.batch(1, 7), *task.validation()]:
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        digest.update(task.fingerprint.encode())
        times = []
        for step in range(3):
            start = time.perf_counter()
            loss = task.loss(model, task.batch(0, step))
            loss.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - start)
    return Probe(digest.hexdigest()[:16], min(times))


@dataclass(frozen=True)
class Job:
    """A unit of work for one process.

    Attributes:
        config: of the run; for a search, of its trials, whose rate and schedule are put in.
        folder: where finished runs are.
        cost: estimated seconds, for the order.
        tuner: how to search; None for a single run.
    """

    task: Task
    config: RunConfig
    folder: Path
    cost: float
    tuner: str | None = None
    trials: int = 0
    owner: int = 0

    def __call__(self) -> tuple[RunConfig, Finished, Tuned | None]:
        """Do what is not stored yet, and store it."""
        finished: Finished = []
        stored = _Stored(self, finished)
        if self.tuner is None:
            stored(self.config)
            return self.config, finished, None
        found = tune(
            self.tuner,
            lambda settings: stored(self.trial(settings)),
            self.trials,
            get(self.config.optimizer).space,
            task=self.config.task,
            optimizer=self.config.optimizer,
            steps=self.config.steps,
        )
        return self.config, finished, found

    def trial(self, settings: Settings) -> RunConfig:
        """The run that judges `settings`."""
        config = replace(self.config, seed=TUNING_SEED, points=0)
        return replace(config, lr=settings.lr, schedule=settings.schedule, rest=settings.rest)


@cache
def _end_with(owner: int) -> None:
    """End this worker process, in mid-run or idle, soon after the comparison that started it has been killed."""

    def follow() -> None:
        while os.getppid() == owner:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class _Stored:
    """Trains a configuration unless its run is stored."""

    def __init__(self, job: Job, finished: Finished) -> None:
        self.job, self.finished, self.store = job, finished, RunStore(job.folder)
        if os.getppid() == job.owner:
            _end_with(job.owner)

    def __call__(self, config: RunConfig) -> Run:
        run = self.store.get(config)
        if run is None:
            run = train(self.job.task, config)
            self.store.put(config, run)
        self.finished.append((config, run))
        return run
