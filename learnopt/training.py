"""One training in a comparison: a task, an optimizer and a seed in, a `Run` out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learnopt import devices
from learnopt.baselines import Settings, Stepper, get
from learnopt.task import Batch, Task, seed_of

POINTS = 20
"""Evenly spaced validations of a run, beside the one before the first step."""

SAMPLES = 50
"""Readings of what the meta-network chose."""

SMOOTHED = 0.05
"""Share of the steps, at the end, that the final training loss is the mean of."""

DIVERGED = 10.0
"""A final training loss above this many initial ones is a divergence."""


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is a function of; a stored run is reused only if all of it is equal.

    Attributes:
        points: validations along the way; 0: at the end only, and no curve is kept (tuning trials).
        task_digest: of the task's initial weights and data.
        weights: name of the meta-weights, for learned optimizers.
        weights_digest: of their file and of the code of the rule.
        device: where model and batches live.
        rest: as in `Settings`.
    """

    task: str
    optimizer: str
    seed: int
    steps: int
    lr: float
    schedule: str
    points: int = POINTS
    task_digest: str = ""
    weights: str | None = None
    weights_digest: str | None = None
    device: str = "cpu"
    rest: float | None = None

    def entry(self) -> dict[str, Any]:
        """As stored: the CPU and one rate go without saying, as in runs from before there was a choice."""
        usual = (("device", "cpu"), ("rest", None))
        return {name: value for name, value in asdict(self).items() if (name, value) not in usual}


@dataclass
class Run:
    """A finished training. Losses that are not finite are None.

    Attributes:
        losses: training loss per step, before the step; seven digits.
        validation: rows `[steps done, loss, metric]`, the first at 0.
        train_final: mean training loss of the last 5 % of the steps.
        step_seconds: median wall-clock of forward, backward and step; `optimizer_seconds`: of the step alone.
        state_bytes: tensors that the optimizer keeps.
        observations: what the meta-network chose, along the way.
    """

    config: dict[str, Any]
    losses: list[float | None] = field(default_factory=list)
    validation: list[list[float | None]] = field(default_factory=list)
    train_initial: float | None = None
    train_final: float | None = None
    validation_final: float | None = None
    metric_final: float | None = None
    diverged: bool = False
    step_seconds: float = 0.0
    optimizer_seconds: float = 0.0
    seconds: float = 0.0
    state_bytes: int = 0
    observations: list[dict[str, Any]] = field(default_factory=list)


def train(task: Task, config: RunConfig) -> Run:
    """Train `task` as `config` says, on one thread or a GPU; a divergence ends the run and is recorded, not raised."""
    started = time.perf_counter()
    run = Run(config.entry())
    with one_thread(seed_of("train", task.name, config.seed), config.device):
        model = task.build(config.seed).to(config.device)
        baseline = get(config.optimizer)
        stepper = baseline.make(
            model, Settings(config.lr, config.schedule, config.rest), config.steps, config.weights or "default"
        )
        _train(task, config, model, stepper, run, observed=baseline.learned and config.points > 0)
    run.state_bytes = stepper.state_bytes()
    run.seconds = time.perf_counter() - started
    return run


def _train(task: Task, config: RunConfig, model: nn.Module, stepper: Stepper, run: Run, observed: bool) -> None:
    checks = set(np.linspace(0, config.steps, config.points + 1).round().astype(int)) if config.points else set()
    samples = set(np.linspace(0, config.steps - 1, SAMPLES).round().astype(int)) if observed else set()
    losses: list[float] = []
    spent: list[tuple[float, float]] = []
    if 0 in checks:
        run.validation.append([0, *_validate(task, config, model, stepper, 0)])
    for step in range(config.steps):
        value, seconds = _step(task, config, step, model, stepper)
        losses.append(value)
        spent.append(seconds)
        if not math.isfinite(value):
            break
        if step in samples and (seen := stepper.observe()) is not None:
            run.observations.append({"step": step + 1} | seen)
        if step + 1 in checks and step + 1 < config.steps:
            run.validation.append([step + 1, *_validate(task, config, model, stepper, step + 1)])
    whole, own = np.median(np.array(spent), axis=0)
    run.step_seconds, run.optimizer_seconds = float(whole), float(own)
    _finish(task, config, model, stepper, run, losses)


def _finish(task: Task, config: RunConfig, model: nn.Module, stepper: Stepper, run: Run, losses: list[float]) -> None:
    final = float(np.mean(losses[-tail(config.steps) :]))
    run.train_initial, run.train_final = _number(losses[0]), _number(final)
    if config.points:
        run.losses = [_number(loss, 7) for loss in losses]
    if len(losses) == config.steps and math.isfinite(final):
        run.validation_final, run.metric_final = _validate(task, config, model, stepper, config.steps)
        run.validation.append([config.steps, run.validation_final, run.metric_final])
    grown = final > losses[0] + (DIVERGED - 1) * abs(losses[0])
    run.diverged = run.validation_final is None or not math.isfinite(final) or grown


def tail(steps: int) -> int:
    """Steps that a smoothed loss is the mean of."""
    return max(1, round(SMOOTHED * steps))


def _step(
    task: Task, config: RunConfig, step: int, model: nn.Module, stepper: Stepper
) -> tuple[float, tuple[float, float]]:
    """The batch's loss before the step, and seconds of (the whole step, the optimizer alone)."""
    batch: Batch = devices.moved(task.batch(config.seed, step), config.device)
    model.train()
    start = _now(config.device)
    model.zero_grad(set_to_none=True)
    loss = task.loss(model, batch)
    value = _read(loss)
    if not math.isfinite(value):
        return value, (_now(config.device) - start, 0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    before = _now(config.device)
    stepper.step(loss.detach())
    end = _now(config.device)
    return value, (end - start, end - before)


def _now(device: str) -> float:
    """Seconds, once all that the device was given is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _read(x: Tensor) -> float:
    return float(devices.copy(x.detach(), "cpu"))


def _validate(
    task: Task, config: RunConfig, model: nn.Module, stepper: Stepper, done: int
) -> tuple[float | None, float | None]:
    """Validation loss and metric; a task's random draws in it are the same at every call."""
    with torch.no_grad(), stepper.validating(), devices.generators_kept(config.device):
        torch.manual_seed(seed_of("validation", task.name))
        if stepper.averages and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            _renew_statistics(task, config, model, done)
        model.eval()
        batch: Batch = devices.moved(task.validation(), config.device)
        result = _number(_read(task.loss(model, batch))), _number(_read(task.metric(model, batch)))
        model.train()
    return result


def _renew_statistics(task: Task, config: RunConfig, model: nn.Module, done: int) -> None:
    """BatchNorm's running statistics for averaged weights, as the Schedule-Free package asks for."""
    model.train()
    for step in range(max(0, done - 20), done):
        task.loss(model, devices.moved(task.batch(config.seed, step), config.device))


def _number(value: float, digits: int = 9) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


_GENERATOR = threading.RLock()
"""Torch's generator belongs to the process: under a backend with threads, runs take turns."""


@contextmanager
def one_thread(seed: int, device: str = "cpu") -> Iterator[None]:
    """One thread and seeded generators inside; everything as found outside."""
    with _GENERATOR:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with devices.generators_kept(device):
                torch.manual_seed(seed)
                yield
        finally:
            torch.set_num_threads(threads)
