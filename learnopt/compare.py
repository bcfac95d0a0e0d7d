"""A comparison: the grid of tasks, optimizers and seeds, run in parallel, resumed where it was interrupted."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import joblib

from learnopt import artifact, interrupt
from learnopt.baselines import REGISTRY, Baseline, Settings, get
from learnopt.figures import Runs
from learnopt.jobs import Finished, Job, Probe, probe
from learnopt.kernels import library
from learnopt.locking import locked
from learnopt.run_store import RunStore
from learnopt.task import Task
from learnopt.training import POINTS, Run, RunConfig
from learnopt.tuning import TUNERS, Tuned, trials_of

Listener = Callable[[float, float], None]
"""Called with (work done, all work), in estimated seconds."""

_ARITHMETIC = (
    "averaged_weights.py", "baselines/base.py", "baselines/learned.py", "course.py", "equalise.py", "evidence.py",
    "features.py", "inner_step.py", "intake.py", "kernels/fused.py", "kernels/fused_guard.py", "kernels/fused_step.py",
    "kernels/in_place.py", "kernels/library.py", "layout.py", "memory.py", "meta_network.py", "optimizer.py",
    "orthogonal.py", "quick_step.py", "rule.py", "run_state.py", "spread.py", "stop_head.py",
    *(f"kernels/{name}" for name in library.SOURCES + library.HEADERS),
)  # fmt: skip
"""Sources that decide what the learned optimizer does."""


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        steps: of every run; None: what each task declares.
        trials: of a TPE search per task and tuned optimizer.
        tuner: a name in `TUNERS`.
        weights: name or path of the meta-weights.
        device: where the runs live, as `devices.choose` gives it.
    """

    tasks: Sequence[Task]
    optimizers: Sequence[str]
    seeds: int = 3
    steps: int | None = None
    trials: int = 20
    tuner: str = "optuna"
    weights: str = "default"
    device: str = "cpu"

    def check(self) -> None:
        """Raise ValueError, in one line with the value and the choices, for anything that cannot be run."""
        for name, value in (("seeds", self.seeds), ("steps", self.steps), ("trials", self.trials)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be 1 or more, got {value}")
        if self.tuner not in TUNERS:
            raise ValueError(f"unknown tuner {self.tuner!r}; choose from: {', '.join(TUNERS)}")
        if not self.optimizers:
            raise ValueError(f"no optimizers given; choose from: {', '.join(REGISTRY)}")
        for name in self.optimizers:
            get(name)
        reasons = [get(name).missing() for name in self.optimizers]
        if all(reasons):
            raise ValueError("; ".join(reason for reason in reasons if reason))
        if not self.tasks:
            raise ValueError("no tasks to compare on")
        for what, names in (("optimizer", list(self.optimizers)), ("task", [task.name for task in self.tasks])):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} {twice[0]!r} is given more than once")
        if any(get(name).learned for name in self.optimizers):
            artifact.load(self.weights)


@dataclass
class Comparison:
    """A finished grid.

    Attributes:
        runs: by task and optimizer, in the order of the seeds.
        tuned: by task and optimizer, what the search found and cost.
        skipped: why optimizers that were asked for did not take part.
        weights: name, path and digest of the meta-weights, where they took part.
    """

    plan: Plan
    optimizers: list[str]
    runs: Runs = field(default_factory=dict)
    tuned: dict[tuple[str, str], Tuned] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    weights: dict[str, Any] | None = None


def default_optimizers(full: bool) -> list[str]:
    """Who takes part when nobody is named: all but variants; the slow ones only in the full comparison."""
    return [name for name, baseline in REGISTRY.items() if not baseline.variant and (full or not baseline.slow)]


def compare(plan: Plan, folder: Path, workers: int | None = None, listener: Listener | None = None) -> Comparison:
    """Run the grid, reusing what is stored under `folder`.

    Args:
        folder: finished runs are kept in its folder `runs`.
        workers: processes; None: as `joblib.parallel_config` says, whose Dask or Ray backend spreads the work.

    Raises:
        ValueError: for a plan that cannot be run, before any work is done.
    """
    plan.check()
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {workers}")
    with locked(writable(folder)):
        store = RunStore(folder / "runs")
        store.clean()
        return _Grid(plan, store, workers).run(listener or (lambda done, total: None))


def writable(folder: Path) -> Path:
    """Make `folder` and its folder of runs.

    Raises:
        ValueError: nothing can be written there.
    """
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        trial = folder / "runs" / f".{os.getpid()}.tmp"
        trial.write_text("")
        trial.unlink(missing_ok=True)  # another process may just be tidying up
    except OSError as error:
        raise ValueError(f"cannot write to --out {str(folder)!r}: {error.strerror}") from error
    return folder


def weights_entry(name: str) -> dict[str, Any]:
    """Name, path and digest of meta-weights; the digest covers the code of the rule as well as the numbers."""
    loaded = artifact.load(name)
    digest = hashlib.sha256(loaded.digest.encode())
    for source in _ARITHMETIC:
        digest.update((Path(__file__).parent / source).read_bytes())
    return {
        "name": name,
        "file": loaded.path.name,
        "sha256": loaded.digest,
        "digest": digest.hexdigest()[:16],
    }


