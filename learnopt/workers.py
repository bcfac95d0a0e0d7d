"""Processes that run episodes; results do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from learnopt import interrupt, objective
from learnopt.episodes import EpisodeSpec, TaskSource, episode
from learnopt.estimators import Episode, Estimate, Estimator
from learnopt.meta_config import MetaTrainConfig
from learnopt.stop_train import Recorder, Recording
from learnopt.task import Task, seed_of
from learnopt.unroll import Problem, Telling, unroll

T = TypeVar("T")
_source: TaskSource | None = None
_device = "cpu"


def _start(source: TaskSource, device: str) -> None:
    """Set a worker up: one thread, no denormals, and an end when the main process has gone."""
    global _source, _device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    _source, _device = source, device
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _estimate(estimator: Estimator, theta: Tensor, spec: EpisodeSpec, carry: dict[str, Any] | None) -> Estimate:
    assert _source is not None
    return estimator.estimate(theta, episode(spec, _source, _device), carry)


def _validate(theta: Tensor, index: int, steps: int, seeds: int, kernel: bool = True) -> tuple[str, float]:
    assert _source is not None
    task = _source.validation()[index]
    return task.name, validation_loss(task, theta, min(steps, task.steps), seeds, _device, kernel=kernel)


def validation_loss(
    task: Task, theta: Tensor, steps: int, seeds: int, device: str = "cpu", *, kernel: bool = True
) -> float:
    """Mean meta-loss of unperturbed runs on one task; `device` and `kernel` as in `Problem`."""
    problem = Problem(task, [seed_of("valid", i) for i in range(seeds)], device=device, kernel=kernel)
    points = objective.valid_at(0, steps, steps)
    _, trajectory = unroll(problem, theta, problem.begin(), 0, steps, Telling(steps), valid_at=points)
    return float(objective.meta_loss(trajectory, trajectory.losses[0].median()).mean())


def _record(recorder: Recorder, spec: EpisodeSpec) -> Recording:
    assert _source is not None
    return recorder.record(episode(spec, _source, _device))


def _record_valid(recorder: Recorder, index: int, told: bool) -> Recording:
    assert _source is not None
    task = _source.validation()[index]
    return recorder.record(
        Episode(task, seed_of("valid", index, told), task.steps, Telling(task.steps * told), _device)
    )


class Pool:
    """A context manager around the worker processes.

    Args:
        source: handed to every worker.
        workers: number of processes.
        device: where their inner runs live; from `devices.choose`.
    """

    def __init__(self, source: TaskSource, workers: int, device: str = "cpu") -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.source = source
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(source, device))

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:  # nobody will read what they are working on
            for child in multiprocessing.active_children():
                child.terminate()

    def _submit(self, job: Callable[..., T], *arguments: Any) -> Future[T]:
        with interrupt.for_this_process_alone():  # it may start a worker
            return self._executor.submit(job, *arguments)

    def estimate(
        self, estimator: Estimator, theta: Tensor, specs: list[EpisodeSpec], carries: list[dict[str, Any] | None]
    ) -> list[Estimate]:
        """Run all jobs, the longest first; results in the order of `specs`."""
        order = sorted(range(len(specs)), key=lambda i: -specs[i].steps)
        futures: dict[int, Future[Estimate]] = {
            i: self._submit(_estimate, estimator, theta, specs[i], carries[i]) for i in order
        }
        return [futures[i].result() for i in range(len(specs))]

    def record(self, recorder: Recorder, specs: list[EpisodeSpec]) -> list[Future[Recording]]:
        """Start recording training episodes for the stop head."""
        return [self._submit(_record, recorder, spec) for spec in specs]

    def record_valid(self, recorder: Recorder) -> list[Future[Recording]]:
        """Start recording the validation suite, with the horizon told and untold."""
        count = len(self.source.validation())
        return [self._submit(_record_valid, recorder, i, told) for i in range(count) for told in (True, False)]

    def validate(self, theta: Tensor, config: MetaTrainConfig, seeds: int) -> dict[str, float]:
        """Meta-loss per task of the validation suite."""
        return dict(self._scores(theta, config, seeds, range(len(self.source.validation()))))

    def _scores(
        self, theta: Tensor, config: MetaTrainConfig, seeds: int, tasks: Iterable[int]
    ) -> list[tuple[str, float]]:
        futures = [self._submit(_validate, theta, i, config.valid_steps, seeds, config.kernel) for i in tasks]
        return [f.result() for f in futures]

    @property
    def leads(self) -> bool:
        """True for the process that writes files and speaks to people."""
        return True

    def agree(self, value: T) -> T:
        """What all processes of the run take for `value`."""
        return value

    def collect(self, carries: list[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
        """The carries of all episodes, wherever they are."""
        return carries