class _Grid:
    """The work of one comparison: searches and untuned runs first, then the runs of what was found."""

    def __init__(self, plan: Plan, store: RunStore, workers: int | None) -> None:
        self.plan, self.store, self.workers = plan, store, workers
        missing = {name: reason for name in plan.optimizers if (reason := get(name).missing())}
        self.result = Comparison(plan, [n for n in plan.optimizers if n not in missing], skipped=list(missing.values()))
        self.baselines = [get(name) for name in self.result.optimizers]
        if any(baseline.learned for baseline in self.baselines):
            self.result.weights = weights_entry(plan.weights)
        self.tasks = {task.name: task for task in plan.tasks}
        self.probes: dict[str, Probe] = {task.name: probe(task) for task in plan.tasks}

    def run(self, listener: Listener) -> Comparison:
        found: dict[RunConfig, Run] = {}
        total = sum(self._cost(t) * self._units(b) for t in self.tasks for b in self.baselines)
        with _reporting(self.store, {name: self._cost(name) for name in self.tasks}, total, listener):
            first = [job for t in self.tasks for b in self.baselines for job in self._first_jobs(t, b)]
            self._execute(first, found)
            tuned = [
                self._job(self._evaluation(task, get(name), seed, search.settings))
                for (task, name), search in self.result.tuned.items()
                for seed in range(self.plan.seeds)
            ]
            self._execute(tuned, found)
        # in the plan's order, not in that of finishing
        self.result.tuned = {key: self.result.tuned[key] for key in self._pairs() if key in self.result.tuned}
        for task in self.tasks:
            for baseline in self.baselines:
                settings = baseline.settings or self.result.tuned[task, baseline.name].settings
                configs = [self._evaluation(task, baseline, seed, settings) for seed in range(self.plan.seeds)]
                self.result.runs[task, baseline.name] = [found[config] for config in configs]
        return self.result

    def _pairs(self) -> list[tuple[str, str]]:
        return [(task, baseline.name) for task in self.tasks for baseline in self.baselines]

    def _first_jobs(self, task: str, baseline: Baseline) -> Iterator[Job]:
        if baseline.settings is not None:
            for seed in range(self.plan.seeds):
                yield self._job(self._evaluation(task, baseline, seed, baseline.settings))
            return
        trials = trials_of(self.plan.tuner, self.plan.trials, baseline.space)
        job = self._job(self._evaluation(task, baseline, 0, Settings(0.0)))
        yield replace(job, tuner=self.plan.tuner, trials=trials, cost=job.cost * trials)

    def _job(self, config: RunConfig) -> Job:
        return Job(self.tasks[config.task], config, self.store.folder, self._cost(config.task), owner=os.getpid())

    def _evaluation(self, task: str, baseline: Baseline, seed: int, settings: Settings) -> RunConfig:
        weights = self.result.weights if baseline.learned else None
        return RunConfig(
            task, baseline.name, seed, self._steps(task), settings.lr, settings.schedule, POINTS,
            self.probes[task].digest, self.plan.weights if weights else None, weights["digest"] if weights else None,
            self.plan.device, settings.rest,
        )  # fmt: skip

    def _execute(self, jobs: list[Job], found: dict[RunConfig, Run]) -> None:
        jobs.sort(key=lambda job: -job.cost)
        grid = joblib.Parallel(n_jobs=self.workers, return_as="generator_unordered", batch_size=1)
        with grid as parallel:  # which ends the workers where it is left by an interrupt
            with interrupt.for_this_process_alone():
                outcomes = parallel(joblib.delayed(_call)(job) for job in jobs)
            for config, finished, tuned in outcomes:
                self._take(config, finished, tuned, found)

    def _take(self, config: RunConfig, finished: Finished, tuned: Tuned | None, found: dict[RunConfig, Run]) -> None:
        for run_config, run in finished:
            # a worker elsewhere wrote to a disk of its own
            if not self.store.path(run_config).exists():
                self.store.put(run_config, run)
            found[run_config] = run
        if tuned is not None:
            self.result.tuned[config.task, config.optimizer] = tuned

    def _steps(self, task: str) -> int:
        return self.plan.steps or self.tasks[task].steps

    def _cost(self, task: str) -> float:
        return self.probes[task].step_seconds * self._steps(task)

    def _units(self, baseline: Baseline) -> int:
        searched = trials_of(self.plan.tuner, self.plan.trials, baseline.space) if baseline.tuned else 0
        return self.plan.seeds + searched


def _call(job: Job) -> Any:
    return job()


@contextmanager
def _reporting(store: RunStore, costs: dict[str, float], total: float, listener: Listener) -> Iterator[None]:
    """Tell the listener how much is stored, twice a second: workers report through the files they finish."""
    over = threading.Event()

    def done() -> float:
        # runs of an earlier, different plan in the same folder may count too
        return min(total, math.fsum(costs.get(task, 0.0) * n for task, n in store.count().items()))

    def watch() -> None:
        while not over.wait(0.5):
            listener(done(), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        listener(total, total)
    finally:
        over.set()
        thread.join()
